"""DreamerV3's replay: chunks of a stream of steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import frames

from moto_pl.datasets.formats.dreamer import Chunks
from moto_pl.datasets.formats.recorded import Damaged
from moto_pl.datasets.formats.table import recognise
from moto_pl.errors import SettingError

MARKS = ("aaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbb", "cccccccccccccccccccccc", "0" * 22)


def stream(lengths: list[int], unfinished: int) -> dict[str, np.ndarray]:
    """Episodes of so many rows one after another, and one that has only begun."""
    parts = []
    for number, count in enumerate([*lengths, unfinished]):
        row, last = np.arange(count), number < len(lengths)
        parts.append(
            {
                "image": frames(count, number, (8, 8)),
                "action": (row[:, None] + np.array([[0.0, 0.5]])).astype(np.float32) / 100 + number / 10,
                "wrist": frames(count, number + 10, (8, 8)),
                "joints": np.c_[row, row + number].astype(np.float32),
                "reward": (10 * number + row).astype(np.float32),
                "is_first": row == 0,
                "is_last": (row == count - 1) & last,
                "is_terminal": (row == count - 1) & last & (number % 2 == 0),
            }
        )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def save(folder: Path, rows: dict[str, np.ndarray], cuts: list[int]) -> Path:
    """The stream in chunks, named as DreamerV3 names them; the names' order is not the stream's."""
    folder.mkdir()
    edges = [0, *cuts, len(rows["reward"])]
    for number, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        after = MARKS[number + 1] if number + 2 < len(edges) else MARKS[-1]
        name = f"20260101T00000{9 - number}F000000-{MARKS[number]}-{after}-{stop - start}.npz"
        np.savez_compressed(folder / name, **{key: array[start:stop] for key, array in rows.items()})
    return folder


def test_episodes_go_on_from_chunk_to_chunk(tmp_path: Path) -> None:
    rows = stream([7, 4, 6], unfinished=3)
    folder = save(tmp_path / "replay", rows, [5, 13])
    assert recognise(folder) == "dreamerv3"
    source = Chunks(folder)
    assert (len(source), source.cameras, source.vectors) == (3, ("image", "wrist"), ("joints",))
    start = 0
    for number, count in enumerate((7, 4, 6)):
        read = source.read(number)
        # In a row are the frame, the reward that came with it, and the action that was then taken.
        np.testing.assert_array_equal(read.action, rows["action"][start : start + count - 1])
        np.testing.assert_array_equal(read.columns["reward"], rows["reward"][start + 1 : start + count])
        for name in source.cameras:
            np.testing.assert_array_equal(list(read.cameras[name].frames()), rows[name][start : start + count])
        np.testing.assert_array_equal(read.vectors["joints"], rows["joints"][start : start + count])
        assert read.terminated == (number % 2 == 0)
        start += count


def test_a_chunk_that_is_gone_takes_its_episodes_along(tmp_path: Path) -> None:
    folder = save(tmp_path / "replay", stream([7, 4, 6], unfinished=3), [5, 13])
    next(iter(folder.glob(f"*-{MARKS[0]}-*"))).unlink()
    assert [len(Chunks(folder).read(index).action) for index in range(2)] == [3, 5]


def test_chunks_that_are_wrong(tmp_path: Path) -> None:
    rows = stream([7], unfinished=3)
    folder = save(tmp_path / "a", rows, [])
    path = next(folder.glob("*.npz"))
    np.savez(path, **{key: array for key, array in rows.items() if key != "reward"})
    with pytest.raises(SettingError, match="no reward in .*npz"):
        Chunks(folder)
    np.savez(path, **{**rows, "reward": rows["reward"][:-1]})
    with pytest.raises(SettingError, match="arrays of different lengths"):
        Chunks(folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Damaged, match="which cannot be read"):
        Chunks(folder)


def test_a_later_chunk_that_is_not_as_the_first(tmp_path: Path) -> None:
    rows = stream([7], unfinished=0)
    folder = save(tmp_path / "a", rows, [4])
    path = next(folder.glob(f"*-{MARKS[1]}-*"))
    later = {key: array[4:] for key, array in rows.items()}
    np.savez(path, **{key: array for key, array in later.items() if key != "wrist"})
    with pytest.raises(SettingError, match=f"source: found no wrist in .*{path.name}"):
        Chunks(folder).read(0)
    np.savez(path, **{**later, "joints": np.zeros((3, 9), np.float32)})
    with pytest.raises(Damaged, match="episode 0 of .*which cannot be read"):
        Chunks(folder).read(0)
