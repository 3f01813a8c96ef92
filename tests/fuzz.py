"""Files of another structure for every reader of what others hand us: ``make soak FUZZ=10000``.

It goes on from the counts in its file. Half of the changes are to values and their places (a field of another type,
missing, huge, deep, twice), half to bytes. Attempt i of a reader is the same at any time. A reader takes what it is
given, or raises a SettingError of one line.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import random
import resource
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml

from moto_pl.checkpoints import load_checkpoint
from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.datasets.npz_import import read_npz
from moto_pl.errors import SettingError
from moto_pl.evaluations import read_evaluations
from moto_pl.files import write_whole
from moto_pl.replay import EpisodeStore
from moto_pl.replay.episode import Episode
from moto_pl.replay.episode_file import checksum
from moto_pl.training.configs import expand_configs

Attempt = Callable[[random.Random], bool]
_CONFIGS = Path(__file__).parents[1] / "configs"
_EDITS = ("flip", "set", "huge", "insert", "delete", "truncate", "repeat")


def mutate(data: bytes, edits: list[tuple[float, str, int]]) -> bytes:
    """``data`` with these edits."""
    out = bytearray(data)
    for where, what, byte in edits:
        if not out:
            break
        # Half of the edits fall into the first kilobyte.
        at = int(where * 2 * min(1024, len(out) - 1)) if where < 0.5 else int((2 * where - 1) * (len(out) - 1))
        if what == "flip":
            out[at] ^= 1 << byte % 8
        elif what == "set":
            out[at] = byte
        elif what == "huge":
            out[at : at + 8] = b"\xff" * 7 + b"\x7f"
        elif what == "insert":
            out[at:at] = bytes([byte]) * (1 + byte % 9)
        elif what == "delete":
            del out[at : at + 1 + byte % 9]
        elif what == "truncate":
            del out[at:]
        else:
            out[at:at] = out[max(0, at - byte) : at]
    return bytes(out)


def survives(read: Callable[[], Any]) -> bool:
    """Whether the reader took it; any error but a SettingError is raised."""
    try:
        read()
    except SettingError as error:
        assert str(error) and "\n" not in str(error).strip()
        return False
    return True


def edits(rng: random.Random) -> list[tuple[float, str, int]]:
    """What :func:`mutate` takes."""
    return [(rng.random(), rng.choice(_EDITS), rng.randrange(256)) for _ in range(rng.randint(1, 6))]


def odd(rng: random.Random, plain: bool) -> Any:
    """A value that stands for another one; ``plain``: one that JSON and YAML have."""
    deep: Any = 0
    for _ in range(rng.choice((3, 70, 500))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    values = [
        None,
        True,
        0,
        -1,
        2**31,
        2**63,
        -(2**63) - 1,
        10**30,
        0.5,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x" * 3000,
    ]
    values += ["\x00", "../../etc/passwd", "[bold]", "\n", "os.system", [], {}, [[]], [None] * 5, {"": {}}, deep]
    if not plain:
        values += [
            torch.zeros(0),
            torch.zeros(3, 3),
            torch.tensor(True),
            torch.zeros(2, dtype=torch.complex64),
            (1,),
            b"x",
        ]
        values += [{1: 2}, {(1, 2): 3}, torch.Size([3]), torch.zeros(1).expand(10**6), {torch.float32: 0}]
    return rng.choice(values)


def changed(value: Any, rng: random.Random, plain: bool = True) -> Any:
    """``value`` with one to four changes of its structure."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 4)):
        place: Any = root
        key: Any = 0
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        what = rng.choice(("odd", "odd", "odd", "delete", "wrap", "add", "swap"))
        if what == "delete" and place is not root:
            del place[key]
        elif what == "wrap":
            place[key] = [place[key]]
        elif what == "add" and isinstance(place[key], dict):
            place[key][rng.choice(("x", "", "0", "a.b"))] = odd(rng, plain)
        elif what == "add" and isinstance(place[key], list):
            place[key].append(odd(rng, plain))
        elif what == "swap" and isinstance(place, list) and place is not root:
            rng.shuffle(place)
        else:
            place[key] = odd(rng, plain)
        if not isinstance(root[0], dict | list):
            break
    return root[0]


def episode_files(root: Path) -> Attempt:
    """A replay's episodes: headers whose checksum is right, and bytes."""
    path = root / "store/000000.safetensors"
    image = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3)).astype(np.uint8)
    reward, action = np.ones(3, np.float32), np.zeros((3, 2), np.float32)
    extras = {"completed": np.ones((3, 2), bool)}
    EpisodeStore(path.parent).append(Episode(image, action, reward, False, True, np.ones(3, bool), extras, {"seed": 1}))
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")

    def attempt(rng: random.Random) -> bool:
        damaged = mutate(whole, edits(rng))
        if rng.random() < 0.5:
            header = changed(json.loads(whole[8:end]), rng)
            with suppress(AttributeError, TypeError, KeyError):  # where it still is a header, its checksum is right
                arrays = {name: entry for name, entry in header.items() if name != "__metadata__"}
                said = {name: entry for name, entry in header["__metadata__"].items() if name != "crc32"}
                header["__metadata__"]["crc32"] = str(checksum(arrays, said, [memoryview(whole)[end:]]))
            text = json.dumps(header).encode()
            damaged = len(text).to_bytes(8, "little") + text + whole[end:]
        path.write_bytes(damaged)

        def read() -> None:
            store = EpisodeStore(path.parent)
            store.verify()
            assert store[0].image_rows.sum() >= 0

        return survives(read)

    return attempt


def checkpoints(root: Path) -> Attempt:
    """What a run writes, of every field that is looked at."""
    progress = {"total": {"ready": 3}, "current": {"ready": 1}}
    state = {
        "state_dict": {"w": torch.arange(6.0), "b": torch.zeros(2)},
        "average": {"w": torch.arange(6.0)},
        **{"global_step": 3, "epoch": 1, "pytorch-lightning_version": "2.5.0"},
        "agent": {"class_path": "moto_pl.agents.BC", "init_args": {"td": {"batch_size": 8}}, "action_size": 2},
        "callbacks": {"CollectEpisodes": {"collected_episodes": 4}},
        "loops": {
            "fit_loop": {
                **{"state_dict": {}, "epoch_progress": progress, "epoch_loop.state_dict": {}},
                "epoch_loop.batch_progress": {**progress, "is_last_batch": True},
                "epoch_loop.scheduler_progress": progress,
                "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": progress, "zero_grad": {}}},
            }
        },
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
        ],
        "lr_schedulers": [{"last_epoch": 1}],
        "OfflineToOnlineDataModule": {"manifest": [{"file": "000000.safetensors", "length": 3, "crc32": 5}]},
    }
    path = root / "fuzz.ckpt"

    def attempt(rng: random.Random) -> bool:
        buffer = io.BytesIO()
        structure = rng.random() < 0.5
        try:
            torch.save(changed(state, rng, plain=False) if structure else state, buffer)
        except RecursionError:  # what is too deep to be written
            return False
        path.write_bytes(buffer.getvalue() if structure else mutate(buffer.getvalue(), edits(rng)))
        return survives(lambda: load_checkpoint(path))

    return attempt


def configurations(root: Path) -> Attempt:
    """A configuration, with one that it extends."""
    path = root / "fuzz.yaml"
    text = (_CONFIGS / "sizes/cpu.yaml").read_text() + "extends: [debug.yaml]\nsize: cpu\nagent: moto\n"
    (root / "debug.yaml").write_text("seed_everything: 0\nfor: {bc iql: {data: {prefetch: 1}}}\n")

    def attempt(rng: random.Random) -> bool:
        content = mutate(text.encode(), edits(rng))
        if rng.random() < 0.5:
            try:
                content = yaml.safe_dump(changed(yaml.safe_load(text), rng), allow_unicode=True).encode()
            except RecursionError:
                content = b"a: " + b"[" * 2000
        path.write_bytes(content)
        return survives(lambda: expand_configs(["--config", str(path)]))

    return attempt


def evaluation_records(root: Path) -> Attempt:
    """The lines of a run's evaluations; a line that is none is left out, which is to take it."""
    record = {"stage": "eval", "step": 3, "phase": "online", "online_episodes": 1, "seed": [1], "return": [0.5]}
    record |= {"success": [True], "length": [5], "objects": ["kettle"], "completed": [[True]]}

    def attempt(rng: random.Random) -> bool:
        lines = [json.dumps(changed(record, rng)).encode() for _ in range(3)]
        content = b"\n".join(lines) + b"\n"
        path = root / "evaluations.jsonl"
        path.write_bytes(content if rng.random() < 0.5 else mutate(content, edits(rng)))
        survives(lambda: read_evaluations(root))
        return bool(read_evaluations(root))

    return attempt


def npz_episodes(root: Path) -> Attempt:
    """DreamerV2's episodes: arrays of another type or shape, members, flags."""
    path, rows = root / "fuzz.npz", np.arange(4)
    arrays: dict[str, Any] = {"image": np.zeros((4, 8, 8, 3), np.uint8), "action": np.zeros((4, 2), np.float32)}
    arrays |= {"reward": rows, "is_first": rows == 0, "is_last": rows == 3, "is_terminal": rows == 4}
    types = ("u1", "i8", "f2", "f8", "c8", "U3", "S2", "?", "M8[s]", "O", ">f4")

    def attempt(rng: random.Random) -> bool:
        given = dict(arrays)
        for _ in range(rng.randint(1, 2)):
            name = rng.choice(list(given))
            shape = tuple(rng.choice((0, 1, 2, 4, 5)) for _ in range(rng.randint(0, 5)))
            what = rng.choice(("type", "shape", "value", "delete", "order"))
            if what == "type":
                given[name] = np.zeros(given[name].shape, rng.choice(types))
            elif what == "shape":
                given[name] = np.zeros(shape, given[name].dtype)
            elif what == "value" and given[name].dtype.kind == "f":
                given[name] = given[name] + rng.choice((np.nan, np.inf, 1e30, 2.0))
            elif what == "delete" and len(given) > 1:
                del given[name]
            else:
                given[name] = np.asfortranarray(given[name])
        buffer = io.BytesIO()
        rng.choice((np.savez, np.savez_compressed))(buffer, **given)
        if rng.random() < 0.3:
            with zipfile.ZipFile(buffer, "a") as archive:
                archive.writestr(
                    rng.choice(("x.npy", "image.npy", "x", "reward kettle.npy")), b"\x93NUMPY\x01\x00" + b"{" * 20
                )
        path.write_bytes(buffer.getvalue() if rng.random() < 0.5 else mutate(buffer.getvalue(), edits(rng)))
        return survives(lambda: read_npz(path))

    return attempt


def datasets(root: Path) -> Attempt:
    """Minari's: metadata, groups and arrays."""
    build("reach", output=str(root / "d"), workers=1, episodes=1, steps=20, image_size=16)
    whole = {name: (root / "d/data" / name).read_bytes() for name in ("metadata.json", "main_data.hdf5")}

    def attempt(rng: random.Random) -> bool:
        for name, content in whole.items():
            (root / "d/data" / name).write_bytes(content)
        what = rng.choice(("metadata", "metadata bytes", "groups", "bytes"))
        path = root / "d/data" / ("metadata.json" if "metadata" in what else "main_data.hdf5")
        if what == "metadata":
            path.write_text(json.dumps(changed(json.loads(whole[path.name]), rng)))
        elif what == "groups":
            _change_groups(path, rng)
        else:
            path.write_bytes(mutate(whole[path.name], edits(rng)))
        return survives(lambda: [episode.length for episode in open_dataset(root / "d")])

    return attempt


def _change_groups(path: Path, rng: random.Random) -> None:
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        attributes = file[name].attrs
        what = rng.choice(("delete", "type", "shape", "group", "attribute", "no attributes"))
        if what == "attribute":
            attributes[rng.choice([*attributes, "x"])] = rng.choice((0, -1, 2**40, "x", np.zeros(3), np.nan))
        elif what == "no attributes":
            for key in list(attributes):
                del attributes[key]
        else:
            del file[name]
            if what == "type":
                file.create_dataset(name, (20,), rng.choice(("u1", "f8", "S3", "c8", "i8")))
            elif what == "shape":
                file.create_dataset(name, tuple(rng.choice((0, 1, 20, 21)) for _ in range(rng.randint(0, 4))), "f4")
            elif what == "group":
                file.create_group(name)


#: By what they read: each makes a whole file below a directory, and returns what changes and reads it once.
READERS: dict[str, Callable[[Path], Attempt]] = {
    "episode files": episode_files,
    "checkpoints": checkpoints,
    "configurations": configurations,
    "evaluation records": evaluation_records,
    "npz episodes": npz_episodes,
    "datasets": datasets,
}


def main() -> int:
    """Each reader's attempts up to so many, from where they stood; fails where one raised anything else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=list(READERS), choices=list(READERS))
    parser.add_argument("--out", type=Path, help="a JSON file for the counts")
    options = parser.parse_args()
    kept: dict[str, Any] = {}
    if options.out is not None:
        with suppress(FileNotFoundError):
            kept = json.loads(options.out.read_text())
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    for name in options.only:
        counts = kept.setdefault(name, {"attempts": 0, "taken": 0, "refused": 0, "failures": []})
        with tempfile.TemporaryDirectory() as directory, open(os.devnull, "w") as nothing:
            sys.stderr, stderr = nothing, sys.stderr
            attempt = READERS[name](Path(directory))
            sys.stderr = stderr
            while counts["attempts"] < options.attempts:
                number = counts["attempts"]
                try:
                    counts["taken" if attempt(random.Random(f"{name} {number}")) else "refused"] += 1
                except Exception as error:
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    counts["failures"].append(
                        f"{number}: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
                    )
                    print(f"{name} {counts['failures'][-1]}", flush=True)
                counts["attempts"] += 1
                if counts["attempts"] % 250 == 0 or counts["attempts"] == options.attempts:
                    counts["date"] = date.today().isoformat()
                    if options.out is not None:
                        write_whole(options.out, (json.dumps(kept, indent=1) + "\n").encode())
        print(
            f"{name}: {counts['attempts']} attempts, {counts['taken']} taken, {counts['refused']} refused", flush=True
        )
    return int(any(counts["failures"] for counts in kept.values()))


if __name__ == "__main__":
    sys.exit(main())
