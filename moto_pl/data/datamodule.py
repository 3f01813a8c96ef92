"""The data module of every run: demonstrations first, then episodes that the policy collects."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from moto_pl.agents.metrics import EpisodeMetrics
from moto_pl.behaviour.filters import keep_rows, return_threshold
from moto_pl.data.collect import EVALUATION_SEEDS, TEST_SEEDS, roll_episodes, training_seed
from moto_pl.data.collector import Collector, Job
from moto_pl.data.schedule import Pretrain, Schedule
from moto_pl.envs import task_objects
from moto_pl.envs.workers import EnvPool
from moto_pl.errors import SettingError
from moto_pl.files import write_whole
from moto_pl.nn.image import IMAGE_SIZE
from moto_pl.ops import Key
from moto_pl.replay import DeviceMirror, EpisodeSet, EpisodeStore, PrefetchLoader, SequenceBatch, SequenceSampler
from moto_pl.replay.episode import Episode

if TYPE_CHECKING:
    from moto_pl.agents.base import Agent, Batch, BatchPart

_COLLECT, _EVALUATE = 0xC011, 0xE7A1


class OfflineToOnlineDataModule(L.LightningDataModule):
    """Streams sequences of demonstrations, then of demonstrations and collected episodes.

    An epoch is a round (:class:`~moto_pl.data.schedule.Schedule`): each online round begins with one episode of the
    current policy in each environment, and then takes ``updates_per_episode`` gradient steps. Batches are a pure
    function of seed, step and the episodes known, so a resumed run sees the batches of the unbroken one.

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
        updates_per_episode: gradient steps after each collected episode.
        num_envs: environments that collect side by side, each one episode a round.
        env_workers: processes that run environments; 0 runs one environment in this process.
        worker_timeout_s: seconds after which an environment that does not answer is replaced.
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
        collect_mode: Literal["sample", "mode"] = "sample",
        exploration_noise: float | tuple[float, float] = 0.0,
        collect: Literal["alternate", "overlap"] = "alternate",
        exchange: Literal["shared", "broadcast"] = "shared",
        online_fraction: float | None = None,
        eval_episodes: int = 20,
        eval_every: int = 0,
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
        self.residency: Literal["auto", "host", "device"] = residency
        self.replay_limit_gb, self.prefetch, self.seed = replay_limit_gb, prefetch, seed
        self.schedule = Schedule(
            offline_steps, online_steps, offline_round_steps, updates_per_episode, pretrain, model_steps
        )
        self._check_settings()
        self.action_size = 0
        self.offline_episodes = 0
        self.collected_rounds = self.collected_episodes = 0
        self.round: int | None = None  # the round in progress
        self.env_steps = 0
        self.round_wait_seconds = 0.0
        self.keep_workers = False
        self.collect_seconds = 0.0
        self.exchange_seconds = 0.0
        self.last_evaluation: list[Episode] = []
        self._mirror: DeviceMirror | None = None
        self._pool: EnvPool | None = None
        self._sets: dict[str, EpisodeSet] = {}
        self._kept: dict[tuple[str, float, int], int] = {}
        self._left_out: dict[str, int] = {}

    def _check_settings(self) -> None:
        if self.num_envs < 1 or self.num_envs > max(1, self.env_workers):
            raise SettingError(
                "data.num_envs", self.num_envs, f"Give 1 to {max(1, self.env_workers)}, or raise data.env_workers."
            )
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
        self.check_pretraining(self._agent)
        if self.dataset is None or not self._fitting:
            return
        source: str | Path = self.dataset
        if self.build_missing:
            from moto_pl.data.builders import ensure

            source = ensure(self.dataset, **{**self.env_options, **self.build_options})
        self._ingest(source)

    def check_pretraining(self, agent: Agent) -> None:
        """Raises a :class:`SettingError` where an agent without a world model is to train one first."""
        if self.schedule.pretrain == "model_first" and not agent.has_world_model:
            fix = f"{type(agent).__name__} has no world model to train: set data.pretrain: joint and no model_steps."
            raise SettingError("data.pretrain", "model_first", fix)

    def setup(self, stage: str) -> None:
        """Opens the replay and starts the environment workers."""
        if stage == "fit":
            for name, part in self._agent.parts().items():
                if part.size % self.world_size:
                    raise SettingError(
                        f"model.batch.{name}_size", part.size, f"Give a multiple of the {self.world_size} processes."
                    )
            self.store = EpisodeStore(self.replay_dir, self._limit)
            self.held_out = EpisodeStore(self.replay_dir / "held_out")
            self.offline_episodes = self._ingested()
            # Episodes that a killed run collected after its last checkpoint are forgotten, and replaced by later ones;
            # a checkpoint's own are taken back in load_state_dict.
            self.store.restore(self.store.manifest()[: self.offline_episodes])
            self._report_capacity()
        self.action_size = self._action_size()
        if stage == "fit":
            self._mirror = DeviceMirror.choose(
                self.store, self.residency, self.trainer.strategy.root_device, self._expected_bytes()
            )
            self._refresh_sets()

    def teardown(self, stage: str) -> None:
        """Ends the environment workers, unless a fit is to follow (``keep_workers``)."""
        self._collector.close()
        if self._pool is not None and not (self.keep_workers and stage == "validate"):
            self._pool.close()
            self._pool = None

    @property
    def trained_steps(self) -> int:
        """Gradient steps behind the agent's present weights."""
        return self.trainer.global_step if self._fitting else self._agent.loaded_step

    @property
    def env_episodes(self) -> int:
        """Episodes collected so far, over all ranks."""
        return self.collected_episodes

    @property
    def pool(self) -> EnvPool:
        """The environment workers, started at first use."""
        if self._pool is None:
            self._pool = EnvPool(self.env, self.env_options, self.env_workers, self.worker_timeout_s)
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

    def _ingest(self, source: str | Path) -> None:
        """Copies the dataset's episodes into the replay; goes on where a killed run stopped."""
        from moto_pl.data.minari_io import open_dataset

        reader = open_dataset(source)
        reader.check(image_size=IMAGE_SIZE)
        names = {"dataset": str(self.dataset), **self.build_options, "val_episodes": self.val_episodes}
        marker = self.replay_dir / "dataset.json"
        if marker.exists():
            found = json.loads(marker.read_text())
            if any(found.get(name) != value for name, value in names.items()):
                raise SettingError(
                    "data.dataset", f"{names}, but {marker} holds {found}", "Use another trainer.default_root_dir."
                )
            return
        store, held_out = EpisodeStore(self.replay_dir, self._limit), EpisodeStore(self.replay_dir / "held_out")
        training = len(reader) - self.val_episodes
        if training < 1:
            raise SettingError(
                "data.val_episodes",
                self.val_episodes,
                f"{self.dataset} has {len(reader)} episodes: leave one to train on.",
            )
        for i, episode in enumerate(reader):
            target, index = (store, i) if i < training else (held_out, i - training)
            if index >= len(target):
                target.append(episode, index)
        write_whole(marker, json.dumps({**names, "episodes": training}).encode())

    def _ingested(self) -> int:
        marker = self.replay_dir / "dataset.json"
        return int(json.loads(marker.read_text())["episodes"]) if self.dataset is not None else 0

    @property
    def _expected_episodes(self) -> int:
        return self.offline_episodes + self.schedule.online_rounds * self.num_envs * self.world_size

    def _expected_bytes(self) -> int:
        known = len(self.store)
        return self.store.nbytes // known * self._expected_episodes if known else 0

    def _report_capacity(self) -> None:
        rows = self.store[0].num_rows if len(self.store) else 102
        rank_zero_info(self.store.describe_capacity(self._expected_episodes, rows))
        offline = f"{self.schedule.offline_steps} gradient steps"
        if self.schedule.pretrain == "model_first":
            alone = f"{self.schedule.model_steps} gradient steps of the world model"
            offline = f"{alone}, then {offline} of actor and critics"
        rank_zero_info(
            f"schedule: {offline} on {self.offline_episodes} demonstrations, then "
            f"{self.schedule.online_rounds} rounds of {self.num_envs * self.world_size} episode(s) and "
            f"{self.schedule.updates_per_episode} steps"
        )

    # Rounds.

    def begin_round(self, agent: Agent) -> None:
        """Collects an online round's episodes, unless they were before a resume, and brings the views up to date."""
        index = self.round = self.schedule.round_of(self.trainer.global_step)
        online = index - self.schedule.offline_rounds
        if online >= 0 and self.collected_rounds <= online:
            self._collect(agent, online)
            self.collected_rounds = online + 1
        self._refresh_sets()

    def _collect(self, agent: Agent, online: int) -> None:
        begun = time.perf_counter()
        if self._collector.busy:
            episodes = self._collector.fetch()
        else:
            episodes = roll_episodes(self.pool, agent, *self._job(online))
        self.env_steps += sum(episode.length for episode in episodes)
        self._exchange(episodes)
        if self.collect == "overlap" and online + 1 < self.schedule.online_rounds:
            self._collector.submit(agent, self._job(online + 1))
        self.collect_seconds += time.perf_counter() - begun
        metrics = EpisodeMetrics(self.objects)
        metrics.update(episodes)
        for name, value in metrics.compute().items():
            agent.log(f"online/{name}", float(value), on_epoch=True, prog_bar=name == "success", sync_dist=True)

    def _job(self, online: int) -> Job:
        """What this rank is to roll for an online round."""
        # Counted in episodes, not rounds: a resume may change the number of processes or environments.
        first = self.collected_episodes + self.rank * self.num_envs
        seeds = [training_seed(self.seed, first + i) for i in range(self.num_envs)]
        key = Key(self.seed, online).fold(_COLLECT, self.rank)
        return Job(seeds, self.collect_mode, key, self.exploration_noise)

    def _exchange(self, episodes: list[Episode]) -> None:
        """Every rank learns from every rank's episodes: rank r's are numbers r * num_envs and up of the round's."""
        begun = time.perf_counter()
        known = self.offline_episodes + self.collected_episodes
        ranks = [self.rank]
        if self.exchange == "broadcast" and self.world_size > 1:
            gathered: list[Any] = [None] * self.world_size
            torch.distributed.all_gather_object(gathered, episodes)
            ranks, episodes = list(range(self.world_size)), [episode for rank in gathered for episode in rank]
        if self.exchange == "shared" or self.trainer.local_rank == 0:
            for i, episode in enumerate(episodes):
                self.store.append(episode, known + ranks[0] * self.num_envs + i)
        self.trainer.strategy.barrier("collected")
        try:
            self.store.refresh(known + self.world_size * self.num_envs)
        except SettingError as error:
            if self.world_size == 1:
                raise
            raise SettingError(
                "data.exchange",
                f"{self.exchange}, and rank {self.rank} cannot read the round's episodes ({error})",
                "Give all machines one directory, or set data.exchange: broadcast.",
            ) from error
        self.collected_episodes += self.world_size * self.num_envs
        self.exchange_seconds += time.perf_counter() - begun

    def _refresh_sets(self) -> None:
        """Each part's view of the episodes known now."""
        for name, part in self._agent.parts().items():
            self._sets[name] = self._view(name, part)

    def _view(self, name: str, part: BatchPart) -> EpisodeSet:
        threshold = -float("inf")
        if part.filter == "return":
            returns = [float(self.store[i].reward.sum()) for i in range(len(self.store))]
            threshold = return_threshold(returns, part.top)
        entries = []
        for i in range(len(self.store)):
            episode = self.store[i]
            kept = (part.filter, threshold, episode.crc)
            if kept not in self._kept:
                self._kept[kept] = keep_rows(episode, part.filter, threshold)
            if self._kept[kept]:
                entries.append((i, self._kept[kept]))
        if len(self.store) and part.filter != "none" and all(rows < part.length for _, rows in entries):
            rank_zero_warn(
                f"No episode of at least {part.length} rows passes the filter '{part.filter}': "
                f"the '{name}' batches come from all data."
            )
            entries = [(i, self.store[i].num_rows) for i in range(len(self.store))]
        view = EpisodeSet(entries, part.length, self.offline_episodes)
        if view.left_out and self._left_out.get(name, 0) != view.left_out:
            self._left_out[name] = view.left_out
            rank_zero_warn(
                f"{view.left_out} of {len(entries)} episodes are shorter than the {part.length} rows of a '{name}' "
                "sequence: they are left out."
            )
        return view

    def make_batch(self, index: int) -> Batch:
        """The batch number ``index`` of this process: each part that its step trains on, from its own view and stream.

        A gradient step may accumulate several batches. They are dealt out as those of as many processes would be: n
        processes and one that accumulates n batches take the same steps, up to rounding.
        """
        trains = self.schedule.trains(index // self.trainer.accumulate_grad_batches)
        parts = self._agent.parts().items()
        return {name: self._draw(name, part, index) for name, part in parts if trains in ("all", part.component)}

    def _draw(self, name: str, part: BatchPart, index: int) -> SequenceBatch:
        accumulate = self.trainer.accumulate_grad_batches
        step, batch = divmod(index, accumulate)
        # A fraction of online data is for learning from; what is cloned is the filter's choice alone.
        fraction = self.online_fraction if part.filter == "none" else None
        sampler = SequenceSampler(self.store, self.seed, name, fraction, self._mirror)
        size = part.size // self.world_size
        shard, shards = self.rank * accumulate + batch, self.world_size * accumulate
        return sampler.sample(step, shard, shards, size, part.length, self._sets[name], part.history)

    @property
    def can_sample(self) -> bool:
        """Whether there are sequences to look at."""
        return bool(self._sets) and len(next(iter(self._sets.values()))) > 0

    def preview(self, count: int) -> SequenceBatch:
        """``count`` sequences of the first part's data, for pictures; another draw after each round."""
        return self.common_batch("preview", next(iter(self._agent.parts())), count)

    def common_batch(self, name: str, part: str, count: int) -> SequenceBatch:
        """``count`` sequences of a part's data beside its batches, the same on every process.

        Args:
            name: of this use, which has its own draws.
            part: of the agent's batch, whose episodes and length these are.
            count: sequences.
        """
        wanted = self._agent.parts()[part]
        sampler = SequenceSampler(self.store, self.seed, name)
        batch = sampler.sample(self.trained_steps, 0, 1, count, wanted.length, self._sets[part], wanted.history)
        return SequenceBatch(*(tensor.to(self._agent.device) for tensor in batch))

    # Loaders.

    def train_dataloader(self) -> RoundLoader:
        """The batches of the round that comes next."""
        return RoundLoader(self)

    def val_dataloader(self) -> list[Any]:
        """Evaluation seeds, and held-out batches; empty in rounds after which no evaluation is due."""
        if self._fitting:
            # Lightning asks at a run's start too, and after a resume that answer serves the first round.
            index = self.schedule.round_of(self.trainer.global_step) if self.round is None else self.round
            if not self.schedule.evaluation_due(index, self.eval_every):
                return []
        loaders: list[Any] = [self._seed_batches(EVALUATION_SEEDS, self.eval_episodes)]
        if self._fitting and len(self.held_out):
            loaders.append(HeldOut(self))
        return loaders

    def test_dataloader(self) -> SeedBatches:
        """Test seeds, disjoint from training and evaluation."""
        return self._seed_batches(TEST_SEEDS, self.test_episodes)

    def _seed_batches(self, first: int, count: int) -> SeedBatches:
        seeds = torch.arange(first, first + count)[self.rank :: self.world_size]
        return SeedBatches(seeds, max(1, self.env_workers))

    def evaluate(self, agent: Agent, seeds: list[int]) -> list[Episode]:
        """Rolls evaluation episodes with the mode of the policy; none on a rank beyond the last seed."""
        if not seeds:
            self.last_evaluation = []
            return []
        key = Key(self.seed, seeds[0]).fold(_EVALUATE)
        self.last_evaluation = roll_episodes(self.pool, agent, seeds, "mode", key)
        return self.last_evaluation

    # Resume.

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know: the episodes of this checkpoint and the counters."""
        return {
            "manifest": self.store.manifest(),
            "collected_rounds": self.collected_rounds,
            "collected_episodes": self.collected_episodes,
            "env_steps": self.env_steps,
            "world_size": self.world_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back the checkpoint's episodes; whatever came after it is ignored, and replaced by later appends."""
        self.collected_rounds = state_dict["collected_rounds"]
        self.collected_episodes = state_dict["collected_episodes"]
        self.env_steps = state_dict["env_steps"]
        if self._fitting:
            self.store.restore(state_dict["manifest"])
            self._refresh_sets()


class RoundLoader:
    """The batches of one round. Its length is the round's, so Lightning never looks past it.

    Lightning asks for an iterator before a round's episode is there, so nothing is sampled before the first batch is
    asked for. On a resume in the middle of a round it yields the steps that are left.
    """

    def __init__(self, data: OfflineToOnlineDataModule) -> None:
        self.data, self.trainer = data, data.trainer
        self.round = data.schedule.round_of(self.trainer.global_step)
        self.accumulate = self.trainer.accumulate_grad_batches

    def __len__(self) -> int:
        return self.data.schedule.steps_in(self.round) * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        first, last = self.trainer.global_step, data.schedule.start_of(self.round + 1)
        steps = range(first * self.accumulate, last * self.accumulate)
        loader = PrefetchLoader(data.make_batch, steps, data.prefetch, pin=data._agent.device.type == "cuda")
        try:
            yield from loader
        finally:
            data.round_wait_seconds = loader.wait_seconds
            loader.close()

    # Lightning asks for these before it trusts a loader in the middle of an epoch; the position is the trainer's step.
    def state_dict(self) -> dict[str, Any]:
        """Nothing: sampling has no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


class SeedBatches:
    """Environment seeds int64, as many at a time as there are environments; one empty batch where there are none."""

    def __init__(self, seeds: Tensor, size: int) -> None:
        self.batches = seeds.split(size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)


class HeldOut:
    """A fixed set of batches from the held-out demonstrations."""

    batches = 4

    def __init__(self, data: OfflineToOnlineDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        entries = [(i, data.held_out[i].num_rows) for i in range(len(data.held_out))]
        for step in range(self.batches):
            batch = {}
            for name, part in data._agent.parts().items():
                sampler = SequenceSampler(data.held_out, data.seed, f"held_out/{name}")
                view = EpisodeSet(entries, part.length)
                size = part.size // data.world_size
                batch[name] = sampler.sample(step, data.rank, data.world_size, size, part.length, view, part.history)
            yield batch
