"""Checkpoints that survive a kill at any moment, and say everything a run needs to go on bit for bit."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from moto_pl import signals
from moto_pl.checkpoints import BEST, LAST, PRETRAINED
from moto_pl.errors import SettingError
from moto_pl.reading import check

from .run import fitting, gathered, run_agent, run_data


class RunCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` as rounds end and on signals, ``pretrained.ckpt`` at the end of the offline phase.

    The one before the last is kept as ``previous.ckpt``, the one that did best in an evaluation as ``best.ckpt`` (it
    was chosen by the evaluation episodes: judge it on the test seeds); all others are replaced.

    On SIGTERM and SIGUSR1 (what schedulers send before they kill) and SIGINT (Ctrl-C) the gradient step in progress is
    finished, a checkpoint is written, and the process exits with status 128 + the signal's number. While episodes are
    rolled it exits before the next environment step; half episodes are dropped, and rolled again when the run goes on:
    in collecting, from a checkpoint of the round's beginning; in an evaluation, from the last checkpoint. Every rank's
    random generators are in each checkpoint.

    Where Lightning ends the run (``max_steps``, ``max_time``, a callback) it does so after a whole gradient step, with
    a checkpoint; within a round nothing is evaluated, because the unbroken run would not evaluate there.

    Args:
        every_n_rounds: rounds between checkpoints; phase ends are always saved.
    """

    def __init__(self, every_n_rounds: int = 1) -> None:
        if every_n_rounds < 1:
            raise SettingError("checkpoint_every", every_n_rounds, "Give at least 1 round.")
        self.every_n_rounds = every_n_rounds
        self.best: tuple[float, ...] = (-1.0, -float("inf"))  # success and return
        self._evaluated: tuple[float, ...] | None = None  # the same of the round's evaluation, until it is compared
        self._newest: dict[str, Any] = {}
        self._handlers: dict[int, Any] = {}
        self._saved: int | None = None  # the last checkpoint's step
        self._exiting = False
        self._stopping = False  # Lightning was told to stop; it does once a gradient step is whole
        self._limit_val_batches: int | float | None = None  # what it was before it was set aside

    def state_dict(self) -> dict[str, Any]:
        """What the best evaluation so far came to."""
        return {"best": list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on comparing."""
        try:
            self.best = tuple(check(state_dict, {"best": list[float]})["best"])
        except ValueError as error:
            fix = "Give another checkpoint of the run."
            raise SettingError("ckpt_path", f"a checkpoint whose best evaluation is none ({error})", fix) from None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes over the signals, after Lightning has set its own handlers."""
        self._stopping = False
        self._handlers = signals.take_over(signals.later)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        signals.give_back(self._handlers)
        self._handlers = {}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Where a signal came while episodes were rolled: says so, and saves what is not saved yet."""
        if not isinstance(exception, signals.Stopped) or not self._handlers or self._exiting:
            return
        schedule = run_agent(pl_module).schedule
        step = trainer.global_step
        begins = schedule.start_of(schedule.round_of(step)) == step and not trainer.validating
        if begins and step > 0 and self._saved != step:
            self._save(trainer, LAST)
        rank_zero_info(
            f"{exception.name}: stopped in an episode, which is dropped; the same command goes on from "
            f"{'the beginning' if self._saved is None else f'step {self._saved}'}."
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Answers a signal at the first step boundary; the last one of a round is left to the round's end."""
        stop = signals.noted() is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stop and whole_step and not trainer.is_last_batch:
            self._save_and_exit(trainer)
        self._stopping |= self._stops(trainer)
        trainer.should_stop = self._stopping and whole_step
        if trainer.should_stop and not trainer.is_last_batch:
            self._save(trainer, LAST)
            # Lightning would evaluate as it stops.
            self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes note of what a round's evaluation came to; where no episode is evaluated it comes to nothing."""
        metrics = trainer.callback_metrics
        if fitting(trainer) and "eval/success" in metrics:
            self._evaluated = tuple(float(metrics[f"eval/{name}"]) for name in ("success", "return"))

    @staticmethod
    def _stops(trainer: L.Trainer) -> bool:
        """Whether Lightning is about to end the run."""
        return trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves as the round ends."""
        if self._limit_val_batches is not None:  # it ends early, and is saved
            trainer.limit_val_batches, self._limit_val_batches = self._limit_val_batches, None
            if signals.noted() is not None:
                self._exit(trainer)
            return
        schedule = run_agent(pl_module).schedule
        step = trainer.global_step
        if self._is_best():
            self._save(trainer, BEST)
        due = step in (schedule.pretraining_steps, schedule.total_steps) or self._stops(trainer)
        if due or (trainer.current_epoch + 1) % self.every_n_rounds == 0:
            self._save(trainer, LAST)
            if step == schedule.pretraining_steps:
                self._save(trainer, PRETRAINED)
        if signals.noted() is not None:
            self._save_and_exit(trainer)

    def _is_best(self) -> bool:
        """Whether an evaluation has just been better than all before it."""
        found, self._evaluated = self._evaluated, None
        if found is None or found <= self.best:
            return False
        self.best = found
        return True

    def _save_and_exit(self, trainer: L.Trainer) -> None:
        self._save(trainer, LAST)
        self._exit(trainer)

    def _exit(self, trainer: L.Trainer) -> None:
        stopped = signals.Stopped(signals.noted() or signal.SIGTERM)
        rank_zero_info(
            f"{stopped.name}: saved {self._path(trainer, LAST)} at step {trainer.global_step}; the same command goes "
            "on from there."
        )
        self._exiting = True
        raise stopped

    def _save(self, trainer: L.Trainer, name: str) -> None:
        path = self._path(trainer, name)
        trainer.save_checkpoint(path, weights_only=False)
        if run_data(trainer).writes and not trainer.is_global_zero:
            # Each machine has a disk of its own and resumes from it. Every rank has put together what rank 0 saved.
            trainer.strategy.checkpoint_io.save_checkpoint(self._newest, path)
        self._newest = {}
        if name == LAST:
            self._saved = trainer.global_step
        trainer.strategy.barrier("saved")

    @staticmethod
    def _path(trainer: L.Trainer, name: str) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / name

    # Random generators. Nothing of ours draws from them (all draws are keyed), but a user's callback may.

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gathers the generators of every rank."""
        checkpoint["rng"] = gathered(trainer, rng_state())
        self._newest = checkpoint  # the module's own part is added after this

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gives this rank its generators back."""
        self._saved = int(checkpoint["global_step"])
        states = checkpoint.get("rng", [])
        if trainer.global_rank < len(states):
            try:
                set_rng_state(states[trainer.global_rank])
            except (ValueError, TypeError, RuntimeError, OverflowError) as error:
                fix = "Give another checkpoint of the run."
                raise SettingError("ckpt_path", f"states of random generators that are none ({error})", fix) from None
        if len(states) != trainer.world_size:
            rank_zero_warn(
                f"The checkpoint was written by {len(states)} processes and is resumed by {trainer.world_size}: "
                "batches and episodes stay the same, sums are rounded otherwise (docs/distributed.md)."
            )


def rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's, torch's and CUDA's generators as tensors and plain types."""
    kind, keys, position, has_gauss, gauss = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    return {
        "python": [list(part) if isinstance(part, tuple) else part for part in random.getstate()],
        "numpy": [str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of :func:`rng_state`."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
