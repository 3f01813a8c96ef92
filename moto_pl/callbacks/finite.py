"""Stops a run at the first gradient that is not finite, before it reaches the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer

from moto_pl.errors import SettingError
from moto_pl.files import whole


class FiniteGuard(L.Callback):
    """Looks at each component's gradient before the optimizer does.

    A gradient that is not finite stops the run: the batch is written to ``<run>/nonfinite/``, the weights are still
    good, and so is the last checkpoint. Under DDP gradients are summed before they are looked at, so all ranks stop.
    With ``max_skipped`` such steps are left out instead, up to that number in the whole run, resumes included.

    Args:
        max_skipped: gradient steps that may be left out, 0 or more.
    """

    def __init__(self, max_skipped: int = 0) -> None:
        if max_skipped < 0:
            raise SettingError("max_skipped", max_skipped, "Give a number of gradient steps, 0 or more.")
        self.max_skipped, self.skipped = max_skipped, 0
        self._batch: Any = None

    def state_dict(self) -> dict[str, Any]:
        """How many steps have been left out."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self.skipped = int(state_dict["skipped"])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remembers what the step learns from."""
        self._batch = batch

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Lets finite gradients pass."""
        if trainer.precision == "16-mixed":
            return  # its loss scaling meets infinities in passing, and leaves such steps out by itself
        names = [str(group["name"]) for group in optimizer.param_groups]
        norms = torch.stack(
            [
                torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
                for group in optimizer.param_groups
            ]
        )
        if bool(norms.isfinite().all()):
            return
        broken = [name for name, norm in zip(names, norms.tolist(), strict=True) if not -torch.inf < norm < torch.inf]
        path = self._save_batch(trainer)
        what = f"not finite for {', '.join(broken)} at gradient step {trainer.global_step}; its batch is in {path}"
        if self.skipped >= self.max_skipped:
            left_out = f", {self.skipped} steps having been left out" if self.skipped else ""
            raise SettingError(
                "gradient",
                what + left_out,
                "The last checkpoint is good. Lower the learning rates, look at that batch, or leave out such steps "
                "with --max_skipped.",
            )
        self.skipped += 1
        optimizer.zero_grad(set_to_none=True)
        rank_zero_warn(f"gradient: {what}. Step left out, {self.skipped} of {self.max_skipped}.")

    def eager_at(self, step: int) -> bool:
        """Whether a captured step would not do: it looks at its gradients itself, and leaves such a step out."""
        return False

    def left_out(self, count: int, names: list[str], first: int) -> None:
        """Counts what captured steps have left out, or stops the run.

        Args:
            count: steps left out since the last call.
            names: components whose gradients were not finite.
            first: number of the first such step.
        """
        what = f"not finite for {', '.join(names)} at {count} gradient step(s) from step {first} on"
        if self.skipped + count > self.max_skipped:
            raise SettingError(
                "gradient",
                what,
                "Weights are good. Lower the learning rates, or leave out such steps with --max_skipped; "
                "--capture false writes their batches.",
            )
        self.skipped += count
        rank_zero_warn(f"gradient: {what}. Left out, {self.skipped} of {self.max_skipped}.")

    def _save_batch(self, trainer: L.Trainer) -> Path:
        directory = Path(trainer.default_root_dir) / "nonfinite"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"step_{trainer.global_step:07d}_rank_{trainer.global_rank}.pt"
        parts = {
            name: {k: v.cpu() for k, v in part._asdict().items() if v is not None} for name, part in self._batch.items()
        }
        with whole(path) as file:
            torch.save(parts, file)
        return path
