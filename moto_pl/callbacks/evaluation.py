"""What each evaluation came to, episode by episode, and a video of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from moto_pl.evaluations import FILE
from moto_pl.files import make_directory, sync

from .video import side_by_side, write_video

#: What a record says of each episode; see :class:`moto_pl.report.records.Evaluation`.
EPISODE_FIELDS = ("seed", "return", "success", "success_last", "success_steps", "length")


class EvaluationRecorder(L.Callback):
    """Appends each evaluation's episodes to ``evaluations.jsonl`` and writes a video of the first few.

    Args:
        episodes: episodes side by side in a video; 0 writes none.
    """

    def __init__(self, episodes: int = 4) -> None:
        self.episodes = episodes
        self._results: list[dict[str, Any]] = []
        self._videos: list[np.ndarray] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins a record."""
        self._results, self._videos = [], []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins a record."""
        self._results, self._videos = [], []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the episodes that were just rolled."""
        if dataloader_idx == 0:
            self._add(trainer, batch)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the episodes that were just rolled."""
        self._add(trainer, batch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the record."""
        self._write(trainer, pl_module, "eval")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the record."""
        self._write(trainer, pl_module, "test")

    def _add(self, trainer: L.Trainer, seeds: torch.Tensor) -> None:
        for seed, episode in zip(seeds.tolist(), trainer.datamodule.last_evaluation, strict=True):  # type: ignore[attr-defined]
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
            if len(self._videos) < self.episodes:
                self._videos.append(episode.image)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        results = self._results
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, results)
            results = sorted((row for rank in gathered for row in rank), key=lambda row: row["seed"])
        if not results or not trainer.is_global_zero:
            return
        root = Path(trainer.default_root_dir)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        step = data.trained_steps
        record = {
            "stage": stage,
            "step": step,
            "phase": data.schedule.phase(step),
            "online_episodes": data.env_episodes,
        }
        record |= {name: [row[name] for row in results] for name in EPISODE_FIELDS}
        agent: Any = pl_module
        record |= agent.value_figures
        if data.objects:
            record["objects"] = list(data.objects)
            record["completed"] = [row["completed"] for row in results]
        make_directory(root)
        with open(root / FILE, "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync(root)
        if self._videos:
            write_video(root / "videos" / f"{stage}_{step:07d}.mp4", side_by_side(self._videos))
