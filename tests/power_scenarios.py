"""What this package writes, each kind once, for tests/power.py to record; and what must hold after a power cut."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

from moto_pl.callbacks.video import write_video
from moto_pl.campaigns.plan import Campaign, read_campaign
from moto_pl.campaigns.progress import Note, State
from moto_pl.campaigns.results import keep_campaign, keep_rows, rows_path
from moto_pl.checkpoints import BEST, DurableCheckpointIO, find_checkpoint, load_checkpoint
from moto_pl.datasets import staging
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.evaluations import read_evaluations
from moto_pl.files import write_whole
from moto_pl.replay import Episode, EpisodeStore
from moto_pl.replay import index as files_index
from moto_pl.replay.latents import LatentReplay, LatentTransitions
from power import acknowledge


def episode(seed: int, steps: int = 4) -> Episode:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (steps + 1, 16, 16, 3)).astype(np.uint8)
    action, reward = random.uniform(-1, 1, (steps, 2)).astype(np.float32), np.full(steps, seed, np.float32)
    return Episode(image, action, reward, False, True, np.ones(steps, bool), {}, {"seed": seed})


def numbers(acknowledged: list[str]) -> list[int]:
    return [int(what) for what in acknowledged if what.isdigit()]


def store(root: Path) -> None:
    files_index._LEAST, files_index._SHARE = 1, 0.0  # written after every second episode
    replay = EpisodeStore(root / "run" / "replay")
    for index in range(3):
        replay.append(episode(index))
        acknowledge(f"{root.name}/{index}")


def check_store(root: Path, acknowledged: list[str]) -> None:
    replay = EpisodeStore(root / "run" / "replay")
    replay.verify()  # whatever has an episode's name is one
    known = len(replay)
    assert known >= len(acknowledged)
    assert len(list(replay.root.glob("*.safetensors"))) == known
    assert all(replay[index].info["seed"] == index for index in range(known))
    assert replay.append(episode(known)) == known


def transitions(seed: int) -> LatentTransitions:
    parts = (torch.full((3, 2), float(seed)), torch.zeros(3, 2), torch.zeros(3), torch.ones(3), torch.zeros(3, 2))
    return LatentTransitions(*parts)


def latents(root: Path) -> None:
    """The replay of latents and the checkpoints that name its files, as a run of LOMPO writes them."""
    replay = LatentReplay(100, root / "run" / "latent_replay")
    for step in range(1, 4):
        replay.add("real", transitions(step), step)
        replay.add("imagined", transitions(-step), step)
        checkpoint = {"state_dict": {"w": torch.ones(3000)}, "global_step": step, "manifest": replay.manifest()}
        DurableCheckpointIO().save_checkpoint(checkpoint, root / "run" / "checkpoints" / "last.ckpt")
        acknowledge(f"{root.name}/{step}")


def check_latents(root: Path, acknowledged: list[str]) -> None:
    newest, _ = find_checkpoint(root / "run" / "checkpoints")
    assert newest is not None or not acknowledged
    if newest is not None:
        found = load_checkpoint(newest)
        assert found["global_step"] >= max(numbers(acknowledged), default=0)
        replay = LatentReplay(100, root / "run" / "latent_replay")
        replay.restore(found["manifest"])
        assert len(replay.real) == 3 * found["global_step"]


def checkpoints(root: Path) -> None:
    for step in range(1, 5):
        checkpoint = {"state_dict": {"w": torch.full((5000,), float(step))}, "global_step": step}
        if step == 2:
            DurableCheckpointIO().save_checkpoint(checkpoint, root / "run" / "checkpoints" / BEST)
            acknowledge(f"{root.name}/best")
        DurableCheckpointIO().save_checkpoint(checkpoint, root / "run" / "checkpoints" / "last.ckpt")
        acknowledge(f"{root.name}/{step}")


def check_checkpoints(root: Path, acknowledged: list[str]) -> None:
    directory = root / "run" / "checkpoints"
    for path in directory.glob("*.ckpt") if directory.exists() else ():
        found = load_checkpoint(path)  # whatever has a checkpoint's name is one
        assert (found["state_dict"]["w"] == found["global_step"]).all()
    newest, _ = find_checkpoint(directory)
    step = 0 if newest is None else load_checkpoint(newest)["global_step"]
    assert step >= max(numbers(acknowledged), default=0)
    assert "best" not in acknowledged or load_checkpoint(directory / BEST)["global_step"] == 2


def files(root: Path) -> None:
    """A small file that is written again and again."""
    for number in range(1, 4):
        write_whole(root / "file.json", json.dumps({"number": number, "text": "x" * 5000}).encode())
        acknowledge(f"{root.name}/{number}")


def check_files(root: Path, acknowledged: list[str]) -> None:
    path = root / "file.json"
    number = json.loads(path.read_text())["number"] if path.exists() else 0
    assert number >= max(numbers(acknowledged), default=0)


def dataset(root: Path) -> None:
    """A dataset, and one that takes its place."""
    path = root / "sets" / "d"
    for seed in (1, 2):
        write_dataset(path, [episode(seed), episode(seed)], overwrite=seed == 2)
        acknowledge(f"{root.name}/{seed}")


_DATASETS: dict[object, list[int]] = {}


def check_dataset(root: Path, acknowledged: list[str]) -> None:
    path = root / "sets" / "d"
    if path.parent.exists():
        staging._sweep(path)  # what the next build begins with
    if not path.exists():
        assert not acknowledged
        write_dataset(path, [episode(3)])
        return
    content = tuple(sorted((part.name, part.read_bytes()) for part in path.rglob("*") if part.is_file()))
    if content not in _DATASETS:  # each opening takes a process that looks through it
        found = open_dataset(path)
        _DATASETS[content] = [int(found[index].reward[0]) for index in range(len(found))]
    one, other = _DATASETS[content]
    assert one == other >= max(numbers(acknowledged), default=0)


SETTINGS = {"source": "x" * 300, "size": 64}


def parts(root: Path) -> None:
    """The settings of a half rendered dataset, which decide whether it is gone on with."""
    staging.begin_parts(root / "sets" / "parts", SETTINGS, "rendered")
    acknowledge(f"{root.name}/1")


def check_parts(root: Path, acknowledged: list[str]) -> None:
    directory = root / "sets" / "parts"
    assert directory.exists() or not acknowledged
    staging.begin_parts(directory, SETTINGS, "rendered")
    assert json.loads((directory / "settings.json").read_text()) == SETTINGS


def campaign_of(root: Path) -> Campaign:
    path = root.parent / f"{root.name}.yaml"
    content = {"name": "c", "base": ["debug"], "tasks": {"t": {}}, "agents": {"MOTO": []}, "seeds": [0, 1]}
    path.write_text(json.dumps({**content, "runs": str(root / "runs"), "results": str(root / "results")}))
    return read_campaign(path)


def campaign(root: Path) -> None:
    """Notes and rows of a campaign's runs."""
    found = campaign_of(root)
    found.runs.mkdir()
    root_descriptor = os.open(root, os.O_RDONLY)
    os.fsync(root_descriptor)  # as moto campaign does
    os.close(root_descriptor)
    keep_campaign(found)
    state = State(found.runs)
    for number, run in enumerate(found.grid(), start=1):
        shutil.rmtree(run.directory, ignore_errors=True)
        run.directory.mkdir(parents=True)
        record = {"stage": "eval", "step": 40, "seed": [1], "success": [True], "return": [1.0], "length": [3]}
        (run.directory / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
        state._notes[run.name] = Note(failures=number)
        state.save()
        acknowledge(f"{root.name}/note {number}")
        keep_rows(found, run)
        acknowledge(f"{root.name}/{number}")


def check_campaign(root: Path, acknowledged: list[str]) -> None:
    found = campaign_of(root)
    state = State(found.runs)
    for number, run in enumerate(found.grid(), start=1):
        assert f"note {number}" not in acknowledged or state[run].failures == number
    path = rows_path(found, found.grid()[0])
    seeds = {int(row["seed"]) for row in csv.DictReader(path.read_text().splitlines())} if path.exists() else set()
    assert seeds >= {number - 1 for number in numbers(acknowledged)}
    copy = found.results_dir / "campaign.yaml"
    assert copy.exists() or not acknowledged
    assert not copy.exists() or json.loads(copy.read_text()).keys() == json.loads(found.text).keys()


def video(root: Path) -> None:
    write_video(root / "videos" / "v.mp4", np.zeros((2, 16, 16, 3), np.uint8), scale=1)
    acknowledge(f"{root.name}/written")


def check_video(root: Path, acknowledged: list[str]) -> None:
    for path in root.rglob("v.mp4"):
        content = path.read_bytes()
        assert content[4:8] == b"ftyp" and b"moov" in content and b"mdat" in content  # its index is written last


_LOADED: set[int] = set()


def check_run(root: Path, acknowledged: list[str]) -> None:
    """What must hold of a run of the debug configuration in ``root / "run"`` (``faults.Acknowledge``)."""
    run = root / "run"
    if (run / "config.yaml").exists():
        assert yaml.safe_load((run / "config.yaml").read_text())["data"]["online_steps"] > 0
    for path in run.glob("checkpoints/*.ckpt"):
        if (file := path.stat()).st_nlink == 1 or file.st_ino not in _LOADED:  # states link to what they have in common
            load_checkpoint(path)  # whatever has a checkpoint's name is one
            _LOADED.add(file.st_ino)
    newest, _ = find_checkpoint(run / "checkpoints")
    step = 0 if newest is None else int(load_checkpoint(newest)["global_step"])
    assert step >= max(numbers(acknowledged), default=0), f"the newest checkpoint is of step {step}"
    if newest is not None:
        data = load_checkpoint(newest)["OfflineToOnlineDataModule"]
        EpisodeStore(run / "replay").restore(data["manifest"])
    evaluated = {record["step"] for record in read_evaluations(run)}
    assert evaluated >= {int(what.split()[1]) for what in acknowledged if what.startswith("evaluation")}


SCENARIOS: dict[str, tuple[Callable[[Path], None], Callable[[Path, list[str]], None]]] = {
    "store": (store, check_store),
    "latents": (latents, check_latents),
    "checkpoints": (checkpoints, check_checkpoints),
    "files": (files, check_files),
    "dataset": (dataset, check_dataset),
    "parts": (parts, check_parts),
    "campaign": (campaign, check_campaign),
    "video": (video, check_video),
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name, (do, _) in SCENARIOS.items():
        do(Path(sys.argv[1]) / name)
