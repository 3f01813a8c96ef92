"""Evaluation: the policy's mode on seeds of its own, what it came to, episode by episode, and a video of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from moto_pl.agents.base import Agent
from moto_pl.envs.observation import cameras_beside
from moto_pl.errors import SettingError
from moto_pl.evaluations import FILE
from moto_pl.files import make_directory, naming, open_to_add, sync
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import episode_batch
from moto_pl.rollout.roll import Rolled, roll_on
from moto_pl.schedule import Schedule

from .collect import CollectEpisodes
from .metrics import VALUE_FIGURES, EpisodeMetrics, return_to_go
from .run import fitting, gathered, run_agent, stopping_together
from .video import side_by_side, write_video

#: What a record says of each episode; see :class:`moto_pl.report.records.Evaluation`.
EPISODE_FIELDS = ("seed", "return", "success", "success_last", "success_steps", "length")
#: Rewards beyond a time limit may be left out of a return-to-go that are discounted to less than this.
CUT_SHARE = 0.05
_EVALUATE = 0xE7A1


@dataclass(frozen=True)
class EvaluationSettings:
    """When and on what is evaluated: settings of ``data``, under their names there, which say what they mean."""

    eval_episodes: int = 20
    eval_every: int = 0
    value_steps: int = 300
    value_every: int = 5
    test_episodes: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("eval_episodes", "test_episodes", "eval_every"):
            if getattr(self, name) < 0:
                raise SettingError(f"data.{name}", getattr(self, name), "Give 0 or more.")
        if self.value_steps < 0:
            raise SettingError("data.value_steps", self.value_steps, "Give a number of steps; 0 for none.")
        if self.value_every < 1:
            raise SettingError("data.value_every", self.value_every, "Give at least 1 evaluation.")

    def steps_beyond(self, schedule: Schedule, step: int, in_training: bool) -> int:
        """Steps that the episodes of an evaluation after gradient step ``step`` go on after a time limit."""
        if step == 0:
            return 0
        phase_end = schedule.phase(step) in ("pretrained", "final")
        due = self.eval_every == 0 or step // self.eval_every % self.value_every == 0
        return self.value_steps if phase_end or due or not in_training else 0


class SeedBatches:
    """A process's share of environment seeds, int64, as many at a time as there are environments.

    Whole batches are dealt out: what an episode draws depends on those beside it, never on the processes. Each gets as
    many, because after each batch they agree on whether to go on; those beyond the last seed are empty.

    Args:
        first: seed of all processes.
        count: how many there are, 0 or more.
        rank: this process, in [0, ``world_size``).
        world_size: how many processes share them.
        size: seeds of a batch, at least 1.
    """

    def __init__(self, first: int, count: int, rank: int, world_size: int, size: int) -> None:
        batches = torch.arange(first, first + count).split(size)
        own, most = batches[rank::world_size], -(-len(batches) // world_size)
        self.batches = [*own, *[batches[0][:0]] * (most - len(own))]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)


class EvaluateEpisodes(L.Callback):
    """Rolls the episodes of validation and test, whose batches are seeds, and says what they came to.

    Logs ``eval/...`` and ``test/...``, appends each evaluation's episodes to ``evaluations.jsonl`` and writes a video
    of the first few.

    Args:
        settings: when, and how far beyond a time limit.
        collect: in whose environments.
        videos: episodes side by side in a video; 0 writes none.
    """

    def __init__(self, settings: EvaluationSettings, collect: CollectEpisodes, videos: int = 4) -> None:
        if videos < 0:
            raise SettingError("video_episodes", videos, "Give a number of episodes; 0 for no video.")
        self.settings, self.collect, self.videos = settings, collect, videos
        self.metrics = EpisodeMetrics()
        self.value_figures: dict[str, float] = {}  # what the last evaluation found of the critics' values
        self._results: list[dict[str, Any]] = []
        self._videos: list[np.ndarray] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins a record."""
        self._results, self._videos = [], []

    on_test_start = on_validation_start

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Rolls the episodes of a batch of seeds."""
        if dataloader_idx == 0:
            with trainer.precision_plugin.val_step_context():
                self._evaluate(trainer, run_agent(pl_module), batch.tolist())

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Rolls the episodes of a batch of seeds."""
        with trainer.precision_plugin.test_step_context():
            self._evaluate(trainer, run_agent(pl_module), batch.tolist())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs what the evaluation episodes came to."""
        self._log(run_agent(pl_module), "eval")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs what the test episodes came to."""
        self._log(run_agent(pl_module), "test")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the record."""
        self._write(trainer, pl_module, "eval")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the record."""
        self._write(trainer, pl_module, "test")

    def _evaluate(self, trainer: L.Trainer, agent: Agent, seeds: list[int]) -> None:
        self.metrics.objects = self.collect.objects
        self.metrics.to(agent.device)
        rolled = self.roll(trainer, agent, seeds)
        self.metrics.update([episode for episode, _ in rolled])
        if agent.trained_steps > 0:
            with agent.acting_weights():
                for number, (episode, beyond) in enumerate(rolled):
                    self.add_values(agent, episode, beyond, Key(agent.seed, number).fold(_EVALUATE))
        self._add([episode for episode, _ in rolled], seeds)

    def roll(self, trainer: L.Trainer, agent: Agent, seeds: list[int]) -> list[Rolled]:
        """Rolls evaluation episodes with the mode of the policy; none on a rank beyond the last seed."""
        rolled: list[Rolled] = []
        with stopping_together(trainer):
            if seeds:
                key = Key(self.settings.seed, seeds[0]).fold(_EVALUATE)
                beyond = self.settings.steps_beyond(agent.schedule, agent.trained_steps, fitting(trainer))
                beyond *= agent.has_values  # else nobody asks what is earned there
                rolled = roll_on(self.collect.pool, agent, seeds, "mode", key, beyond=beyond)
        return rolled

    @torch.no_grad()
    def add_values(self, agent: Agent, episode: Episode, beyond: np.ndarray, key: Key) -> None:
        """Compares the critics with what was earned, in the episode and in ``beyond`` [n] steps after a truncation."""
        value = agent.action_values(episode_batch(episode, agent.device), key)
        if value is None:
            return
        earned = return_to_go(np.concatenate((episode.reward, beyond)), agent.gamma)[: episode.length]
        # What is left out counts for less than a twentieth of what the last step's return is made of.
        cut = not episode.terminated and agent.gamma ** len(beyond) > CUT_SHARE
        self.metrics.add_values(value.float().cpu().numpy(), earned, cut)

    def _log(self, agent: Agent, stage: str) -> None:
        found = self.metrics.compute()
        self.value_figures = {name: float(found[name]) for name in found if name in VALUE_FIGURES}
        for name, value in found.items():
            agent.log(f"{stage}/{name}", value, prog_bar=name in ("return", "success", "success_last", "objects"))
        self.metrics.reset()

    def _add(self, episodes: list[Episode], seeds: list[int]) -> None:
        for seed, episode in zip(seeds, episodes, strict=True):
            completed = episode.ever_completed
            self._results.append(
                {
                    "seed": seed,
                    "return": episode.total_reward,
                    "success": episode.succeeded,
                    "success_last": episode.success_last,
                    "success_steps": episode.success_steps,
                    "length": episode.length,
                    "completed": [] if completed is None else completed.tolist(),
                }
            )
            if len(self._videos) < self.videos:
                self._videos.append(cameras_beside(episode.image))

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        of_all = gathered(trainer, self._results)
        results = sorted((row for rank in of_all for row in rank), key=lambda row: row["seed"])
        if not results or not trainer.is_global_zero:
            return
        root = Path(trainer.default_root_dir)
        agent = run_agent(pl_module)
        step = agent.trained_steps
        record = {
            "stage": stage,
            "step": step,
            "phase": agent.schedule.phase(step),
            "online_episodes": self.collect.collected_episodes,
        }
        record |= {name: [row[name] for row in results] for name in EPISODE_FIELDS}
        record |= self.value_figures
        if objects := self.collect.objects:
            record["objects"] = list(objects)
            record["completed"] = [row["completed"] for row in results]
        make_directory(root)
        with naming(root / FILE), open_to_add(root / FILE) as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync(root)
        if self._videos:
            write_video(root / "videos" / f"{stage}_{step:07d}.mp4", side_by_side(self._videos))
