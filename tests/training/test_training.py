"""Every agent on the debug configuration by ``--model`` alone, and lengths that fit themselves to the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moto_pl.cli import main
from moto_pl.training.cli import MotoCLI
from runs import AGENTS, command, small

DEBUG = Path(__file__).parents[2] / "configs/debug.yaml"


def fit(run: Path, dataset: Path, *args: str) -> list[str]:
    """One gradient step, and no evaluation to speak of."""
    return [
        *("fit", "--config", str(DEBUG), "--trainer.default_root_dir", str(run), "--data.dataset", str(dataset)),
        *("--data.build_missing", "false", "--data.offline_steps", "1", "--data.offline_round_steps", "1"),
        *("--data.online_steps", "0", "--data.eval_episodes", "1", "--data.env_workers", "0"),
        *("--video_episodes", "0", "--evaluate_untrained", "false", "--data.value_steps", "0", *args),
    ]


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_agent_starts_by_its_name(
    agent: str,
    reach_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    args = fit(tmp_path / "run", reach_dataset, "--model", f"moto_pl.agents.{agent}", *small(agent))
    assert main(args) == 0, capsys.readouterr().err
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 1
    line = "model.init_args.batch.model_length: 31 in place of the default 50, because the longest episode has 31 rows"
    fitted = [message for message in caplog.messages if "in place of the default" in message]
    assert fitted == ([line] if agent in ("LOMPO", "COMBO") else [])


@pytest.mark.parametrize("given", ["line", "file"])
def test_a_length_that_was_given_is_not_changed(
    given: str, reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even where it is the default."""
    more = ["--model", "moto_pl.agents.LOMPO", *small("LOMPO")]
    if given == "line":
        more += ["--model.init_args.batch.model_length", "50"]
    else:
        (tmp_path / "more.yaml").write_text("model:\n  init_args:\n    batch:\n      model_length: 50\n")
        more += ["--config", str(tmp_path / "more.yaml")]
    assert main(fit(tmp_path / "run", reach_dataset, *more)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "model.init_args.batch.model_length: found sequences of 50 rows" in error and "31 rows" in error
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_frames_of_one_observation_are_not_fewer(
    reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--model", "moto_pl.agents.BC", *small("BC"), "--model.init_args.pixels.frame_stack", "31"]
    assert main(fit(tmp_path / "run", reach_dataset, *more)) == 2
    assert "model.init_args.pixels.frame_stack: found sequences of 32 rows" in capsys.readouterr().err


def test_a_run_that_fitted_its_lengths_goes_on(reach_dataset: Path, tmp_path: Path) -> None:
    more = ["--model", "moto_pl.agents.COMBO", *small("COMBO")]
    assert main(fit(tmp_path / "run", reach_dataset, *more)) == 0
    assert main([*fit(tmp_path / "run", reach_dataset, *more), "--data.offline_steps", "2"]) == 0
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(("value", "calls"), [("true", 1), ("false", 0), (None, 1)])
def test_keep_memory(value: str | None, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting rules the allocator, before the first step."""
    events: list[str] = []
    monkeypatch.setattr("moto_pl.training.cli.keep_freed_memory", lambda: events.append("kept"))
    monkeypatch.setattr(MotoCLI, "_fit", lambda *_: events.append("fitted"))
    args = () if value is None else ("--keep_memory", value)
    assert main(command(tmp_path / "run", "--data.dataset", "none", "--trainer.accelerator", "cpu", *args)[3:]) == 0
    assert events == ["kept"] * calls + ["fitted"]
