"""Readers of what others hand us, fed with damage: nothing but a SettingError, and no memory beyond reason."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import READERS, mutate, survives
from moto_pl.checkpoints import load_checkpoint
from moto_pl.datasets import hdf5_check
from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.datasets.npz_import import read_npz
from moto_pl.errors import SettingError
from moto_pl.evaluations import read_evaluations
from moto_pl.replay import EpisodeStore
from moto_pl.replay.episode import Episode
from moto_pl.training.configs import expand_configs

pytestmark = pytest.mark.slow

#: Where (as a share of the file), what, and with which byte.
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["flip", "set", "huge", "insert", "delete", "truncate", "repeat"]),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=6,
)
#: 10,300 in all; the structure lies at a file's ends, so most edits go there.
MANY = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """What takes 4 GB more than there is now fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@settings(max_examples=3000, **MANY)
@given(edits=EDITS)
def test_episode_files(edits: list[tuple[float, str, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzz_store"
    path = root / "000000.safetensors"
    if not (root / "whole").exists():
        image = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3)).astype(np.uint8)
        reward, action = np.ones(3, np.float32), np.zeros((3, 2), np.float32)
        extras = {"completed": np.ones((3, 2), bool)}
        EpisodeStore(root).append(Episode(image, action, reward, False, True, np.ones(3, bool), extras, {"seed": 1}))
        (root / "whole").write_bytes(path.read_bytes())
    whole = (root / "whole").read_bytes()
    damaged = mutate(whole, edits)
    path.write_bytes(damaged)

    def read() -> None:
        store = EpisodeStore(root)
        store.verify()
        assert store[0].image_rows.sum() >= 0

    assert not survives(read) or damaged == whole  # a checksum over everything: no damage passes


@settings(max_examples=3000, **MANY)
@given(edits=EDITS)
def test_checkpoints(edits: list[tuple[float, str, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.ckpt"
    whole = path.with_suffix(".whole")
    if not whole.exists():
        torch.save({"state_dict": {"w": torch.arange(6.0)}, "agent": {"class_path": "x", "sizes": [1, 2]}}, whole)
    path.write_bytes(mutate(whole.read_bytes(), edits))
    survives(lambda: load_checkpoint(path))


@settings(max_examples=1500, **MANY)
@given(edits=EDITS)
def test_configurations(edits: list[tuple[float, str, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    text = (Path(__file__).parents[1] / "configs/sizes/cpu.yaml").read_bytes()
    text += b"extends: [debug.yaml]\nsize: cpu\nagent: moto\n"
    path.write_bytes(mutate(text, edits))
    (path.parent / "debug.yaml").write_text("seed_everything: 0\n")
    survives(lambda: expand_configs(["--config", str(path)]))


@settings(max_examples=1500, **MANY)
@given(edits=EDITS)
def test_evaluation_records(edits: list[tuple[float, str, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp()
    record = {"stage": "eval", "step": 3, "phase": "online", "online_episodes": 1, "seed": [1], "return": [0.5]}
    line = json.dumps({**record, "success": [True], "length": [5]}).encode() + b"\n"
    (root / "evaluations.jsonl").write_bytes(mutate(line * 3, edits))
    survives(lambda: read_evaluations(root))


@settings(max_examples=1000, **MANY)
@given(edits=EDITS)
def test_npz_episodes(edits: list[tuple[float, str, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    whole = path.with_suffix(".whole")
    if not whole.exists():
        rows = np.arange(4)
        arrays = {"image": np.zeros((4, 8, 8, 3), np.uint8), "action": np.zeros((4, 2), np.float32), "reward": rows}
        np.savez(path, **arrays, is_first=rows == 0, is_last=rows == 3, is_terminal=rows == 4)
        assert read_npz(path).length == 3
        whole.write_bytes(path.read_bytes())
    path.write_bytes(mutate(whole.read_bytes(), edits))
    survives(lambda: read_npz(path))


@settings(max_examples=300, **MANY)
@given(edits=EDITS, metadata=st.booleans())
def test_datasets(
    edits: list[tuple[float, str, int]], metadata: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzz_dataset"
    if not root.exists():
        build("reach", output=str(root), workers=1, episodes=1, steps=20, image_size=16)
        for name in ("metadata.json", "main_data.hdf5"):
            (root / name).write_bytes((root / "data" / name).read_bytes())
    for name, damaged in (("metadata.json", metadata), ("main_data.hdf5", not metadata)):
        path, whole = root / "data" / name, (root / name).read_bytes()
        content = mutate(whole, edits) if damaged else whole
        if path.read_bytes() != content:  # what has not changed is not looked through again
            path.write_bytes(content)
    survives(lambda: [episode.length for episode in open_dataset(root)])


@pytest.mark.parametrize("name", READERS)
def test_structures(name: str, tmp_path: Path) -> None:
    """Whole files of another structure; ``make soak FUZZ=10000`` goes on with it."""
    attempt = READERS[name](tmp_path)
    taken = [attempt(random.Random(f"{name} {i}")) for i in range(20 if name == "datasets" else 300)]
    assert not all(taken) and any(taken)


@pytest.mark.parametrize(
    ("code", "match"), [("import os; os.abort()", "crashed on it"), ("while True: pass", "in 1 s")]
)
def test_a_dataset_that_breaks_the_hdf5_library(
    code: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("reach", output=str(tmp_path / "d"), workers=1, episodes=1, steps=20, image_size=16)
    (tmp_path / "child.py").write_text(code)
    monkeypatch.setattr(hdf5_check, "__file__", str(tmp_path / "child.py"))
    monkeypatch.setattr(hdf5_check, "TIME_LIMIT_S", 1.0)
    with pytest.raises(SettingError, match=match):
        open_dataset(tmp_path / "d")


def test_a_dataset_that_claims_too_much(tmp_path: Path) -> None:
    build("reach", output=str(tmp_path / "d"), workers=1, episodes=1, steps=20, image_size=16)
    with h5py.File(tmp_path / "d/data/main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file["episode_0"].create_dataset("rewards", shape=(2**40,), dtype="f8", chunks=(1024,))
    with pytest.raises(SettingError, match="claims 8796093022208 bytes"):
        open_dataset(tmp_path / "d")


@pytest.mark.parametrize("link", [h5py.ExternalLink("/etc/passwd", "/x"), h5py.SoftLink("/episode_0/actions")])
def test_a_dataset_that_links_elsewhere(link: Any, tmp_path: Path) -> None:
    build("reach", output=str(tmp_path / "d"), workers=1, episodes=1, steps=20, image_size=16)
    with h5py.File(tmp_path / "d/data/main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = link
    with pytest.raises(SettingError, match="is a link"):
        open_dataset(tmp_path / "d")


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    import zipfile

    torch.save({"state_dict": {"w": torch.zeros(1000)}}, tmp_path / "whole.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "whole.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "small.ckpt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry))
    load_checkpoint(tmp_path / "whole.ckpt")
    with pytest.raises(SettingError, match="compressed"):
        load_checkpoint(tmp_path / "small.ckpt")


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"seed_everything: !!python/object/apply:pathlib.Path.touch ['{tmp_path / 'ran'}']\n")
    with pytest.raises(SettingError, match="not YAML"):
        expand_configs(["--config", str(path)])
    assert not (tmp_path / "ran").exists()
