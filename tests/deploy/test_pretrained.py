"""Policies that come with the package: made from a run, found, and refused where they are not what was released."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from moto_pl.checkpoints import load_checkpoint
from moto_pl.cli import main
from moto_pl.deploy import pretrained
from moto_pl.deploy.weights import acting, halved
from moto_pl.hub import WEIGHTS
from small_agents import make, save


@pytest.fixture()
def run(tmp_path: Path) -> Path:
    root = tmp_path / "run"
    save(make("BC"), root / "checkpoints/best.ckpt", optimizer_states=[{"state": {}, "param_groups": []}])
    env = {"env": "moto_pl/Reach-v0", "env_options": {"episode_steps": 6}, "action_repeat": 2}
    data = {**env, "dataset": "/home/me/secret"}
    (root / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return root


@pytest.fixture()
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one policy, and an empty cache."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    monkeypatch.setattr(pretrained, "PACKAGED", folder)
    monkeypatch.setattr(pretrained.index, "__defaults__", (folder,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_made_found_and_played(run: Path, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = pretrained.release(run, "reach", episodes=2, folder=package)
    assert "half precision" in said and "of 2 episodes" in said
    content = load_checkpoint(package / "reach" / WEIGHTS)
    assert set(content) == {"agent", "state_dict", "average", "global_step"}
    assert {tensor.dtype for tensor in content["state_dict"].values()} <= {torch.float16, torch.int64}
    assert "secret" not in (package / "reach/config.yaml").read_text()
    assert main(["play", "--pretrained", "reach", "--episodes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "film: reach.mp4" and (tmp_path / "reach.mp4").stat().st_size > 0
    assert lines[0].endswith(" 3 steps")
    # The same folder in the cache, for a package that came without it.
    target = tmp_path / "cache/moto_pl/pretrained/reach"
    target.parent.mkdir(parents=True)
    (package / "reach").rename(target)
    assert pretrained.find("reach") == target / WEIGHTS


@pytest.mark.parametrize("file", [WEIGHTS, "config.yaml"])
@pytest.mark.parametrize("how", ["changed", "cut", "missing", "link"])
def test_a_file_that_was_not_released_is_refused(
    file: str, how: str, run: Path, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained.release(run, "reach", episodes=1, folder=package)
    path = package / "reach" / file
    content = path.read_bytes()
    if how == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "cut":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
        if how == "link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
    assert main(["play", "--pretrained", "reach"]) == 2
    error = capsys.readouterr().err
    assert "which is not the file that was released" in error and error.count("\n") == 1


def test_what_is_not_there_is_one_line(run: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*words: str) -> str:
        assert main(["play", *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    said = error("--pretrained", "drawer-open")
    assert "None was released yet: train one with moto demo, and" in said and "minutes" not in said
    pretrained.release(run, "reach", episodes=1, folder=package)
    assert "Give one of reach, or train" in error("--pretrained", "drawer-open")
    assert "None" not in error("--pretrained", "../reach")
    (package / "reach").rename(package / "gone")
    assert "Put the release's folder reach into" in error("--pretrained", "reach")
    assert "checkpoint: found nothing" in error()
    assert "with --pretrained reach" in error(str(run / "checkpoints/best.ckpt"), "--pretrained", "reach")


def test_half_precision_leaves_what_does_not_fit(run: Path) -> None:
    content = acting(run / "checkpoints/best.ckpt")
    names = [name for name, tensor in content["state_dict"].items() if tensor.dtype == torch.float32]
    content["state_dict"][names[0]] = torch.full((3,), 1e6)
    content["state_dict"][names[1]] = torch.tensor([1.0, 1e-3])
    half = halved(content)["state_dict"]
    assert half[names[0]].dtype == torch.float32 and half[names[1]].dtype == torch.float16
    assert torch.equal(half[names[0]], content["state_dict"][names[0]])


def test_where_half_precision_costs_successes_it_is_not_taken(
    run: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Episode:
        def __init__(self, succeeded: bool) -> None:
            self.succeeded = succeeded

    def rolled(agent: object, root: Path, count: int, **options: object) -> list[Episode]:
        half = torch.float16 in {t.dtype for t in torch.load(root / WEIGHTS)["state_dict"].values()}
        return [Episode(not half or i >= 2) for i in range(count)]

    monkeypatch.setattr(pretrained, "roll_own", rolled)
    said = pretrained.release(run, "reach", episodes=10, folder=package)
    assert "single precision; success in 10 of 10" in said and "half 8" in said
    weights = load_checkpoint(package / "reach" / WEIGHTS)["state_dict"]
    assert torch.float16 not in {tensor.dtype for tensor in weights.values()}
    pretrained.find("reach")


def test_what_the_package_ships_is_whole() -> None:
    """Every policy that lies in the package is in its index, with these checksums."""
    folders = {path.name for path in pretrained.PACKAGED.iterdir() if path.is_dir()}
    known = json.loads((pretrained.PACKAGED / "index.json").read_text())
    assert folders <= set(known)
    for name in folders:
        assert pretrained.find(name).stat().st_size < 16 * 2**20
