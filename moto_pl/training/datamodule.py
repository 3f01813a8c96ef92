"""The data module of every run: demonstrations first, then episodes that the policy collects."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from moto_pl.callbacks.collect import CollectEpisodes, CollectSettings
from moto_pl.callbacks.evaluation import EvaluateEpisodes, EvaluationSettings, SeedBatches
from moto_pl.envs import check_arguments, task_objects
from moto_pl.envs.actions import ActionScale, ActionScaling
from moto_pl.envs.observation import IMAGE_ALONE, IMAGE_SIZE, Observation, ObservationConfig, env_arguments
from moto_pl.errors import SettingError
from moto_pl.evaluations import EVALUATION_SEEDS, TEST_SEEDS
from moto_pl.replay import DeviceMirror, EpisodeSet, EpisodeStore, SequenceBatch, SequenceSampler
from moto_pl.replay.parts import Batch, BatchPart, Learner
from moto_pl.schedule import Pretrain, Schedule
from moto_pl.training.ingest import (
    HELD_OUT,
    action_scale,
    has_ingested,
    ingest,
    ingested,
    longest_demonstration,
    observed,
)
from moto_pl.training.loaders import HeldOut, RoundLoader
from moto_pl.training.views import Views, fitted_parts


class OfflineToOnlineDataModule(L.LightningDataModule):
    """Streams sequences of demonstrations, then of demonstrations and collected episodes.

    An epoch is a round (:class:`~moto_pl.schedule.Schedule`): each online round begins with one episode of the
    current policy in each environment, and then takes ``updates_per_episode`` gradient steps for each. Batches are a
    pure function of seed, step and the episodes known, so a resumed run sees the batches of the unbroken one.

    Episodes come from callbacks, of which :meth:`callbacks` makes those that these settings describe; the Trainer has
    to have them. Here is what they are kept in and drawn from.

    Args:
        env: gymnasium id of an environment with pixel observations.
        dataset: Minari dataset (id or directory) of demonstrations; null trains online from scratch.
        build_missing: make the dataset with ``moto data build`` where it is absent and can be built.
        build_options: what ``moto data build`` takes besides, such as ``noise`` or ``output``; null is nothing.
        env_options: keyword arguments of the environment; null is none.
        observation: what of the observations is learned from; the image alone by default. See docs/observations.md.
        image_size: height and width of the images in pixels: 64, 96 or 128, of environment and dataset alike, to which
            others' frames are resized.
        action_repeat: steps of the environment for each action, 1 or more; their rewards are summed. A dataset must
            have been recorded so. ``max_episode_steps`` counts the environment's steps; all else counts actions.
        action_scale: what the policy's actions, which are in [-1, 1], stand for. ``bounds``: the Box of actions of
            dataset and environment, which have to be the same. ``percentile``: the first to the 99th percentile of each
            number in the dataset; demonstrated actions beyond are clipped.
        pretrain: ``joint`` trains world model, actor and critics at each offline step. ``model_first`` trains the world
            model alone for ``model_steps``, then actor and critics alone, on the model as it then stands, for
            ``offline_steps``; it is for agents with a world model. Online steps train everything.
        model_steps: gradient steps, 0 or more, on the demonstrations that train the world model alone; 0 with
            ``joint``, and not 0 with ``model_first``.
        offline_steps: gradient steps on the demonstrations, 0 or more (``model_first``: those of actor and critics).
        online_steps: gradient steps while collecting, 0 or more.
        offline_round_steps: gradient steps of an offline round, 1 or more.
        updates_per_episode: gradient steps for each collected episode, 1 or more, over all environments and processes:
            a round that collects four episodes takes four times as many.
        num_envs: environments that collect side by side, 1 or more, each one episode a round, over all training
            processes, which share them out.
        env_workers: processes of each training process that run environments, 0 or more; 0 runs one environment in it.
        worker_timeout_s: seconds, above 0, after which an environment that does not answer is replaced.
        max_episode_steps: an episode that has not ended after so many steps, 1 or more, is cut off, as truncated, with
            a warning. null: the environment's own limit; where it has none, four times the longest demonstration
            (10,000 without one).
        collect_mode: ``sample`` collects with samples of the policy (the paper's protocol), ``mode`` with its mode,
            which is what is evaluated; give the mode some ``exploration_noise``.
        exploration_noise: standard deviation of Gaussian noise on collected actions, 0 or more; of two numbers, each
            episode draws its own between them, so that the policy also learns from what it does undisturbed.
        exploration_hold: steps, 1 or more, for which each draw of that noise is held. One that is new at each step
            averages out; a held one shows what comes of leaving the policy's path.
        exploration_detours: share of the collected steps, 0 to 0.9, in which the policy does not act and one action is
            held instead, for some 15 steps at a time, which shows a world model what comes of it; of two numbers, each
            episode draws its own share between them. Cloning leaves episodes with a detour out.
        collect: ``alternate`` collects, then learns, as the paper does. ``overlap`` collects the next round's episodes
            in a process of its own while this round's steps are taken, with the policy as it was before them.
        exchange: how processes learn from each other's episodes. ``shared``: through the run's directory, which all of
            them see. ``broadcast``: over the network, into a directory of the same name on each machine's own disk.
        online_fraction: share of each batch from collected episodes, in [0, 1]; null is uniform over all episodes.
        eval_episodes: evaluation episodes, 0 or more, on seeds that are never trained on.
        eval_every: gradient steps between evaluations, 0 or more; they also stand at the end of each phase. 0: only
            there.
        value_steps: steps, 0 or more, that evaluation episodes go on after a time limit, which is no end of the task,
            to see what critics' values are worth (``eval/value_bias``, ``eval/value_correlation``). Where they do not,
            the figures end in ``_cut``: rewards that count were not waited for.
        value_every: evaluations from one that goes on so to the next, 1 or more; those at the ends of phases always do.
        test_episodes: episodes of ``moto test``, 0 or more, on seeds of their own.
        val_episodes: demonstrations held out for model losses, 0 or more.
        residency: where frames lie: on the ``device``, on the ``host``, or ``auto``: on a CUDA device where they take
            up less than a quarter of its free memory.
        replay_limit_gb: largest size of the replay on disk, in gigabytes, above 0; null sets none.
        prefetch: batches made ahead of need, 1 or more.
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
        observation: ObservationConfig = IMAGE_ALONE,
        image_size: int = IMAGE_SIZE,
        action_repeat: int = 1,
        action_scale: ActionScaling = "bounds",
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
        exploration_hold: int = 1,
        exploration_detours: float | tuple[float, float] = 0.0,
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
        self.dataset, self.build_missing, self.build_options = dataset, build_missing, dict(build_options or {})
        self.online_fraction, self.val_episodes, self.residency = online_fraction, val_episodes, residency
        self.replay_limit_gb, self.prefetch, self.seed = replay_limit_gb, prefetch, seed
        self.collecting = CollectSettings(
            env, dict(env_options or {}), num_envs, env_workers, worker_timeout_s, max_episode_steps, collect_mode,
            _range(exploration_noise), exploration_hold, _range(exploration_detours), collect, exchange, seed,
            observation, action_scale, image_size, action_repeat,
        )  # fmt: skip
        self.evaluation = EvaluationSettings(eval_episodes, eval_every, value_steps, value_every, test_episodes, seed)
        self.schedule = Schedule(
            offline_steps, online_steps, offline_round_steps, updates_per_episode, num_envs, pretrain, model_steps
        )
        self._check_settings()
        # One process writes what each disk holds.
        self.prepare_data_per_node = exchange == "broadcast"
        #: Whether a fit follows an evaluation, which then begins as that does.
        self.before_fit = False
        #: The agent's settings that the user has given, by their names under ``model.init_args``; None: all of them.
        self.given_settings: Callable[[], Collection[str]] | None = None
        self.offline_episodes = 0
        self._loader: RoundLoader | None = None  # of the round in progress
        self._mirror: DeviceMirror | None = None
        self._sets: dict[str, EpisodeSet] = {}
        self._parts: dict[str, BatchPart] = {}

    def _check_settings(self) -> None:
        if self.online_fraction is not None and not 0 <= self.online_fraction <= 1:
            raise SettingError("data.online_fraction", self.online_fraction, "Give a share in [0, 1], or null.")
        if self.dataset is None and self.schedule.pretraining_steps > 0:
            raise SettingError(
                "data.dataset", None, "Name a dataset, or set data.offline_steps: 0 and data.pretrain: joint."
            )
        if self.dataset is None and self.collecting.action_scale != "bounds":
            fix = "Name the dataset whose actions these are the percentiles of, or set bounds."
            raise SettingError("data.action_scale", self.collecting.action_scale, fix)
        if self.build_options and not self.build_missing:
            raise SettingError(
                "data.build_options", self.build_options, "Set data.build_missing: true, or leave them out."
            )
        if self.prefetch < 1:
            raise SettingError("data.prefetch", self.prefetch, "Give at least 1 batch.")
        if self.val_episodes < 0:
            raise SettingError("data.val_episodes", self.val_episodes, "Give a number of demonstrations, 0 or more.")
        if self.replay_limit_gb is not None and not self.replay_limit_gb > 0:
            raise SettingError("data.replay_limit_gb", self.replay_limit_gb, "Give gigabytes above 0, or null.")

    def callbacks(self, videos: int = 4) -> tuple[EvaluateEpisodes, CollectEpisodes]:
        """What rolls episodes as these settings say: callbacks for the Trainer, to stand last in its list.

        Args:
            videos: evaluation episodes side by side in a video; 0 writes none.
        """
        collect = CollectEpisodes(self.collecting)
        return EvaluateEpisodes(self.evaluation, collect, videos), collect

    # Setting up.

    @property
    def replay_dir(self) -> Path:
        """Where this run's episodes lie."""
        return Path(self.trainer.default_root_dir) / "replay"

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return self.trainer.world_size

    @property
    def rank(self) -> int:
        """This process among them."""
        return self.trainer.global_rank

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes what its machine's disk holds."""
        return self.trainer.local_rank == 0 if self.prepare_data_per_node else self.trainer.is_global_zero

    def prepare_data(self) -> None:
        """Builds the dataset if asked, and takes its episodes into the replay once (first process alone)."""
        self._check_run()
        # A fit may begin with an evaluation, which needs to know how demonstrations end, and when.
        if self.dataset is None or not (self._fitting or self.before_fit):
            return
        # Imported where they are used: `moto fit --help` should not wait for them.
        from moto_pl.datasets.builders import ensure
        from moto_pl.datasets.minari_io import open_dataset
        from moto_pl.datasets.offered import check_same_camera, check_same_repeat

        source: str | Path = self.dataset
        of, wanted = self.collecting, self.collecting.observation
        if self.build_missing:
            options = env_arguments(of.env, of.env_options, wanted, of.image_size)
            source = ensure(self.dataset, **{**options, **self.build_options})
        names = {"dataset": str(self.dataset), **self.build_options, "val_episodes": self.val_episodes}
        if wanted != IMAGE_ALONE:
            names["observation"] = {"cameras": list(wanted.cameras), "state": list(wanted.state)}
        names |= {} if of.action_scale == "bounds" else {"scaling": of.action_scale}
        names |= {} if of.image_size == IMAGE_SIZE else {"image_size": of.image_size}
        names |= {} if of.action_repeat == 1 else {"action_repeat": of.action_repeat}
        reader = open_dataset(source, wanted=wanted, image_size=of.image_size)
        if reader.resized:
            rank_zero_info(f"{reader.id}: {reader.resized}, resized to {of.image_size}x{of.image_size}")
        if "image" in wanted.cameras:  # the others have one place each
            check_same_camera(reader.id, reader.own, of.env, of.env_options)
        check_same_repeat(reader.id, reader.own, of.action_repeat)
        if not has_ingested(self.replay_dir):  # compared before anything is read or copied, which may take hours
            collect = next(each for each in cast(Any, self.trainer).callbacks if isinstance(each, CollectEpisodes))
            collect.meet(reader)
        ingest(reader, names, self.replay_dir, self._limit, of.action_scale)

    def _check_run(self) -> None:
        """Refuses what does not go together, before anything is built or written."""
        callbacks, max_epochs = cast(Any, self.trainer).callbacks, self.trainer.max_epochs
        for needed in (EvaluateEpisodes, CollectEpisodes):
            if not any(isinstance(callback, needed) for callback in callbacks):
                fix = "In Python give the Trainer the data module's: callbacks=[*data.callbacks()]."
                raise SettingError("trainer.callbacks", f"no {needed.__name__}", fix)
        check_arguments("data.env_options", self.collecting.env, self.collecting.env_options)
        self.check_pretraining(self._learner)
        if not self._fitting:
            return
        self.collecting.check_share(self.world_size)
        if max_epochs is not None and 0 <= max_epochs < self.schedule.rounds:
            found = f"{max_epochs}, where the schedule has {self.schedule.rounds} rounds"
            raise SettingError("trainer.max_epochs", found, "Give -1: the schedule ends the run.")

    def check_pretraining(self, learner: Learner) -> None:
        """Raises a :class:`SettingError` where an agent without a world model is to train one first."""
        if self.schedule.pretrain == "model_first" and not learner.has_world_model:
            fix = f"{type(learner).__name__} has no world model to train: set data.pretrain: joint and no model_steps."
            raise SettingError("data.pretrain", "model_first", fix)

    def setup(self, stage: str) -> None:
        """Opens the replay."""
        if stage != "fit":
            return
        self._parts = {}
        for name, part in self.parts.items():
            if part.size % self.world_size:
                setting = f"model.init_args.{part.size_setting.format(name)}"
                raise SettingError(setting, part.size, f"Give a multiple of the {self.world_size} processes.")
        self.store = EpisodeStore(self.replay_dir, self._limit)
        self.held_out = EpisodeStore(self.replay_dir / HELD_OUT)
        self.offline_episodes = self._ingested()
        # Episodes that a killed run collected after its last checkpoint are forgotten, and replaced by later ones; a
        # checkpoint's own are taken back in load_state_dict.
        self.store.restore(self.store.manifest()[: self.offline_episodes])
        objects = task_objects(self.collecting.env, self.collecting.env_options)
        self._views = Views(self.store, self.offline_episodes, objects)
        known, episodes = len(self.store), self.offline_episodes + self.schedule.online_episodes
        rank_zero_info(self.store.describe_capacity(episodes, self.store[0].num_rows if known else 102))
        rank_zero_info(self.schedule.describe(self.offline_episodes))
        expected_bytes = self.store.nbytes // known * episodes if known else 0
        device = self.trainer.strategy.root_device
        self._mirror = DeviceMirror.choose(self.store, self.residency, device, expected_bytes)
        self.refresh()

    @property
    def terminates(self) -> bool:
        """Whether a demonstration ends early; false where none is taken in, as for an evaluation."""
        if self.dataset is None or not (self._fitting or self.before_fit):
            return False
        store = self.store if hasattr(self, "store") else EpisodeStore(self.replay_dir)
        return any(store[i].terminated for i in range(self._ingested()))

    @property
    def longest_demonstration(self) -> int | None:
        """Steps of the longest demonstration; None where there is none."""
        return longest_demonstration(self.replay_dir) if self.dataset else None

    @property
    def demonstrated(self) -> Observation | None:
        """What demonstrations hold of what is learned from, with its statistics; None where there are none."""
        of = self.collecting
        return observed(self.replay_dir, of.observation, of.image_size) if self.dataset else None

    @property
    def demonstrated_scale(self) -> ActionScale | None:
        """What -1 and 1 stand for in demonstrated actions; None: themselves, or there are none."""
        return action_scale(self.replay_dir) if self.dataset else None

    @property
    def collected_end_early(self) -> bool:
        """Whether one of the newest round's episodes terminated."""
        newest = max(self.offline_episodes, len(self.store) - self.schedule.episodes_per_round)
        return any(self.store[i].terminated for i in range(newest, len(self.store)))

    @property
    def _learner(self) -> Learner:
        return cast(Learner, self.trainer.lightning_module)

    @property
    def _fitting(self) -> bool:
        return self.trainer.state.fn == "fit"

    @property
    def _limit(self) -> int | None:
        return None if self.replay_limit_gb is None else int(self.replay_limit_gb * 2**30)

    def _ingested(self) -> int:
        return ingested(self.replay_dir) if self.dataset is not None else 0

    # What batches are drawn from.

    @property
    def parts(self) -> dict[str, BatchPart]:
        """The parts of a batch; their lengths fit the episodes once there are some."""
        return self._parts or self._learner.parts()

    def refresh(self) -> None:
        """Takes the store's new episodes into each part's view."""
        if not self._parts and len(self.store):
            self._parts = self._fitted_parts()
        for name, part in self.parts.items():
            self._sets[name] = self._views.of(name, part)

    def _fitted_parts(self) -> dict[str, BatchPart]:
        """The agent's parts, where a default length is not longer than the longest of the first episodes."""
        first = self.offline_episodes or min(len(self.store), self.schedule.episodes_per_round)
        longest = max(episode.num_rows for episode in self.store.known[:first])
        if len(self.held_out):
            longest = min(longest, max(episode.num_rows for episode in self.held_out.known))
        return fitted_parts(self._learner.parts(), longest, self.given_settings)

    def demonstration_shares(self) -> dict[str, float]:
        """Which share of each part's sequences comes from demonstrations."""
        return {name: self._demonstrations(name, view) for name, view in self._sets.items()}

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

        A gradient step may accumulate several batches, of each of which every process has its rows: n processes take
        the steps of one, up to rounding.
        """
        trains = self.schedule.trains(index // self.trainer.accumulate_grad_batches)
        parts = self.parts.items()
        return {name: self._draw(name, part, index) for name, part in parts if trains in ("all", part.component)}

    def _draw(self, name: str, part: BatchPart, index: int) -> SequenceBatch:
        accumulate = self.trainer.accumulate_grad_batches
        step, batch = divmod(index, accumulate)
        sampler = SequenceSampler(self.store, self.seed, name, self._online_fraction(part), self._mirror)
        size = part.size // self.world_size
        shard, shards = batch * self.world_size + self.rank, accumulate * self.world_size
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
        wanted, device = self.parts[part], self.trainer.strategy.root_device
        sampler = SequenceSampler(self.store, self.seed, name)
        batch = sampler.sample(self.trainer.global_step, 0, 1, count, wanted.length, self._sets[part], wanted.history)
        return batch.map(lambda part: part.to(device))

    # Loaders.

    def train_dataloader(self) -> RoundLoader:
        """The batches of the round that comes next."""
        self._loader = RoundLoader(self.make_batch, self.trainer, self.schedule, self.prefetch)
        return self._loader

    @property
    def round_wait_seconds(self) -> float:
        """Seconds in which the present round's steps have waited for their batches."""
        return 0.0 if self._loader is None else self._loader.wait_seconds

    def val_dataloader(self) -> list[Any]:
        """Evaluation seeds, and held-out batches; empty in rounds after which no evaluation is due."""
        loaders: list[Any] = [self._seeds(EVALUATION_SEEDS, self.evaluation.eval_episodes)]
        if not self._fitting:
            return loaders
        assert self._loader is not None  # of the round, which Lightning asks for first
        if not self.schedule.evaluation_due(self._loader.round, self.evaluation.eval_every):
            return []
        if len(self.held_out):
            loaders.append(HeldOut(self.held_out, self.seed, self.parts, self.rank, self.world_size))
        return loaders

    def test_dataloader(self) -> SeedBatches:
        """Test seeds, disjoint from training and evaluation."""
        return self._seeds(TEST_SEEDS, self.evaluation.test_episodes)

    def _seeds(self, first: int, count: int) -> SeedBatches:
        return SeedBatches(first, count, self.rank, self.world_size, self.collecting.side_by_side)

    # Resume.

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know: the episodes of this checkpoint."""
        return {"manifest": self.store.manifest(), "world_size": self.world_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back the checkpoint's episodes; whatever came after it is ignored, and replaced by later appends."""
        if self._fitting:
            self.store.restore(state_dict["manifest"])
            self.refresh()


def _range(setting: float | tuple[float, float]) -> tuple[float, float]:
    """A setting of one number or two: least and most."""
    low, high = setting if isinstance(setting, tuple | list) else (setting, setting)
    return low, high
