"""Collecting: the run's environments, and the episodes with which each online round begins."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from moto_pl.agents.base import Agent, RunFacts
from moto_pl.envs import task_objects
from moto_pl.envs.actions import ActionScale, ActionScaling
from moto_pl.envs.checks import NO_LIMIT_SET, EpisodeLimit
from moto_pl.envs.observation import IMAGE_ALONE, IMAGE_SIZE, Observation, ObservationConfig, check_image_size
from moto_pl.errors import SettingError
from moto_pl.ops import Key, Share
from moto_pl.replay import EpisodeView
from moto_pl.replay.episode import Episode
from moto_pl.rollout.background import Collector, Job
from moto_pl.rollout.explore import Exploration
from moto_pl.rollout.policy import ActMode
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes, training_seed
from moto_pl.threads import share_cores

from .metrics import EpisodeMetrics
from .run import RunData, fitting, gathered, run_agent, run_data, stopping_together

if TYPE_CHECKING:
    from moto_pl.datasets.minari_io import DatasetReader

_COLLECT = 0xC011


@dataclass(frozen=True)
class CollectSettings:
    """Where and how episodes are collected: settings of ``data``, under their names there, which say what they mean."""

    env: str
    env_options: dict[str, Any] = field(default_factory=dict)
    num_envs: int = 1
    env_workers: int = 2
    worker_timeout_s: float = 60.0
    max_episode_steps: int | None = None
    collect_mode: ActMode = "sample"
    exploration_noise: tuple[float, float] = (0.0, 0.0)
    exploration_hold: int = 1
    exploration_detours: tuple[float, float] = (0.0, 0.0)
    collect: Literal["alternate", "overlap"] = "alternate"
    exchange: Literal["shared", "broadcast"] = "shared"
    seed: int = 0
    observation: ObservationConfig = IMAGE_ALONE
    action_scale: ActionScaling = "bounds"
    image_size: int = IMAGE_SIZE
    action_repeat: int = 1

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        if self.action_repeat < 1:
            raise SettingError("data.action_repeat", self.action_repeat, "Give at least 1 step of the environment.")
        if self.env_workers < 0:
            raise SettingError("data.env_workers", self.env_workers, "Use 0 (in this process) or more.")
        if not 0 < self.worker_timeout_s < math.inf:
            raise SettingError("data.worker_timeout_s", self.worker_timeout_s, "Use a number of seconds above 0.")
        low, high = self.exploration_noise
        if not 0 <= low <= high < math.inf:
            raise SettingError(
                "data.exploration_noise", [low, high], "Give a standard deviation, 0 or more, or two: [least, most]."
            )
        if self.exploration_hold < 1:
            raise SettingError("data.exploration_hold", self.exploration_hold, "Give a number of steps, 1 or more.")
        if self.exploration_hold > 1 and high == 0:
            fix = "There is no noise to hold: give some data.exploration_noise, or leave it out."
            raise SettingError("data.exploration_hold", self.exploration_hold, fix)
        low, high = self.exploration_detours
        if not 0 <= low <= high <= 0.9:
            fix = "Give a share of the steps, 0 to 0.9, or two: [least, most]."
            raise SettingError("data.exploration_detours", [low, high], fix)
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise SettingError("data.max_episode_steps", self.max_episode_steps, "Give at least 1 step, or null.")

    @property
    def side_by_side(self) -> int:
        """Environments that a process has room for."""
        return max(1, self.env_workers)

    def check_share(self, world_size: int) -> None:
        """Refuses more environments a process than it has workers to run them."""
        share = -(-self.num_envs // world_size)
        if share > self.side_by_side:
            raise SettingError(
                "data.num_envs",
                f"{self.num_envs}, {share} for each process, which has room for {self.side_by_side}",
                f"Give at most {self.side_by_side * world_size}, or data.env_workers: {share}.",
            )


class CollectEpisodes(L.Callback):
    """Begins each online round with one episode of the present policy in each environment.

    It owns the environments (:class:`EvaluateEpisodes` rolls in them too), tells the agent of its run before the
    networks are made, and brings the processes' episodes together. An epoch is a round
    (:class:`~moto_pl.schedule.Schedule`); what other callbacks do as an epoch starts comes before its episodes if they
    stand before this one in the Trainer's list.

    Logs ``online/...``, what a round's episodes came to; ``speed/env_steps_per_s``, over all processes, which counts
    collecting time alone; ``speed/exchange``, the share (0 to 1) of it spent waiting for other processes; and
    ``batch/<part>_demonstrations``, the share of a part's sequences that come from demonstrations.

    Args:
        settings: which environments, and how.

    Attributes:
        collected_episodes: in the whole run, over all processes.
        env_steps: their steps.
        ahead: the weights that roll the episodes that are on their way (``overlap``); None where none are.
        collect_seconds: that this process has spent on collecting.
        exchange_seconds: that it has spent on the others' episodes, waiting for them among it.
    """

    def __init__(self, settings: CollectSettings) -> None:
        self.settings = settings
        self.collected_episodes = self.env_steps = 0
        self.collect_seconds = self.exchange_seconds = 0.0
        self.ahead: dict[str, Tensor] | None = None
        self._earlier_round: float | None = None  # episodes a round of a run from before they were in its checkpoint
        self._limit = NO_LIMIT_SET
        self._scale: ActionScale | None = None
        self._pool: EnvPool | None = None
        self._collector = Collector(*self._environments)

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the task's objects; empty where it has none."""
        return task_objects(self.settings.env, self.settings.env_options)

    @property
    def pool(self) -> EnvPool:
        """The environment workers, started at first use."""
        if self._pool is None:
            self._pool = EnvPool(*self._environments)
            if self._pool.resized:
                size = self.settings.image_size
                rank_zero_info(f"{self.settings.env}: {self._pool.resized}, resized to {size}x{size}")
        return self._pool

    @property
    def _environments(self) -> tuple[Any, ...]:
        """The arguments of :class:`EnvPool`."""
        of = self.settings
        workers = of.env_workers, of.worker_timeout_s, self._limit
        return of.env, of.env_options, *workers, of.image_size, of.observation, self._scale, of.action_repeat

    def meet(self, demonstrations: DatasetReader) -> None:
        """Starts the environment workers and compares them with demonstrations that have yet to be taken in.

        Raises:
            SettingError: they are not of this environment.
        """
        scale = demonstrations.scale
        # Percentiles are known once all actions were read: workers with another scale are then started anew.
        themselves = self.settings.action_scale == "bounds" and scale.identity
        self._set_out(demonstrations.longest, None if themselves else scale)
        self._compare(demonstrations.id, demonstrations.action_size, demonstrations.observation, demonstrations.bounded)

    def _set_out(self, longest: int | None, scale: ActionScale | None) -> None:
        """Settles how long episodes are and what actions stand for; workers that know it otherwise are ended."""
        limit = EpisodeLimit(self.settings.max_episode_steps, longest, self.settings.action_repeat)
        if self._pool is not None and (limit, scale) != (self._limit, self._scale):
            self._pool.close()
            self._pool = None
        self._limit, self._scale = limit, scale
        self._collector.environments = self._environments

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Shares out the machine's cores, starts the environment workers and tells the agent of its run."""
        data, settings = run_data(trainer), self.settings
        overlap = settings.collect == "overlap"
        threads = share_cores(trainer.num_devices, settings.env_workers + overlap, overlap)
        if fitting(trainer):
            settings.check_share(trainer.world_size)
            rank_zero_info(str(threads))
            # A checkpoint's own are taken back in on_load_checkpoint.
            self.collected_episodes = self.env_steps = 0
            self.ahead = None
        self._set_out(data.longest_demonstration, data.demonstrated_scale)
        seen = data.demonstrated
        if data.dataset is not None:
            recorded = data.store[0].action.shape[1] if fitting(trainer) and len(data.store) else None
            self._compare(data.dataset, recorded, seen)
        facts = RunFacts(
            self._action_size,
            data.terminates,
            data.schedule,
            data.writes,
            self.pool.observation if seen is None else seen,
            self._own_scale if seen is None else self._scale,
        )
        run_agent(pl_module).meet(facts)

    @property
    def _action_size(self) -> int:
        """Numbers of the environment's actions."""
        shape = self.pool.action_space.shape
        return int(shape[0]) if shape else 0

    @property
    def _own_scale(self) -> ActionScale | None:
        """What the environment says that actions stand for; None: themselves."""
        scale = ActionScale.of_box(self.pool.action_space)
        return None if scale is None or scale.identity else scale

    def _compare(self, dataset: str, action_size: int | None, seen: Observation | None, bounded: bool = True) -> None:
        """Refuses demonstrations that are not of this environment.

        Args:
            dataset: its name.
            action_size: numbers of its actions; None: not known.
            seen: what it holds of what is learned from; None: nothing.
            bounded: whether its Box says what actions stand for; else its actions will.
        """
        env, size, own = self.settings.env, self._action_size, self._own_scale
        if action_size not in (None, size):
            fix = f"{env} takes actions of size {size}: choose the dataset of that environment."
            raise SettingError("data.dataset", f"actions of size {action_size} in {dataset}", fix)
        if seen is None:
            return
        if bounded and self.settings.action_scale == "bounds" and own != self._scale:
            found = f"{own or '[-1, 1]'} of {env}, and {self._scale or '[-1, 1]'} of {dataset}"
            fix = "Choose the dataset of that environment, or set data.action_scale: percentile."
            raise SettingError("data.action_scale", f"bounds: {found}", fix)
        other = [
            f"'{name}' of {count} numbers in {env} and of {seen.state.get(name)} in {dataset}"
            for name, count in self.pool.observation.state.items()
            if seen.state.get(name) != count
        ]
        if other:
            fix = "Choose the dataset of that environment, or observations that both have alike."
            raise SettingError("data.observation", "; ".join(other), fix)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ends the environment workers, unless a fit is to follow (``before_fit``)."""
        self._collector.close()
        if self._pool is not None and not (run_data(trainer).before_fit and stage == "validate"):
            self._pool.close()
            self._pool = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Ends the collecting process: Python would wait for it, and it waits for the next job."""
        self._collector.close()

    # Rounds.

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Asks again for the episodes that were on their way when the checkpoint was written."""
        if self.settings.collect != "overlap":
            self.ahead = None
        try:
            self._ask(trainer, run_agent(pl_module))
        except (RuntimeError, TypeError, AttributeError) as error:
            found = f"a checkpoint whose policy of the episodes on their way is none ({str(error).splitlines()[0]})"
            raise SettingError("ckpt_path", found, "Give another checkpoint of the run.") from None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collects an online round's episodes, unless they were before a resume, and begins the round with them."""
        data, agent = run_data(trainer), run_agent(pl_module)
        online = data.schedule.round_of(trainer.global_step) - data.schedule.offline_rounds
        self._check_earlier_rounds(data, online)
        if online >= 0 and self.collected_episodes < (online + 1) * self.settings.num_envs:
            self._collect(trainer, agent, last=online + 1 == data.schedule.online_rounds)
        data.refresh()
        for name, share in data.demonstration_shares().items():
            agent.log(f"batch/{name}_demonstrations", share, on_epoch=True)
        agent.begin_round(data)

    def _check_earlier_rounds(self, data: RunData, online: int) -> None:
        """Refuses to go on with a run that took ``updates_per_episode`` for the steps of a whole round.

        Its rounds are where they were if the setting is now that number over the episodes of a round.
        """
        per_round, self._earlier_round = self._earlier_round, None
        num_envs = self.settings.num_envs
        if per_round is None or self.collected_episodes in (online * num_envs, (online + 1) * num_envs):
            return
        raise SettingError(
            "data.updates_per_episode",
            f"{data.schedule.updates_per_episode}, in a run that an earlier version began, for which it was the "
            f"gradient steps of a round of {per_round:g} episodes ({self.collected_episodes} episodes so far)",
            f"Divide the number that the run was begun with by {per_round:g} and give data.num_envs: {per_round:g} to "
            "go on as before, or start a new run.",
        )

    def _collect(self, trainer: L.Trainer, agent: Agent, last: bool) -> None:
        """A round's episodes; in the ``last`` round none are asked for ahead."""
        begun, exchanging = time.perf_counter(), self.exchange_seconds
        with stopping_together(trainer):
            if self._collector.busy:
                episodes = self._collector.fetch()
            else:
                job = self._job(trainer)
                episodes = roll_episodes(self.pool, agent, *job) if job.seeds else []
        collected = self._exchange(trainer, episodes)
        self.ahead = None
        steps = sum(episode.length for episode in collected)
        self.env_steps += steps
        if self.settings.collect == "overlap" and not last:
            self.ahead = agent.acting_snapshot()
            self._ask(trainer, agent)
        seconds = time.perf_counter() - begun
        self.collect_seconds += seconds
        metrics = EpisodeMetrics(self.objects)
        metrics.update(collected)
        for name, value in metrics.compute().items():
            agent.log(f"online/{name}", float(value), on_epoch=True, prog_bar=name == "success")
        if seconds > 0:
            exchanged = (self.exchange_seconds - exchanging) / seconds
            agent.log_dict({"speed/env_steps_per_s": steps / seconds, "speed/exchange": min(1.0, exchanged)})

    def _ask(self, trainer: L.Trainer, agent: Agent) -> None:
        """Asks the background for this process's episodes of the round to come, rolled by the weights ``ahead``."""
        if self.ahead is None:
            return
        job = self._job(trainer)
        if not job.seeds:
            return
        with agent.acting_as(self.ahead):
            self._collector.submit(agent, job)

    def _job(self, trainer: L.Trainer) -> Job:
        """What this process is to roll for the round that comes next; no seeds where others roll it all.

        What an episode draws depends on its number and its round alone, not on who rolls it.
        """
        # Counted in episodes, not rounds: a resume may change the number of environments.
        first, mine = self.collected_episodes, self._share(trainer)
        seeds = [training_seed(self.settings.seed, first + i) for i in mine]
        share = Share(mine.start, mine.stop, self.settings.num_envs) if mine else Share()
        key = Key(self.settings.seed, first, share).fold(_COLLECT)
        settings = self.settings
        explore = Exploration(settings.exploration_noise, settings.exploration_detours, settings.exploration_hold)
        return Job(seeds, settings.collect_mode, key, explore)

    def _share(self, trainer: L.Trainer) -> range:
        """Which of a round's episodes, from 0, this process collects."""
        rank, ranks, count = trainer.global_rank, trainer.world_size, self.settings.num_envs
        return range(rank * count // ranks, (rank + 1) * count // ranks)

    def _exchange(self, trainer: L.Trainer, episodes: list[Episode]) -> list[EpisodeView]:
        """Every process learns from every process's episodes, whose numbers do not depend on who rolled them.

        Args:
            trainer: of this process.
            episodes: those that this process rolled.

        Returns:
            All of the round's.
        """
        begun, data, exchange = time.perf_counter(), run_data(trainer), self.settings.exchange
        known = data.offline_episodes + self.collected_episodes
        first = known + self._share(trainer).start
        if exchange == "broadcast":
            first, episodes = known, [episode for rank in gathered(trainer, episodes) for episode in rank]
        if exchange == "shared" or trainer.local_rank == 0:
            for i, episode in enumerate(episodes):
                data.store.append(episode, first + i)
        trainer.strategy.barrier("collected")
        end = known + self.settings.num_envs
        try:
            data.store.refresh(end)
        except SettingError as error:
            if trainer.world_size == 1:
                raise
            raise SettingError(
                "data.exchange",
                f"{exchange}, and rank {trainer.global_rank} cannot read the round's episodes ({error})",
                "Give all machines one directory, or set data.exchange: broadcast.",
            ) from error
        self.collected_episodes += self.settings.num_envs
        self.exchange_seconds += time.perf_counter() - begun
        return [data.store[i] for i in range(known, end)]

    # Resume.

    def state_dict(self) -> dict[str, Any]:
        """The counters, and who rolls what is on its way."""
        state: dict[str, Any] = {"collected_episodes": self.collected_episodes, "env_steps": self.env_steps}
        return state if self.ahead is None else {**state, "ahead": self.ahead}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Goes on counting; in checkpoints of earlier versions the data module did."""
        state = checkpoint["callbacks"].get(self.state_key) or checkpoint["OfflineToOnlineDataModule"]
        self.collected_episodes, self.env_steps = state["collected_episodes"], state["env_steps"]
        self.ahead = state.get("ahead")
        if rounds := state.get("collected_rounds"):  # before num_envs and updates_per_episode meant what they say
            self._earlier_round = self.collected_episodes / rounds
