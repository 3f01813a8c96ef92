"""A run's progress is not begun anew in silence, whatever has become of its checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from moto_pl.cli import main
from moto_pl.evaluations import read_evaluations
from moto_pl.schedule import Schedule
from moto_pl.training.restart import refuse_lost_progress
from runs import assert_same_end, command, final


def fit(run: Path, dataset: Path, *args: str) -> list[str]:
    """Eight offline gradient steps in one round, evaluated after it, and four online in two."""
    return [
        *command(run, "--data.dataset", str(dataset), "--data.build_missing", "false")[3:],
        *("--data.offline_steps", "8", "--data.offline_round_steps", "8"),
        *("--data.online_steps", "4", "--data.updates_per_episode", "2", *args),
    ]


def contents(directory: Path) -> dict[str, bytes | None]:
    """Everything below a directory, byte for byte."""
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None for p in directory.rglob("*")}


@pytest.fixture(scope="module")
def unbroken(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    assert main(fit(run, reach_dataset)) == 0
    return run


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("lost", ["damaged", "missing"])
@pytest.mark.parametrize("left", ["best.ckpt", "pretrained.ckpt", "mine.ckpt"])
def test_it_goes_on_exactly_from_a_checkpoint_of_any_name(
    left: str, lost: str, reach_dataset: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a kill between the two renames leaves it, after which the disk lost what had been the last."""
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    directory = run / "checkpoints"
    if left == "mine.ckpt":
        shutil.copy(directory / "previous.ckpt", directory / left)
    for path in directory.glob("*.ckpt"):
        if path.name != left and lost == "damaged":
            cut(path)
        elif path.name != left:
            path.unlink()
    if lost == "damaged":
        (directory / "last.ckpt").unlink()
    with pytest.warns(UserWarning, match=f"Going on from .*{left}"):
        assert main(fit(run, reach_dataset)) == 0
    assert "resuming" in capsys.readouterr().out
    assert_same_end(unbroken, run, episodes=12, evaluated_at=(8, 12))
    if lost == "damaged":  # kept, and not pushed over a whole one
        assert (directory / "previous.ckpt.damaged").exists()


@pytest.mark.parametrize("kept", [("checkpoints", "replay"), ("replay",), ("evaluations.jsonl",)], ids="-".join)
def test_it_says_what_there_is_and_does_not_begin_anew(
    kept: tuple[str, ...], reach_dataset: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in kept:
        (shutil.copytree if (unbroken / name).is_dir() else shutil.copy)(unbroken / name, run / name)
    for path in run.glob("checkpoints/*.ckpt"):
        cut(path)
    before = contents(run)
    assert main(fit(run, reach_dataset)) == 2
    error = capsys.readouterr().err
    said = {"checkpoints": "last.ckpt (damaged", "replay": "2 online episodes", "evaluations.jsonl": "up to step 12"}
    line = error.splitlines()[-1]
    assert all(said[name] in line for name in kept) and "--restart" in line and str(run) in line
    after = contents(run)
    assert {name: after[name] for name in before} == before


def test_restart_moves_everything_aside_once(
    reach_dataset: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    cut(run / "checkpoints/last.ckpt")
    before = contents(run)
    assert main(fit(run, reach_dataset, "--restart")) == 0
    assert f"is now in {run / 'before_restart_1'}" in capsys.readouterr().out
    aside = contents(run / "before_restart_1")
    assert aside == {name: content for name, content in before.items() if name not in (".lock", "log.txt")}
    assert_same_end(unbroken, run, episodes=12, evaluated_at=(8, 12))
    # What it was asked for can be asked for again.
    assert yaml.safe_load((run / "config.yaml").read_text())["restart"] is False
    assert main(fit(run, reach_dataset)) == 0 and not (run / "before_restart_2").exists()
    for args in (
        ["validate", *fit(run, reach_dataset, "--restart")[1:]],
        fit(run, reach_dataset, "--restart", "--ckpt_path", "best"),
    ):
        assert main(args) == 2 and "--restart" in capsys.readouterr().err
    assert final(run)["global_step"] == 12


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    """With rounds of 8, 8, 2 and 2 gradient steps, and checkpoints after each, after the third, or at phases' ends."""
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay/dataset.json").write_text(json.dumps({"episodes": 3}))
    evaluation = {"stage": "eval", "phase": "", "online_episodes": 0}

    def left(step: int, episodes: int) -> None:
        (tmp_path / "evaluations.jsonl").write_text(json.dumps({**evaluation, "step": step}) + "\n")
        for path in tmp_path.glob("replay/*.safetensors"):
            path.unlink()
        for index in range(3 + episodes):
            (tmp_path / f"replay/{index:06d}.safetensors").touch()

    offline, online = Schedule(16, 4, 8, 2), Schedule(0, 8, 8, 2)
    for schedule, every, step, episodes, begins in [
        (offline, 1, 8, 0, True),
        (offline, 1, 16, 0, False),
        (offline, 5, 16, 0, True),
        (offline, 5, 18, 0, False),
        (offline, 5, 0, 1, False),
        (online, 2, 4, 2, True),
        (online, 2, 4, 3, False),
        (online, 2, 6, 2, False),
    ]:
        left(step, episodes)
        assert read_evaluations(tmp_path)[0]["step"] == step
        if begins:
            refuse_lost_progress(tmp_path, {}, schedule, every)
        else:
            with pytest.raises(Exception, match="--restart"):
                refuse_lost_progress(tmp_path, {}, schedule, every)
