"""Damage to the files of episodes: every file is named, and no false header takes memory."""

import json
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_episodes import assert_holds, filled

from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeStore


def test_any_cut_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    path = tmp_path / "000001.safetensors"
    whole = path.read_bytes()
    for size in range(0, len(whole), 13):
        path.write_bytes(whole[:size])
        with pytest.raises(SettingError, match=r"000001\.safetensors: found a damaged file"):
            EpisodeStore(tmp_path)
    path.write_bytes(whole + b"x")
    with pytest.raises(SettingError, match=r"000001\.safetensors: found a damaged file"):
        EpisodeStore(tmp_path)


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    path = tmp_path / "000000.safetensors"
    whole = path.read_bytes()
    harmless = 0
    for bit in range(0, 8 * len(whole), 5):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            EpisodeStore(tmp_path).verify()
        except SettingError as error:
            assert "000000.safetensors" in str(error)
        else:
            assert_holds(EpisodeStore(tmp_path), [0])
            harmless += 1
    # A few bits of a JSON text's spaces or escapes say nothing.
    assert harmless < 20


def test_verify_reads_the_data(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    path = tmp_path / "000001.safetensors"
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert len(EpisodeStore(tmp_path)) == 3
    with pytest.raises(SettingError, match=r"000001\.safetensors.*checksum"):
        store.verify()


def forged(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrites a file's header, with a checksum that fits it."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    changed = change(header)
    header = header if changed is None else changed
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        metadata = {k: v for k, v in header["__metadata__"].items() if k != "crc32"}
        rest = {k: v for k, v in header.items() if k != "__metadata__"}
        crc = zlib.crc32(data, zlib.crc32(json.dumps([rest, metadata], sort_keys=True).encode()))
        header["__metadata__"]["crc32"] = str(crc)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        target: Any = header
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value

    return change


def test_a_forged_header_that_fits_is_taken(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    forged(tmp_path / "000000.safetensors", put("__metadata__", "info", value='{"seed": 5}'))
    store = EpisodeStore(tmp_path)
    store.verify()
    assert store[0].info == {"seed": 5}


@pytest.mark.parametrize(
    "change",
    [
        put("image", "shape", value=[2**60, 3, 2, 3]),
        put("image", "shape", value=[2**70, 3, 2, 3]),
        put("image", "shape", value=[-6, 3, 2, -3]),
        put("image", "shape", value=[6, 3, 6]),
        put("image", "shape", value=6),
        put("image", "shape", value=[6.0, 3, 2, 3]),
        put("image", "shape", value=[6, 1, 6, 3]),
        put("image", "dtype", value="object"),
        put("image", "dtype", value=["U8"]),
        put("action", "dtype", value="I32"),
        put("action", "shape", value=[3, 4]),
        put("action", "data_offsets", value=[0, 2**62]),
        put("action", "data_offsets", value=[-48, 0]),
        put("action", "data_offsets", value=[0]),
        put("action", "data_offsets", value="ab"),
        put("success", "shape", value=[5, 1]),
        put("extras.completed", "shape", value=[3, 5]),
        put("reward", value={}),
        put("reward", value=None),
        put("weights", value={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
        put("extras.a/b", value={"dtype": "U8", "shape": [5, 0], "data_offsets": [0, 0]}),
        put("extras.flat", value={"dtype": "U8", "shape": [], "data_offsets": [0, 0]}),
        put("__metadata__", value="x"),
        put("__metadata__", "more", value="x"),
        put("__metadata__", "info", value="[1]"),
        put("__metadata__", "info", value="{"),
        put("__metadata__", "info", value=3),
        put("__metadata__", "terminated", value="1"),
        lambda header: header.pop("reward") and None,
        lambda header: [header],
        lambda header: {},
        lambda header: 3,
    ],
)
def test_a_false_header_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    filled(tmp_path, 1)
    forged(tmp_path / "000000.safetensors", change)
    with pytest.raises(SettingError, match=r"000000\.safetensors: found a damaged file"):
        EpisodeStore(tmp_path)


@pytest.mark.parametrize("claimed", [0, 1, 2**20, 2**32, 2**63, 2**64 - 1])
def test_a_false_header_size_takes_no_memory(tmp_path: Path, claimed: int) -> None:
    (tmp_path / "000000.safetensors").write_bytes(claimed.to_bytes(8, "little") + b"{}" + b" " * 100)
    with pytest.raises(SettingError, match=r"000000\.safetensors: found a damaged file"):
        EpisodeStore(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_noise_is_refused(noise: bytes, framed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "000000.safetensors"
        path.write_bytes(len(noise).to_bytes(8, "little") + noise if framed else noise)
        with pytest.raises(SettingError, match=r"000000\.safetensors"):
            EpisodeStore(folder)
