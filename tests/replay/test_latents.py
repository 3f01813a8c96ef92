"""The latent replay: what it keeps, when it is full, and what is left of it after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from replay_episodes import make_episode

from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.replay import EpisodeStore
from moto_pl.replay.latents import (
    LatentReplay,
    LatentTable,
    LatentTransitions,
    transition_bytes,
    whole_episodes,
)


def numbered(*numbers: int) -> LatentTransitions:
    """Transitions that say which they are."""
    n = torch.tensor(numbers, dtype=torch.float32)
    wide = n[:, None].expand(-1, 3)
    return LatentTransitions(wide, n[:, None].expand(-1, 2), n, torch.ones_like(n), wide + 0.5)


def held(table: LatentTable) -> list[int]:
    """What a table holds, oldest first."""
    if not len(table):
        return []
    rows = table.rows(torch.arange(len(table)))
    assert torch.equal(rows.state[:, 0], rows.reward) and torch.equal(rows.next_state[:, 2], rows.reward + 0.5)
    assert torch.equal(rows.action[:, 1], rows.reward)
    return [int(value) for value in rows.reward]


def test_a_full_table_loses_its_oldest() -> None:
    table, sent = LatentTable(7), []
    for size in (3, 2, 4, 1, 9, 5, 7, 6):
        new = list(range(len(sent), len(sent) + size))
        sent += new
        table.append(numbered(*new))
        assert held(table) == sent[-7:]


def test_draws_are_uniform_over_what_is_held() -> None:
    table = LatentTable(5)
    table.append(numbered(*range(8)))
    picked = table.pick(5000, Key(0, 1), "cpu")
    counts = torch.bincount(picked.reward.long(), minlength=8)
    assert counts[:3].sum() == 0 and counts[3:].min() > 850 and picked.state.dtype == torch.float32
    assert torch.equal(table.pick(9, Key(0, 2), "cpu").reward, table.pick(9, Key(0, 2), "cpu").reward)


def test_features_lose_less_than_their_noise() -> None:
    table = LatentTable(100)
    state = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * 3
    one = torch.ones(100)
    table.append(LatentTransitions(state, state[:, :2], 1e-4 * one, one, state))
    rows = table.rows(torch.arange(100))
    assert (rows.state - state).abs().max() < 0.1 / 10  # a latent's std is at least 0.1
    assert torch.equal(rows.action, state[:, :2]) and torch.equal(rows.reward, 1e-4 * one)  # these are exact


def test_memory_is_what_is_said(tmp_path: Path) -> None:
    replay = LatentReplay(50, tmp_path)
    replay.add("real", numbered(*range(50)), 0)
    parts = replay.real._parts
    assert parts is not None and sum(part.numel() * part.element_size() for part in parts) == 50 * transition_bytes(
        3, 2
    )
    assert abs((tmp_path / "real-000000.pt").stat().st_size - 50 * transition_bytes(3, 2)) < 3000


def test_a_manifest_brings_all_back(tmp_path: Path) -> None:
    replay = LatentReplay(10, tmp_path)
    replay.add("real", numbered(*range(6)), 0)
    replay.add("imagined", numbered(*range(100, 108)), 0)
    replay.add("imagined", numbered(*range(108, 115)), 3)
    manifest = replay.manifest()
    assert [entry["file"] for entry in manifest["imagined"]] == ["imagined-000000.pt", "imagined-000003.pt"]
    replay.add("imagined", numbered(7), 4)  # a killed run's last round
    other = LatentReplay(10, tmp_path)
    other.restore(manifest)
    assert held(other.real) == list(range(6)) and held(other.imagined) == list(range(105, 115))
    assert other.manifest() == manifest
    other.add("imagined", numbered(8), 4)
    assert held(other.imagined) == [*range(106, 115), 8]


def test_rounds_of_which_nothing_is_left_are_not_named(tmp_path: Path) -> None:
    replay = LatentReplay(10, tmp_path)
    for number in range(5):
        replay.add("imagined", numbered(*range(4 * number, 4 * number + 4)), number)
    assert [entry["file"][-4:-3] for entry in replay.manifest()["imagined"]] == ["2", "3", "4"]
    old = {"real": [], "imagined": [{"file": "imagined-000001.pt", "rows": 4, "crc32": 0}]}
    assert {path.name for path in replay.left_over()} == {"imagined-000000.pt", "imagined-000001.pt"}
    assert [path.name for path in replay.left_over([old])] == ["imagined-000000.pt"]
    assert LatentReplay(10, tmp_path, write=False).left_over() == []  # not this process's to remove


def test_clearing_forgets(tmp_path: Path) -> None:
    replay = LatentReplay(10, tmp_path)
    replay.add("real", numbered(1, 2), 0)
    replay.clear()
    assert len(replay.real) == 0 and replay.manifest() == {"real": [], "imagined": []}


@pytest.mark.parametrize("damage", ["missing", "other", "short"])
def test_what_is_lost_is_said(damage: str, tmp_path: Path) -> None:
    replay = LatentReplay(10, tmp_path)
    replay.add("real", numbered(1, 2), 0)
    manifest, path = replay.manifest(), tmp_path / "real-000000.pt"
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        LatentReplay(10, tmp_path).add("real", numbered(1, 3), 0)
    else:
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SettingError, match=f"ckpt_path: .*{path}"):
        LatentReplay(10, tmp_path).restore(manifest)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moto_pl.replay.latents.write_whole", full)
    replay = LatentReplay(10, tmp_path)
    with pytest.raises(SettingError, match="No space left"):
        replay.add("real", numbered(1), 0)
    assert len(replay.real) == 0 and replay.manifest()["real"] == []


def stored(root: Path, *lengths: int) -> EpisodeStore:
    """Episodes of these steps; those of an odd number of steps terminate."""
    store = EpisodeStore(root)
    for seed, length in enumerate(lengths):
        store.append(make_episode(seed, length, terminated=length % 2 == 1))
    return store


@pytest.mark.parametrize(("frames", "sizes"), [(1, [1, 1, 1, 1]), (12, [2, 1, 1]), (21, [3, 1]), (99, [4])])
def test_every_episode_comes_whole_and_once(frames: int, sizes: list[int], tmp_path: Path) -> None:
    store = stored(tmp_path, 4, 5, 3, 9)
    batches = list(whole_episodes(store, 0, frames))
    assert [len(batch.reward) for _, batch in batches] == sizes
    number = 0
    for first, batch in batches:
        assert first == number
        for b in range(len(batch.reward)):
            known, rows = store[number], store[number].num_rows
            assert torch.equal(batch.image[b, :rows], torch.from_numpy(known.image_rows.copy()))
            assert torch.equal(batch.action[b, :rows], torch.from_numpy(known.action_rows.copy()))
            assert torch.equal(batch.reward[b, :rows], torch.from_numpy(known.reward_rows.copy()))
            assert batch.is_first[b].tolist() == [True] + [False] * (rows - 1) + [True] * (len(batch.reward[b]) - rows)
            assert batch.is_terminal[b].nonzero().flatten().tolist() == ([rows - 1] if known.terminated else [])
            number += 1
    assert [first for first, _ in whole_episodes(store, 3, 50)] == [3] and not list(whole_episodes(store, 4, 50))


def test_checkpoints_hold_plain_types(tmp_path: Path) -> None:
    replay = LatentReplay(10, tmp_path)
    replay.add("real", numbered(1, 2), 0)
    torch.save({"latent_replay": replay.manifest()}, tmp_path / "x.ckpt")
    found: Any = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert found["latent_replay"] == replay.manifest()
