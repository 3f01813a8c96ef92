"""The data module of every run: demonstrations first, then episodes that the policy collects."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from moto_pl import signals
from moto_pl.agents.metrics import EpisodeMetrics
from moto_pl.envs import task_objects
from moto_pl.envs.checks import EpisodeLimit
from moto_pl.errors import SettingError
from moto_pl.nn.image import IMAGE_SIZE
from moto_pl.ops import Key
from moto_pl.replay import DeviceMirror, EpisodeSet, EpisodeStore, SequenceBatch, SequenceSampler
from moto_pl.replay.episode import Episode
from moto_pl.replay.parts import Batch, BatchPart
from moto_pl.rollout.background import Collector, Job
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import EVALUATION_SEEDS, TEST_SEEDS, Rolled, roll_episodes, roll_on, training_seed
from moto_pl.schedule import Pretrain, Schedule
from moto_pl.threads import share_cores
from moto_pl.training.ingest import HELD_OUT, ingest, ingested, longest_demonstration
from moto_pl.training.loaders import HeldOut, RoundLoader
from moto_pl.training.views import Views, fitted_parts

if TYPE_CHECKING:
    from moto_pl.agents.base import Agent

_COLLECT, _EVALUATE = 0xC011, 0xE7A1


class OfflineToOnlineDataModule(L.LightningDataModule):
    """Streams sequences of demonstrations, then of demonstrations and collected episodes.

    An epoch is a round (:class:`~moto_pl.schedule.Schedule`): each online round begins with one episode of the
    current policy in each environment, and then takes ``updates_per_episode`` gradient steps for each. Batches are a
    pure function of seed, step and the episodes known, so a resumed run sees the batches of the unbroken one.

    Args:
        env: gymnasium id of an environment with pixel observations.
        dataset: Minari dataset (id or directory) of demonstrations; null trains online from scratch.
        build_missing: make the dataset with ``moto data build`` where it is absent and can be built.
        build_options: what ``moto data build`` takes besides, such as ``noise`` or ``output``.
        env_options: keyword arguments of the environment.
        pretrain: ``joint`` trains world model, actor and critics at each offline step. ``model_first`` trains the world
            model alone for ``model_steps``, then actor and critics alone, on the model as it then stands, for
            ``offline_steps``; it is for agents with a world model. Online steps train everything.
        model_steps: gradient steps on the demonstrations that train the world model alone; 0 with ``joint``.
        offline_steps: gradient steps on the demonstrations (``model_first``: those of actor and critics).
        online_steps: gradient steps while collecting.
        offline_round_steps: gradient steps of an offline round.
        updates_per_episode: gradient steps for each collected episode, over all environments and processes: a round
            that collects four episodes takes four times as many.
        num_envs: environments that collect side by side, each one episode a round, over all training processes, which
            share them out.
        env_workers: processes of each training process that run environments; 0 runs one environment in it.
        worker_timeout_s: seconds after which an environment that does not answer is replaced.
        max_episode_steps: an episode that has not ended by then is cut off, as truncated, with a warning. null: the
            environment's own limit; where it has none, four times the longest demonstration (10,000 without one).
        collect_mode: collect with samples of the policy (the paper's protocol), or with its mode, which is what is
            evaluated; give the mode some ``exploration_noise``.
        exploration_noise: std of Gaussian noise on collected actions; of two numbers, each episode draws its own std
            between them, so that the policy also learns from what it does undisturbed.
        collect: ``alternate`` collects, then learns, as the paper does. ``overlap`` collects the next round's episodes
            in a process of its own while this round's steps are taken, with the policy as it was before them.
        exchange: how processes learn from each other's episodes. ``shared``: through the run's directory, which all of
            them see. ``broadcast``: over the network, into a directory of the same name on each machine's own disk.
        online_fraction: share of each batch from collected episodes; null is uniform over all episodes.
        eval_episodes: evaluation episodes, on seeds that are never trained on.
        eval_every: gradient steps between evaluations; they also stand at the end of each phase. 0: only there.
        value_steps: steps that evaluation episodes go on after a time limit, which is no end of the task, to see what
            critics' values are worth (``eval/value_bias``, ``eval/value_correlation``). Where they do not, the figures
            end in ``_cut``: rewards that count were not waited for.
        value_every: evaluations between those that go on; those at the ends of phases always do.
        test_episodes: episodes of ``moto test``, on seeds of their own.
        val_episodes: demonstrations held out for model losses.
        residency: where frames lie: ``device``, ``host``, or ``auto``.
        replay_limit_gb: largest size of the replay on disk; null sets none.
        prefetch: batches made ahead of need.
        seed: keys sampling, environment seeds and exploration.
    """

    store: EpisodeStore  # there from setup("fit") on
    held_out: EpisodeStore
    trainer: L.Trainer

    def __init__(
        self,
        env: str,
        dataset: str | None = None,
        build_missing: bool = False,
        build_options: dict[str, Any] | None = None,
        env_options: dict[str, Any] | None = None,
        pretrain: Pretrain = "joint",
        model_steps: int = 0,
        offline_steps: int = 1000,
        online_steps: int = 20_000,
        offline_round_steps: int = 100,
        updates_per_episode: int = 20,
        num_envs: int = 1,
        env_workers: int = 2,
        worker_timeout_s: float = 60.0,
        max_episode_steps: int | None = None,
        collect_mode: Literal["sample", "mode"] = "sample",
        exploration_noise: float | tuple[float, float] = 0.0,
        collect: Literal["alternate", "overlap"] = "alternate",
        exchange: Literal["shared", "broadcast"] = "shared",
        online_fraction: float | None = None,
        eval_episodes: int = 20,
        eval_every: int = 0,
        value_steps: int = 300,
        value_every: int = 5,
        test_episodes: int = 20,
        val_episodes: int = 0,
        residency: Literal["auto", "host", "device"] = "auto",
        replay_limit_gb: float | None = None,
        prefetch: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.env, self.dataset, self.build_missing = env, dataset, build_missing
        self.env_options, self.build_options = dict(env_options or {}), dict(build_options or {})
        self.num_envs, self.env_workers, self.worker_timeout_s = num_envs, env_workers, worker_timeout_s
        self.max_episode_steps = max_episode_steps
        self.collect_mode: Literal["sample", "mode"] = collect_mode
        low, high = exploration_noise if isinstance(exploration_noise, tuple | list) else (exploration_noise,) * 2
        self.exploration_noise, self.online_fraction = (low, high), online_fraction
        self.exchange: Literal["shared", "broadcast"] = exchange
        self.collect: Literal["alternate", "overlap"] = collect
        self._collector = Collector(env, self.env_options, env_workers, worker_timeout_s)
        # One process writes what each disk holds.
        self.prepare_data_per_node = exchange == "broadcast"
        self.eval_episodes, self.eval_every = eval_episodes, eval_every
        self.test_episodes, self.val_episodes = test_episodes, val_episodes
        self.value_steps, self.value_every = value_steps, value_every
        self.residency: Literal["auto", "host", "device"] = residency
        self.replay_limit_gb, self.prefetch, self.seed = replay_limit_gb, prefetch, seed
        self.schedule = Schedule(
            offline_steps, online_steps, offline_round_steps, updates_per_episode, num_envs, pretrain, model_steps
        )
        self._check_settings()
        self.action_size = 0
        self.offline_episodes = 0
        self.collected_episodes = 0
        self.round: int | None = None  # the round in progress
        self._earlier_round: float | None = None  # episodes a round of a run from before they were in its checkpoint
        self.env_steps = 0
        self._loader: RoundLoader | None = None
        self.before_fit = False
        self.collect_seconds = 0.0
        self.exchange_seconds = 0.0
        self.last_evaluation: list[Episode] = []
        self._mirror: DeviceMirror | None = None
        self._pool: EnvPool | None = None
        self._sets: dict[str, EpisodeSet] = {}
        #: The agent's settings that the user has given, by their names under ``model.init_args``; None: all of them.
        self.given_settings: Callable[[], Collection[str]] | None = None
        self._parts: dict[str, BatchPart] = {}

    def _check_settings(self) -> None:
        if self.env_workers < 0:
            raise SettingError("data.env_workers", self.env_workers, "Use 0 (in this process) or more.")
        if self.worker_timeout_s <= 0:
            raise SettingError("data.worker_timeout_s", self.worker_timeout_s, "Use a number of seconds above 0.")
        if self.online_fraction is not None and not 0 <= self.online_fraction <= 1:
            raise SettingError("data.online_fraction", self.online_fraction, "Give a share in [0, 1], or null.")
        if self.dataset is None and self.schedule.pretraining_steps > 0:
            raise SettingError(
                "data.dataset", None, "Name a dataset, or set data.offline_steps: 0 and data.pretrain: joint."
            )
        if self.build_options and not self.build_missing:
            raise SettingError(
                "data.build_options", self.build_options, "Set data.build_missing: true, or leave them out."
            )
        low, high = self.exploration_noise
        if not 0 <= low <= high:
            raise SettingError(
                "data.exploration_noise", [low, high], "Give a standard deviation, 0 or more, or two: [least, most]."
            )
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise SettingError("data.max_episode_steps", self.max_episode_steps, "Give at least 1 step, or null.")
        if self.value_steps < 0:
            raise SettingError("data.value_steps", self.value_steps, "Give a number of steps; 0 for none.")
        if self.value_every < 1:
            raise SettingError("data.value_every", self.value_every, "Give at least 1 evaluation.")
        if self.prefetch < 1:
            raise SettingError("data.prefetch", self.prefetch, "Give at least 1 batch.")

    # Setting up.

    @property
    def replay_dir(self) -> Path:
        """Where this run's episodes lie."""
        return Path(self.trainer.default_root_dir) / "replay"

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the task's objects; empty where it has none."""
        return task_objects(self.env, self.env_options)

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return self.trainer.world_size

    @property
    def rank(self) -> int:
        """This process among them."""
        return self.trainer.global_rank

    def prepare_data(self) -> None:
        """Builds the dataset if asked, and takes its episodes into the replay once (first process alone)."""
        self._check_share()
        self.check_pretraining(self._agent)
        # A fit may begin with an evaluation, which needs to know how demonstrations end, and when.
        if self.dataset is None or not (self._fitting or self.before_fit):
            return
        # Imported where they are used: `moto fit --help` should not wait for them.
        from moto_pl.datasets.builders import ensure
        from moto_pl.datasets.minari_io import open_dataset

        source: str | Path = self.dataset
        if self.build_missing:
            source = ensure(self.dataset, **{**self.env_options, **self.build_options})
        names = {"dataset": str(self.dataset), **self.build_options, "val_episodes": self.val_episodes}
        ingest(open_dataset(source), names, self.replay_dir, self._limit)

    def check_pretraining(self, agent: Agent) -> None:
        """Raises a :class:`SettingError` where an agent without a world model is to train one first."""
        if self.schedule.pretrain == "model_first" and not agent.has_world_model:
            fix = f"{type(agent).__name__} has no world model to train: set data.pretrain: joint and no model_steps."
            raise SettingError("data.pretrain", "model_first", fix)

    def setup(self, stage: str) -> None:
        """Shares out the machine's cores, opens the replay and starts the environment workers."""
        self._check_share()
        overlap = self.collect == "overlap"
        threads = share_cores(self.trainer.num_devices, self.env_workers + overlap, overlap)
        if stage == "fit":
            rank_zero_info(str(threads))
            self._parts = {}
            for name, part in self.parts.items():
                if part.size % self.world_size:
                    setting = f"model.init_args.{part.size_setting.format(name)}"
                    raise SettingError(setting, part.size, f"Give a multiple of the {self.world_size} processes.")
            self.store = EpisodeStore(self.replay_dir, self._limit)
            self.held_out = EpisodeStore(self.replay_dir / HELD_OUT)
            self.offline_episodes = self._ingested()
            # Episodes that a killed run collected after its last checkpoint are forgotten, and replaced by later ones;
            # a checkpoint's own are taken back in load_state_dict.
            self.store.restore(self.store.manifest()[: self.offline_episodes])
            self._views = Views(self.store, self.offline_episodes, self.objects)
            self._report_capacity()
        self._collector.limit = self._limit_of_episodes()
        self.action_size = self._action_size()
        if stage == "fit":
            self._mirror = DeviceMirror.choose(
                self.store, self.residency, self.trainer.strategy.root_device, self._expected_bytes()
            )
            self._refresh_sets()

    def _check_share(self) -> None:
        """Refuses more environments a process than it has workers to run them."""
        share, most = -(-self.num_envs // self.world_size), max(1, self.env_workers)
        if self._fitting and share > most:
            raise SettingError(
                "data.num_envs",
                f"{self.num_envs}, {share} for each process, which has room for {most}",
                f"Give at most {most * self.world_size}, or data.env_workers: {share}.",
            )

    def teardown(self, stage: str) -> None:
        """Ends the environment workers, unless a fit is to follow (``before_fit``)."""
        self._collector.close()
        if self._pool is not None and not (self.before_fit and stage == "validate"):
            self._pool.close()
            self._pool = None

    @property
    def terminates(self) -> bool:
        """Whether a demonstration ends early; false where none is taken in, as for an evaluation."""
        if self.dataset is None or not (self._fitting or self.before_fit):
            return False
        store = self.store if hasattr(self, "store") else EpisodeStore(self.replay_dir)
        return any(store[i].terminated for i in range(self._ingested()))

    @property
    def trained_steps(self) -> int:
        """Gradient steps behind the agent's present weights."""
        return self.trainer.global_step if self._fitting else self._agent.loaded_step

    @property
    def round_wait_seconds(self) -> float:
        """Seconds in which the present round's steps have waited for their batches."""
        return 0.0 if self._loader is None else self._loader.wait_seconds

    @property
    def env_episodes(self) -> int:
        """Episodes collected so far, over all ranks."""
        return self.collected_episodes

    @property
    def collected_end_early(self) -> bool:
        """Whether one of the newest round's episodes terminated."""
        newest = range(max(self.offline_episodes, len(self.store) - self.num_envs), len(self.store))
        return any(self.store[i].terminated for i in newest)

    @property
    def pool(self) -> EnvPool:
        """The environment workers, started at first use."""
        if self._pool is None:
            limit = self._limit_of_episodes()
            self._pool = EnvPool(
                self.env, self.env_options, self.env_workers, self.worker_timeout_s, limit, image_size=IMAGE_SIZE
            )
        return self._pool

    @property
    def _agent(self) -> Agent:
        return self.trainer.lightning_module  # type: ignore[return-value]

    @property
    def _fitting(self) -> bool:
        return self.trainer.state.fn == "fit"

    @property
    def _limit(self) -> int | None:
        return None if self.replay_limit_gb is None else int(self.replay_limit_gb * 2**30)

    def _limit_of_episodes(self) -> EpisodeLimit:
        return EpisodeLimit(self.max_episode_steps, longest_demonstration(self.replay_dir) if self.dataset else None)

    def _action_size(self) -> int:
        shape = self.pool.action_space.shape
        size = int(shape[0]) if shape else 0
        if self._fitting and len(self.store) and self.store[0].action.shape[1] != size:
            raise SettingError(
                "data.dataset",
                f"actions of size {self.store[0].action.shape[1]} in {self.dataset}",
                f"{self.env} takes actions of size {size}: choose the dataset of that environment.",
            )
        return size

    def _ingested(self) -> int:
        return ingested(self.replay_dir) if self.dataset is not None else 0

    @property
    def _expected_episodes(self) -> int:
        return self.offline_episodes + self.schedule.online_episodes

    def _expected_bytes(self) -> int:
        known = len(self.store)
        return self.store.nbytes // known * self._expected_episodes if known else 0

    def _report_capacity(self) -> None:
        rows = self.store[0].num_rows if len(self.store) else 102
        rank_zero_info(self.store.describe_capacity(self._expected_episodes, rows))
        rank_zero_info(self.schedule.describe(self.offline_episodes))

    # Rounds.

    def begin_round(self, agent: Agent) -> None:
        """Collects an online round's episodes, unless they were before a resume, and brings the views up to date."""
        index = self.round = self.schedule.round_of(self.trainer.global_step)
        online = index - self.schedule.offline_rounds
        if self._earlier_round is not None:
            self._check_earlier_rounds(online)
        if online >= 0 and self.collected_episodes < (online + 1) * self.num_envs:
            self._collect(agent, online)
        self._refresh_sets()
        for name, view in self._sets.items():
            agent.log(f"batch/{name}_demonstrations", self._demonstrations(name, view), on_epoch=True)

    def _check_earlier_rounds(self, online: int) -> None:
        """Refuses to go on with a run that took ``updates_per_episode`` for the steps of a whole round.

        Its rounds are where they were if the setting is now that number over the episodes of a round.
        """
        per_round, self._earlier_round = self._earlier_round, None
        if self.collected_episodes in (online * self.num_envs, (online + 1) * self.num_envs):
            return
        raise SettingError(
            "data.updates_per_episode",
            f"{self.schedule.updates_per_episode}, in a run that an earlier version began, for which it was the "
            f"gradient steps of a round of {per_round:g} episodes ({self.collected_episodes} episodes so far)",
            f"Divide the number that the run was begun with by {per_round:g} and give data.num_envs: {per_round:g} to "
            "go on as before, or start a new run.",
        )

    def _collect(self, agent: Agent, online: int) -> None:
        begun = time.perf_counter()
        with self._stopping_together():
            if self._collector.busy:
                episodes = self._collector.fetch()
            else:
                job = self._job()
                episodes = roll_episodes(self.pool, agent, *job) if job.seeds else []
        self._exchange(episodes)
        collected = [self.store[i] for i in range(len(self.store) - self.num_envs, len(self.store))]
        self.env_steps += sum(episode.length for episode in collected)
        if self.collect == "overlap" and online + 1 < self.schedule.online_rounds:
            job = self._job()
            if job.seeds:
                self._collector.submit(agent, job)
        self.collect_seconds += time.perf_counter() - begun
        metrics = EpisodeMetrics(self.objects)
        metrics.update(collected)
        for name, value in metrics.compute().items():
            agent.log(f"online/{name}", float(value), on_epoch=True, prog_bar=name == "success")

    def _share(self) -> range:
        """Which of a round's episodes, from 0, this process collects."""
        return range(self.rank * self.num_envs // self.world_size, (self.rank + 1) * self.num_envs // self.world_size)

    def _job(self) -> Job:
        """What this process is to roll for the round that comes next; no seeds where others roll it all."""
        # Counted in episodes, not rounds: a resume may change the number of environments.
        indices = [self.collected_episodes + i for i in self._share()]
        seeds = [training_seed(self.seed, index) for index in indices]
        key = Key(self.seed, indices[0] if indices else 0).fold(_COLLECT)
        return Job(seeds, self.collect_mode, key, self.exploration_noise)

    @contextmanager
    def _stopping_together(self) -> Iterator[None]:
        """Rolling in which a signal to one process ends all, before the others wait for its episodes."""
        stopped: signals.Stopped | None = None
        try:
            yield
        except signals.Stopped as error:
            stopped = error
        if self.world_size > 1 and self.trainer.strategy.reduce_boolean_decision(stopped is not None, all=False):
            stopped = stopped or signals.Stopped(signal.SIGTERM)
        if stopped is not None:
            raise stopped

    def _exchange(self, episodes: list[Episode]) -> None:
        """Every process learns from every process's episodes, whose numbers do not depend on who rolled them."""
        begun = time.perf_counter()
        known = self.offline_episodes + self.collected_episodes
        first = known + self._share().start
        if self.exchange == "broadcast" and self.world_size > 1:
            gathered: list[Any] = [None] * self.world_size
            torch.distributed.all_gather_object(gathered, episodes)
            first, episodes = known, [episode for rank in gathered for episode in rank]
        if self.exchange == "shared" or self.trainer.local_rank == 0:
            for i, episode in enumerate(episodes):
                self.store.append(episode, first + i)
        self.trainer.strategy.barrier("collected")
        try:
            self.store.refresh(known + self.num_envs)
        except SettingError as error:
            if self.world_size == 1:
                raise
            raise SettingError(
                "data.exchange",
                f"{self.exchange}, and rank {self.rank} cannot read the round's episodes ({error})",
                "Give all machines one directory, or set data.exchange: broadcast.",
            ) from error
        self.collected_episodes += self.num_envs
        self.exchange_seconds += time.perf_counter() - begun

    def _refresh_sets(self) -> None:
        """Each part's view of the episodes known now."""
        if not self._parts and len(self.store):
            self._parts = self._fitted_parts()
        for name, part in self.parts.items():
            self._sets[name] = self._views.of(name, part)

    @property
    def parts(self) -> dict[str, BatchPart]:
        """The parts of a batch; their lengths fit the episodes once there are some."""
        return self._parts or self._agent.parts()

    def _fitted_parts(self) -> dict[str, BatchPart]:
        """The agent's parts, where a default length is not longer than the longest of the first episodes."""
        first = self.offline_episodes or min(len(self.store), self.num_envs)
        longest = max(self.store[i].num_rows for i in range(first))
        if len(self.held_out):
            longest = min(longest, max(self.held_out[i].num_rows for i in range(len(self.held_out))))
        return fitted_parts(self._agent.parts(), longest, self.given_settings)

    def _demonstrations(self, name: str, view: EpisodeSet) -> float:
        """Share of a part's sequences that come from demonstrations."""
        fraction = self._online_fraction(self.parts[name])
        if fraction is None or view.offline in (0, len(view)):
            return view.offline / max(1, len(view))
        return 1 - fraction

    def _online_fraction(self, part: BatchPart) -> float | None:
        # A fraction of online data is for learning from; what is cloned is the filter's choice alone.
        return self.online_fraction if part.filter == "none" else None

    def make_batch(self, index: int) -> Batch:
        """The batch number ``index`` of this process: each part that its step trains on, from its own view and stream.

        A gradient step may accumulate several batches. They are dealt out as those of as many processes would be: n
        processes and one that accumulates n batches take the same steps, up to rounding.
        """
        trains = self.schedule.trains(index // self.trainer.accumulate_grad_batches)
        parts = self.parts.items()
        return {name: self._draw(name, part, index) for name, part in parts if trains in ("all", part.component)}

    def _draw(self, name: str, part: BatchPart, index: int) -> SequenceBatch:
        accumulate = self.trainer.accumulate_grad_batches
        step, batch = divmod(index, accumulate)
        sampler = SequenceSampler(self.store, self.seed, name, self._online_fraction(part), self._mirror)
        size = part.size // self.world_size
        shard, shards = self.rank * accumulate + batch, self.world_size * accumulate
        return sampler.sample(step, shard, shards, size, part.length, self._sets[name], part.history)

    @property
    def can_sample(self) -> bool:
        """Whether there are sequences to look at."""
        return bool(self._sets) and len(next(iter(self._sets.values()))) > 0

    def preview(self, count: int) -> SequenceBatch:
        """``count`` sequences of the first part's data, for pictures; another draw after each round."""
        return self.common_batch("preview", next(iter(self.parts)), count)

    def common_batch(self, name: str, part: str, count: int) -> SequenceBatch:
        """``count`` sequences of a part's data beside its batches, the same on every process.

        Args:
            name: of this use, which has its own draws.
            part: of the agent's batch, whose episodes and length these are.
            count: sequences.
        """
        wanted = self.parts[part]
        sampler = SequenceSampler(self.store, self.seed, name)
        batch = sampler.sample(self.trained_steps, 0, 1, count, wanted.length, self._sets[part], wanted.history)
        return SequenceBatch(*(tensor.to(self._agent.device) for tensor in batch))

    # Loaders.

    def train_dataloader(self) -> RoundLoader:
        """The batches of the round that comes next."""
        self._loader = RoundLoader(self.make_batch, self.trainer, self.schedule, self.prefetch)
        return self._loader

    def val_dataloader(self) -> list[Any]:
        """Evaluation seeds, and held-out batches; empty in rounds after which no evaluation is due."""
        if self._fitting:
            # Lightning asks at a run's start too, and after a resume that answer serves the first round.
            index = self.schedule.round_of(self.trainer.global_step) if self.round is None else self.round
            if not self.schedule.evaluation_due(index, self.eval_every):
                return []
        loaders: list[Any] = [self._seed_batches(EVALUATION_SEEDS, self.eval_episodes)]
        if self._fitting and len(self.held_out):
            loaders.append(HeldOut(self.held_out, self.seed, self.parts, self.rank, self.world_size))
        return loaders

    def test_dataloader(self) -> SeedBatches:
        """Test seeds, disjoint from training and evaluation."""
        return self._seed_batches(TEST_SEEDS, self.test_episodes)

    def _seed_batches(self, first: int, count: int) -> SeedBatches:
        seeds = torch.arange(first, first + count)[self.rank :: self.world_size]
        size = max(1, self.env_workers)
        # As many on every process, because after each they agree on whether to go on.
        most = len(range(0, count, self.world_size))
        return SeedBatches(seeds, size, len(range(0, most, size)))

    def evaluate(self, agent: Agent, seeds: list[int]) -> list[Rolled]:
        """Rolls evaluation episodes with the mode of the policy; none on a rank beyond the last seed."""
        rolled: list[Rolled] = []
        with self._stopping_together():
            if seeds:
                key = Key(self.seed, seeds[0]).fold(_EVALUATE)
                rolled = roll_on(self.pool, agent, seeds, "mode", key, beyond=self._steps_beyond())
        self.last_evaluation = [episode for episode, _ in rolled]
        return rolled

    def _steps_beyond(self) -> int:
        """Steps that the episodes of this evaluation go on after a time limit."""
        step = self.trained_steps
        if step == 0:
            return 0
        phase_end = self.schedule.phase(step) in ("pretrained", "final")
        due = self.eval_every == 0 or step // self.eval_every % self.value_every == 0
        return self.value_steps if phase_end or due or not self._fitting else 0

    # Resume.

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know: the episodes of this checkpoint and the counters."""
        return {
            "manifest": self.store.manifest(),
            "collected_episodes": self.collected_episodes,
            "env_steps": self.env_steps,
            "world_size": self.world_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back the checkpoint's episodes; whatever came after it is ignored, and replaced by later appends."""
        self.collected_episodes = state_dict["collected_episodes"]
        if rounds := state_dict.get("collected_rounds"):  # before num_envs and updates_per_episode meant what they say
            self._earlier_round = self.collected_episodes / rounds
        self.env_steps = state_dict["env_steps"]
        if self._fitting:
            self.store.restore(state_dict["manifest"])
            self._refresh_sets()


class SeedBatches:
    """Environment seeds int64, as many at a time as there are environments, then empty batches up to ``least``."""

    def __init__(self, seeds: Tensor, size: int, least: int = 1) -> None:
        batches = seeds.split(size)
        self.batches = [*batches, *(seeds[:0] for _ in range(least - len(batches)))]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)
