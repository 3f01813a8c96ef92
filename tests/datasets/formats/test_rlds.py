"""RLDS episodes in TFRecord files, written by the published definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import crc32c, example, field, frames, rlds_episode, rows, tfrecord, varint

from moto_pl.datasets.formats import tfrecord as reader
from moto_pl.datasets.formats.recorded import Damaged
from moto_pl.datasets.formats.rlds import RLDS
from moto_pl.errors import SettingError


def write(path: Path, *lengths: int, **changes: Any) -> Path:
    return tfrecord(path, [example(rlds_episode(length, seed, **changes)) for seed, length in enumerate(lengths)])


def test_rows_become_steps(tmp_path: Path) -> None:
    source = RLDS(write(tmp_path / "a-train.tfrecord-00000-of-00001", 6, 3))
    assert (len(source), source.cameras, source.reward) == (2, ("observation/image",), "reward")
    for number, length in enumerate((6, 3)):
        written, read = rows(length, number), source.read(number)
        np.testing.assert_array_equal(read.action, written["action"])
        np.testing.assert_array_equal(read.columns["reward"], written["reward"])
        state = np.concatenate([written["state"], written["state"][-1:]])
        np.testing.assert_array_equal(read.vectors["observation/state"], state)
        assert source.vectors == ("observation/state",)
        assert read.terminated == (number == 0)
        image = np.stack(list(read.cameras["observation/image"].frames()))
        np.testing.assert_array_equal(image, frames(length + 1, number, (16, 16)))


@pytest.mark.parametrize("size", [0, 1, 9, 1000, 8 * 1024 - 1, 8 * 1024, 12_345])
def test_the_checksum(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert reader.crc32c(data) == crc32c(data)
    assert reader.crc32c(b"123456789") == 0xE3069283  # the published check value


@pytest.mark.parametrize("packed", [True, False])
def test_lists_of_numbers(packed: bool) -> None:
    floats = np.array([1.5, -2.0, 3e30], "<f4")
    integers = [0, 1, 127, 128, -1, 2**63 - 1, -(2**63)]
    if packed:
        held = field(1, floats.tobytes()), field(1, b"".join(varint(i & (1 << 64) - 1) for i in integers))
    else:
        held = (
            b"".join(b"\x0d" + one.tobytes() for one in floats),
            b"".join(b"\x08" + varint(i & (1 << 64) - 1) for i in integers),
        )
    entries = [field(1, field(1, n) + field(2, field(k, h))) for n, k, h in ((b"f", 2, held[0]), (b"i", 3, held[1]))]
    found = reader.parse_example(field(1, b"".join(entries)))
    np.testing.assert_array_equal(found["f"], floats)
    assert isinstance(found["i"], np.ndarray) and found["i"].tolist() == integers


def test_features_that_are_named_twice_or_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_FEATURES", 2)
    twice = example({"a": [b"x"], "b": [b"y"]}) + example({"a": [b"z"]})
    assert reader.parse_example(twice) == {"a": [b"z"], "b": [b"y"]}
    with pytest.raises(ValueError, match="more than 2 features"):
        reader.parse_example(twice + example({"c": [b""]}))
    nan = np.array([0x7F800001, 0x7FC12345, 0xFF812345], "<u4")
    found = reader.parse_example(example({"a": nan.view("<f4")}))["a"]
    assert isinstance(found, np.ndarray) and found.view("<u4").tolist() == nan.tolist(), "bit for bit"


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        reader.parse_example(data)
    except ValueError:  # UnicodeDecodeError is one
        pass


def test_a_file_that_was_cut_short_gives_its_whole_episodes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 4, 5, 6)
    path.write_bytes(path.read_bytes()[:-10])
    source = RLDS(path)
    assert len(source) == 3
    assert [len(source.read(index).action) for index in range(2)] == [4, 5]
    with pytest.raises(Damaged, match="a.tfrecord, which cannot be read .a record that claims"):
        source.read(2)
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(Damaged, match="no record, or one that was cut short"):
        RLDS(path)


def test_a_byte_that_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 4, 5)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match="the record at byte .*a checksum that does not match"):
        RLDS(path).read(1)


def test_a_length_beyond_the_file(tmp_path: Path) -> None:
    path = tfrecord(tmp_path / "a.tfrecord", [b"x"])
    length = (1 << 40).to_bytes(8, "little")
    crc = crc32c(length)
    mask = (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
    path.write_bytes(length + mask + b"x" * 50)
    with pytest.raises(Damaged, match="a record that claims 1,099,511,627,776 bytes"):
        RLDS(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps/action": None}, "no action in episode 0"),
        ({"steps/action": None, "steps/action/a": np.zeros(5), "steps/action/b": np.zeros(5)}, "an action in 2 parts"),
        ({"steps/action": np.zeros(7, np.float32)}, "7 numbers of action in 5 rows"),
        ({"steps/action": [b"x"] * 5}, "an action that is no numbers"),
        ({"steps/action": []}, "an action that is no numbers"),
        ({"steps/action": np.zeros(0, np.float32)}, r"actions float32 \(4, 0\)"),
        ({"steps/reward": np.arange(10, dtype=np.float32)}, "10 numbers of reward in 5 rows"),
        ({"steps/reward": np.zeros(0, np.float32)}, "0 numbers of reward in 5 rows"),
        ({"steps/discount": np.arange(10)}, "10 numbers of discount in 5 rows"),
        ({"steps/action": np.full(15, np.nan, np.float32)}, "nan in the action"),
        ({"steps/observation/state": np.full(25, np.nan, np.float32)}, "nan in observation/state"),
        ({"steps/is_first": np.zeros(3, int)}, "flags .* of .3, 5. rows"),
    ],
)
def test_an_episode_that_is_wrong(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"source: found .*{said}"):
        RLDS(write(tmp_path / "a.tfrecord", 4, **changes)).read(0)


def test_frames_that_are_missing_or_none(tmp_path: Path) -> None:
    image = rlds_episode(4, 0)["steps/observation/image"]
    with pytest.raises(SettingError, match="4 frames of observation/image for 5 rows"):
        RLDS(write(tmp_path / "a.tfrecord", 4, **{"steps/observation/image": image[:4]})).read(0)
    broken = [*image[:4], b"\x89PNG and no more"]
    read = RLDS(write(tmp_path / "b.tfrecord", 4, **{"steps/observation/image": broken})).read(0)
    with pytest.raises(Damaged, match="observation/image of episode 0"):
        list(read.cameras["observation/image"].frames())
