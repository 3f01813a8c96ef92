"""``moto push``: what goes to the hub, what does not, and that the other side can use it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from moto_pl.agents.loading import load_agent
from moto_pl.cli import main
from moto_pl.hub import FOLDER, WEIGHTS
from moto_pl.training.initial import read_initial
from report_runs import add_evaluation, add_video
from small_agents import make, save

SECRET = b"a secret"


@pytest.fixture()
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture()
def run(tmp_path: Path) -> Path:
    """A run whose weights at step 7 have an average, an optimizer and two films."""
    root = tmp_path / "run"
    average = {name: tensor + 1 for name, tensor in make("BC").state_dict().items() if tensor.is_floating_point()}
    optimizer = [{"state": {}, "param_groups": [{"lr": 0.1}]}]
    for name in ("best", "last"):
        save(make("BC"), root / f"checkpoints/{name}.ckpt", average=average, optimizer_states=optimizer)
    data = {
        "env": "moto_pl/Reach-v0", "env_options": {"episode_steps": 5}, "offline_steps": 7, "online_steps": 0,
        "offline_round_steps": 7, "updates_per_episode": 1,
    }  # fmt: skip
    config = {"model": {"class_path": "moto_pl.agents.BC"}, "data": data}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    add_evaluation(root, "eval", 0, "untrained", 0, 20)
    add_evaluation(root, "eval", 7, "final", 17, 20, success_last=[True] * 5 + [False] * 15, success_steps=[2] * 20)
    add_evaluation(root, "test", 7, "final", 3, 4)
    add_evaluation(root, "eval", 99, "online", 11, 20)  # of later weights
    for name in ("eval_0000000", "eval_0000007", "eval_0000099", "open_loop_0000007"):
        add_video(root, name, name.encode())
    (root / "replay").mkdir()
    (root / "replay/000000.safetensors").write_bytes(SECRET)
    (root / "notes.txt").write_bytes(SECRET)
    return root


def test_what_goes_there(run: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "hf://me/reach", "--license", "mit"]) == 0
    there = shelf / "me/reach"
    files = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    films = {"videos/eval_0000007.mp4", "videos/open_loop_0000007.mp4"}
    assert files == {"README.md", "LICENSE", "config.yaml", "evaluations.jsonl", WEIGHTS, *films}
    assert all(SECRET not in (there / name).read_bytes() for name in files)
    out = capsys.readouterr().out
    assert all(name in out for name in files) and f"pushed: {there}" in out
    content = torch.load(there / WEIGHTS, weights_only=True)
    assert set(content) == {"agent", "state_dict", "average", "global_step"} and content["average"] == {}
    weights = make("BC").state_dict()
    assert all(
        torch.equal(content["state_dict"][name], tensor + 1 if tensor.is_floating_point() else tensor)
        for name, tensor in weights.items()
    )
    card = (there / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "mit" and "bc" in head["tags"]
    rows = [line for line in card.splitlines() if re.match(r"\| (test|evaluation) ", line)]
    assert len(rows) == 3 and not any("99" in row for row in rows)
    assert "| evaluation | 7 | 17 of 20 | 64% to 95% | 5 of 20 | 2.0 |" in card and "| test | 7 | 3 of 4 |" in card
    assert all(f'src="{film}"' in card for film in films) and "--init hf://me/reach" in card
    assert "Permission is hereby granted" in (there / "LICENSE").read_text()


def test_the_other_side_begins_with_it_and_plays_it(run: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "me/reach"]) == 0
    pushed, own = load_agent(shelf / "me/reach" / WEIGHTS), load_agent(run / "checkpoints/best.ckpt")
    assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in pushed.state_dict().items())
    assert read_initial("hf://me/reach").tensors.keys() == own.state_dict().keys()
    capsys.readouterr()
    said = []
    for path in (run / "checkpoints/best.ckpt", shelf / "me/reach" / WEIGHTS):
        assert main(["play", str(path), "--episodes", "2"]) == 0
        said.append(capsys.readouterr().out.splitlines()[:3])
    assert said[0] == said[1]
    assert main(["push", str(run), "me/reach", "--license", "apache-2.0", "--checkpoint", "last"]) == 0  # again
    card = (shelf / "me/reach/README.md").read_text()
    assert "license: apache-2.0" in card and "last.ckpt" in card and "were chosen by" not in card


def test_a_dry_run_pushes_nothing(run: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "me/reach", "--dry_run"]) == 0
    assert "nothing was pushed" in capsys.readouterr().out and not shelf.exists()


@pytest.mark.parametrize(
    "name", ["config.yaml", "evaluations.jsonl", "checkpoints/best.ckpt", "videos/eval_0000007.mp4", "videos"]
)
@pytest.mark.parametrize("inside", [False, True])
def test_nothing_from_outside_the_run_is_pushed(
    name: str, inside: bool, run: Path, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link, to a whole file elsewhere or in the run."""
    path = run / name
    moved = (run if inside else tmp_path) / f"moved_{path.name}"
    path.rename(moved)
    path.symlink_to(moved)
    code = main(["push", str(run), "me/reach"])
    error = capsys.readouterr().err
    if name == "videos" and inside:
        assert code == 0  # a folder of the run under another name of the run
        return
    assert code == 2 and "a link that may lead elsewhere" in error and error.count("\n") == 1
    assert not shelf.exists()


def test_a_pipe_is_no_file(run: Path, shelf: Path) -> None:
    import os

    (run / "evaluations.jsonl").unlink()
    os.mkfifo(run / "evaluations.jsonl")
    assert main(["push", str(run), "me/reach"]) == 2 and not shelf.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}", "me"], "name: found 'me'"),
        (["{run}", "../../me/x"], "name: found '../../me/x'"),
        (["{run}", "me/x", "--license", "a: b"], "--license: found 'a: b'"),
        (["{run}/nowhere", "me/x"], "run: found no directory"),
        (["{run}/replay", "me/x"], "run: found"),
    ],
)
def test_what_does_not_fit_is_one_line(
    words: list[str], said: str, run: Path, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", *(word.format(run=run) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not shelf.exists()


def test_a_run_without_a_checkpoint(run: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints/best.ckpt").unlink()
    assert main(["push", str(run), "me/reach"]) == 2
    assert "has no checkpoints/best.ckpt" in capsys.readouterr().err
