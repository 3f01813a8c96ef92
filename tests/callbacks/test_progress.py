"""What is said of a run while it trains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moto_pl.callbacks.progress import RunProgress


def test_an_evaluation_says_whether_the_policy_stays_in_success(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"success": 0.55, "success_last": 0.1, "success_steps": 4.7, "return": 6.25}
    agent: Any = SimpleNamespace(trained_steps=300, schedule=SimpleNamespace(phase=lambda step: "pretrained"))
    logged = {f"eval/{name}": torch.tensor(value) for name, value in metrics.items()}
    trainer: Any = SimpleNamespace(callback_metrics=logged)
    RunProgress().on_validation_end(trainer, agent)
    said = " ".join(capsys.readouterr().err.split())
    assert said == (
        "evaluation after 300 steps (pretrained): success 0.55, at the last step 0.10, 4.7 steps in success, return 6.2"
    )
