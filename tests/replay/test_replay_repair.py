"""``moto data repair`` of a run's replay: the run goes on, with what is whole and what can be made again."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from replay_episodes import make_episode

from moto_pl import cli
from moto_pl.checkpoints import DurableCheckpointIO
from moto_pl.files import lock_run
from moto_pl.replay import EpisodeStore
from moto_pl.replay.latents import LatentReplay, LatentTransitions
from moto_pl.replay.repair import look_at_replay
from runs import assert_same_end, fault, final, fit

OFFLINE = 3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three demonstrations, one held out, three collected episodes; a checkpoint after each of the last two."""
    run = tmp_path / "run"
    store, held_out = EpisodeStore(run / "replay"), EpisodeStore(run / "replay" / "held_out")
    held_out.append(make_episode(9))
    marker = {"dataset": "d", "val_episodes": 1, "fingerprint": "f", "episodes": OFFLINE, "longest": 5}
    (run / "replay" / "dataset.json").write_text(json.dumps(marker))
    latents = LatentReplay(100, run / "latent_replay")
    for index in range(OFFLINE + 3):
        store.append(make_episode(index))
        if index >= OFFLINE + 1:
            latents.add("real", LatentTransitions(*(torch.full((2, 1), float(index)) for _ in range(5))), index)
            checkpoint = {"state_dict": {}, "global_step": index, "OfflineToOnlineDataModule": data(store)}
            checkpoint["latent_replay"] = {"round": index, "encoded": 0, "manifest": latents.manifest()}
            DurableCheckpointIO().save_checkpoint(checkpoint, run / "checkpoints" / "last.ckpt")
    return run


def data(store: EpisodeStore) -> dict[str, Any]:
    return {"manifest": store.manifest(), "collected_episodes": len(store) - OFFLINE}


def flip(path: Path) -> bytes:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return path.read_bytes()


def episode(run: Path, index: int) -> Path:
    return run / "replay" / f"{index:06d}.safetensors"


def repaired(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Repairs; a dry run first, which changes nothing."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli.main(["data", "repair", str(run)]) == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    capsys.readouterr()
    assert cli.main(["data", "repair", str(run), "--apply"]) == 0
    after = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert all(content in after for content in before.values())  # nothing is deleted
    return capsys.readouterr().out


def test_a_sound_replay_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "repair", str(run)]) == 0
    said = capsys.readouterr().out
    assert "7 episodes are whole, 0 files are not" in said and "nothing to repair" in said
    assert cli.main(["data", "repair", str(run / "replay")]) == 0


def test_a_demonstration_is_taken_from_the_dataset_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = flip(episode(run, 1))
    said = repaired(run, capsys)
    assert "replay/000001.safetensors: a damaged file (its checksum" in said and "from the dataset again" in said
    assert (run / "damaged/replay/000001.safetensors").read_bytes() == damaged and not episode(run, 1).exists()
    marker = json.loads((run / "replay/dataset.json").read_text())
    assert marker == {"dataset": "d", "val_episodes": 1, "fingerprint": "f"}  # the dataset is not all taken in
    assert "goes on from checkpoints/last.ckpt" in said and (run / "checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("where", ["replay/held_out/000000.safetensors", "replay/000002.safetensors"])
def test_what_is_missing_is_taken_again_too(where: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / where).unlink()
    assert f"{where}: missing" in repaired(run, capsys)
    assert "episodes" not in json.loads((run / "replay/dataset.json").read_text())


def test_a_collected_episode_costs_the_checkpoints_that_need_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episode(run, 5).write_bytes(episode(run, 5).read_bytes()[:100])
    said = repaired(run, capsys)
    assert "checkpoints/last.ckpt: needs 000005.safetensors" in said
    assert "goes on from checkpoints/previous.ckpt" in said
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["previous.ckpt"]
    assert (run / "damaged/checkpoints/last.ckpt").exists()
    assert "episodes" in json.loads((run / "replay/dataset.json").read_text())
    found = look_at_replay(run)
    assert not found.needed and found.checkpoints == {"previous.ckpt": 4}


def test_latents_cost_them_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / "latent_replay/real-000005.pt")
    said = repaired(run, capsys)
    assert "checkpoints/last.ckpt: needs latent_replay/real-000005.pt" in said
    assert (run / "damaged/latent_replay/real-000005.pt").exists()
    assert look_at_replay(run).checkpoints == {"previous.ckpt": 4}


@pytest.mark.parametrize("marker", ["{", '{"episodes": 1e999}'])
def test_damaged_checkpoints_and_half_written_files_go_aside(
    marker: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = run / "replay" / "000006.safetensors.123.tmp"
    half.write_bytes(b"half")
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:500])
    (run / "replay/dataset.json").write_text(marker)
    said = repaired(run, capsys)
    assert "half written" in said and "dataset.json: damaged" in said
    moved = {path.name for path in (run / "damaged").rglob("*") if path.is_file()}
    assert moved == {"last.ckpt", half.name, "dataset.json"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("OfflineToOnlineDataModule", {"manifest": [{"file": "x", "length": 3, "crc32": 0}]}, "'x', which is no file"),
        ("latent_replay", [1], "it is list, not an object"),
        ("latent_replay", {"manifest": [1]}, "manifest is list, not an object"),
        ("latent_replay", {"manifest": {"real": 3}}, "manifest.real is int"),
        ("latent_replay", {"manifest": {"real": [{"file": "real-000004.pt"}]}}, "has no crc32"),
        ("latent_replay", {"manifest": {"real": [{"file": "../../x", "crc32": 1}]}}, "'../../x', which is no file"),
        ("latent_replay", {"manifest": {"real": [{"file": "/x", "crc32": 1}]}}, "'/x', which is no file"),
    ],
)
def test_a_checkpoint_that_names_what_is_no_file_of_a_run_goes_aside(
    name: str, content: Any, said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = run.parent / "x"
    outside.write_bytes(b"not the run's")
    path = run / "checkpoints/last.ckpt"
    path.write_bytes(b"")  # it does not stay as the one before
    checkpoint = {"state_dict": {}, "global_step": 5, name: content}
    DurableCheckpointIO().save_checkpoint({"OfflineToOnlineDataModule": {"manifest": []}, **checkpoint}, path)
    (run / "checkpoints/previous.ckpt").unlink()
    line = next(line for line in repaired(run, capsys).splitlines() if "checkpoints/last.ckpt: " in line)
    assert said in line and line.endswith("moved aside")
    assert outside.read_bytes() == b"not the run's"


@pytest.mark.parametrize("content", ["[]", '{"episodes": Infinity}', '{"episodes": "three"}', '{"val_episodes": []}'])
def test_a_damaged_note_of_the_dataset_goes_aside(content: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "replay/dataset.json").write_text(content)
    assert "replay/dataset.json: damaged (" in repaired(run, capsys)
    assert (run / "damaged/replay/dataset.json").read_text() == content


def test_nothing_is_moved_onto_what_was_moved_before(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        episode(run, 6).write_bytes(b"no episode")
        repaired(run, capsys)
    assert len(list((run / "damaged/replay").iterdir())) == 2


def test_a_run_that_is_training_is_not_touched(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(episode(run, 1))
    with lock_run(run):
        assert cli.main(["data", "repair", str(run), "--apply"]) == 2
    assert "another process is training" in capsys.readouterr().err and episode(run, 1).exists()


@pytest.mark.slow
def test_a_repaired_run_ends_where_the_unbroken_one_ends(reach_dataset: Path, tmp_path: Path) -> None:
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.val_episodes", "2")
    unbroken = fit(tmp_path / "unbroken", *data)
    assert unbroken.returncode == 0, unbroken.stderr
    run = tmp_path / "run"
    assert fit(run, *data, *fault(38)).returncode == -signal.SIGKILL
    assert final(run)["global_step"] == 35
    for path in (episode(run, 3), episode(run, 10), run / "replay/held_out/000001.safetensors"):
        flip(path)
    assert fit(run, *data).returncode == 2
    assert cli.main(["data", "repair", str(run), "--apply"]) == 0
    assert final(run.parent / "run/damaged")["global_step"] == 35
    resumed = fit(run, *data)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming {run} at gradient step 30" in resumed.stdout
    assert_same_end(tmp_path / "unbroken", run, episodes=12)
