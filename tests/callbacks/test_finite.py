"""A gradient that is not finite never reaches the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moto_pl.callbacks.finite import FiniteGuard
from moto_pl.cli import main
from moto_pl.errors import SettingError

CONFIG = Path(__file__).parents[2] / "configs/debug.yaml"

pytestmark = pytest.mark.slow


def poisoned(run: Path, dataset: Path, steps: list[int], *args: str) -> int:
    """A run in which the rewards of some steps' batches are NaN."""
    return main(
        [
            *("fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(run), "--data.env_workers", "0"),
            *("--data.dataset", str(dataset), "--data.build_missing", "false", "--data.eval_episodes", "0"),
            *("--data.offline_steps", "8", "--data.offline_round_steps", "2", "--data.online_steps", "0"),
            *("--trainer.callbacks+=faults.NaNAt", f"--trainer.callbacks.steps={steps}", *args),
        ]
    )


def test_a_run_stops_with_its_batch_saved(
    tmp_path: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert poisoned(tmp_path, reach_dataset, [5]) == 2
    message = capsys.readouterr().err
    assert "gradient: found not finite for model, critic at gradient step 5" in message and "--max_skipped" in message
    batch = torch.load(tmp_path / "nonfinite/step_0000005_rank_0.pt", weights_only=True)
    assert batch["model"]["reward"].isnan().all() and batch["model"]["image"].dtype == torch.uint8
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert all(bool(w.isfinite().all()) for w in checkpoint["state_dict"].values() if w.is_floating_point())


def test_some_steps_may_be_left_out(tmp_path: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="left out, 2 of 2"):
        assert poisoned(tmp_path, reach_dataset, [1, 5], "--max_skipped", "2") == 0
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8
    assert all(bool(w.isfinite().all()) for w in checkpoint["state_dict"].values() if w.is_floating_point())
    states = checkpoint["optimizer_states"][0]["state"]
    assert {int(state["step"]) for state in states.values()} == {6}  # Adam saw six gradients


def test_a_resumed_run_goes_on_counting(
    tmp_path: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="left out, 1 of 1"):
        assert poisoned(tmp_path, reach_dataset, [1, 5], "--max_skipped", "1") == 2
    assert "1 steps having been left out" in capsys.readouterr().err
    assert poisoned(tmp_path, reach_dataset, [5], "--max_skipped", "1") == 2
    assert "1 steps having been left out" in capsys.readouterr().err


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(SettingError, match="max_skipped"):
        FiniteGuard(-1)
