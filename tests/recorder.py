"""Runs whose gradient steps are recorded and run again, as a CUDA graph's would be, on a CPU."""

from __future__ import annotations

import lightning as L

from moto_pl.agents import capture


class RecordSteps(L.Callback):
    """Lets a run on a CPU capture its steps."""

    def __init__(self) -> None:
        if "cpu" not in capture.DEVICES:
            capture.DEVICES.append("cpu")
        self.replayed = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def recorded(step: capture.Step) -> capture.Step:
            def replay() -> capture.Outcome:
                self.replayed += 1
                return step()

            return replay

        capture.recorded = recorded

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        print(f"{self.replayed} steps were replayed", flush=True)


class Watches(L.Callback):
    """A user's callback that looks at each backward pass."""

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert any(parameter.grad is not None for parameter in pl_module.parameters())
