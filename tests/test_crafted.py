"""Datasets, episodes and runs that somebody made to do harm: one line each, and soon."""

from __future__ import annotations

import errno
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moto_pl.cli import main
from moto_pl.datasets import hdf5_check, npz_import
from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.datasets.npz_import import read_npz
from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeStore
from moto_pl.replay.episode import Episode
from moto_pl.report.page import write_report


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built") / "d"
    build("reach", output=str(root), workers=1, episodes=1, steps=20, image_size=16)
    return root


def header(shape: str, size: int = 0) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(size)


@pytest.mark.parametrize(
    ("member", "content", "compression"),
    [
        ("image.npy", header("(4096, 1024, 1024)"), zipfile.ZIP_STORED),
        ("image.npy", header(f"({2**70},)"), zipfile.ZIP_STORED),
        ("image.npy", header(f"({2**40},)", 100), zipfile.ZIP_DEFLATED),
        ("image", b"no array", zipfile.ZIP_STORED),
        ("image.npy", b"no array", zipfile.ZIP_STORED),
        ("image.npy", header("(" * 3000), zipfile.ZIP_STORED),
        ("image.npy", header("(3,)", 3), zipfile.ZIP_BZIP2),
    ],
    ids=["claims", "beyond-64-bits", "small-claims", "no-npy", "no-magic", "deep", "bzip2"],
)
def test_npz_members(member: str, content: bytes, compression: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    rows = np.arange(4)
    arrays = {"action": np.zeros((4, 2), np.float32), "reward": rows, "is_first": rows == 0, "is_last": rows == 3}
    np.savez(path, **arrays, is_terminal=rows == 4)
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr(member, content)
    with pytest.raises(SettingError, match="cannot be read") as error:
        read_npz(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("at", "value"), [(6, 1), (8, 99), (8, 1)], ids=["encrypted", "compression-99", "shrunk"])
def test_npz_flags(at: int, value: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=np.zeros((4, 8, 8, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[at] = value  # of the local header
    content[content.index(b"PK\x01\x02") + 2 + at] = value  # and the directory's
    path.write_bytes(content)
    with pytest.raises(SettingError, match="cannot be read"):
        read_npz(path)


def test_an_npz_that_unpacks_to_more_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_import, "MAX_NPZ", 1 << 23)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", header(f"({1 << 24},)", 1 << 24))
    assert path.stat().st_size < 100_000
    with pytest.raises(SettingError, match="more than"):
        read_npz(path)


def test_pipes(tmp_path: Path, built: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(SettingError, match="regular"):
        read_npz(tmp_path / "a.npz")
    (tmp_path / "d/data").mkdir(parents=True)
    os.mkfifo(tmp_path / "d/data/metadata.json")
    with pytest.raises(SettingError, match="regular"):
        open_dataset(tmp_path / "d")
    (tmp_path / "store").mkdir()
    os.mkfifo(tmp_path / "store/000000.safetensors")
    with pytest.raises(SettingError, match="regular"):
        EpisodeStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "value", "said"), [("total_episodes", 10**9, "of the 1,000,000,000"), ("moto_pl", "deep", "deep")]
)
def test_metadata(name: str, value: Any, said: str, built: Path) -> None:
    path = built / "data/metadata.json"
    text = path.read_text()
    try:
        changed = json.dumps({**json.loads(text), name: value})
        path.write_text(changed.replace('"deep"', '{"a":' * 2000 + "1" + "}" * 2000))
        with pytest.raises(SettingError, match=said):
            open_dataset(built)
    finally:
        path.write_text(text)


def test_a_process_that_cannot_start_is_not_a_damaged_file(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5_check._check.cache_clear()
    monkeypatch.setattr(sys, "executable", "/etc/passwd")
    with pytest.raises(SettingError, match="no process could look through") as error:
        open_dataset(built)
    assert "damaged" not in str(error.value)


def test_a_deep_header_of_an_episode(tmp_path: Path) -> None:
    image = np.zeros((4, 8, 8, 3), np.uint8)
    episode = Episode(
        image, np.zeros((3, 2), np.float32), np.ones(3, np.float32), False, True, np.ones(3, bool), {}, {}
    )
    store = EpisodeStore(tmp_path)
    store.append(episode)
    path = tmp_path / "000000.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    said = json.loads(content[8:end])
    said["__metadata__"]["info"] = '{"a":' * 500 + "1" + "}" * 500
    text = json.dumps(said).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    with pytest.raises(SettingError, match="too deep"):
        EpisodeStore(tmp_path)


def test_a_run_that_is_none_is_shown_in_part(tmp_path: Path) -> None:
    record = {"stage": "eval", "step": 5, "phase": "online", "online_episodes": 1, "seed": [1], "success": [True]}
    lines = [{**record, "return": [float("inf")], "length": [3]}, {**record, "return": [1.0], "length": [10**400]}]
    lines += [
        {**record, "step": 10**400},
        {**record, "step": 1e308},
        {**record, "step": "5"},
        {**record, "return": "x"},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n" + "[" * 5000 + "\n"
    (tmp_path / "evaluations.jsonl").write_text(text)
    (tmp_path / "config.yaml").write_text("a: " + "[" * 5000)
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay/dataset.json").write_text('{"a":' * 5000)
    version = tmp_path / "csv/version_0"
    version.mkdir(parents=True)
    (version / "metrics.csv").write_text("step,loss\n1,2\n1e308,3\n-1e300,2\ninf,1\n2," + "9" * 300_000 + "\n3,4\n")
    page = write_report(tmp_path).read_text()
    assert "is not whole and was left out" in page and "cannot be read" in page


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EACCES", "EIO", "ESTALE", "EFBIG"])
def test_what_a_disk_refuses_is_a_line(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it refuses it: here where a report is renamed."""
    number = getattr(errno, code)

    def replace(source: Any, target: Any) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and os.strerror(number) in error and "report.html" in error
