"""Checkpoints that claim what they do not hold, or hold what they should not."""

from __future__ import annotations

import copy
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moto_pl.callbacks.checkpoint import rng_state
from moto_pl.checkpoints import load_checkpoint
from moto_pl.errors import SettingError
from moto_pl.pickled import Claim, read_claims

PROGRESS: dict[str, Any] = {"total": {"ready": 1}, "current": {"ready": 1}}
WHOLE: dict[str, Any] = {
    "state_dict": {"w": torch.arange(6.0).reshape(2, 3), "t": torch.ones(2, 3).t(), "e": torch.zeros(0)},
    "average": {},
    "global_step": 3,
    "epoch": 1,
    "pytorch-lightning_version": "2.6.6",
    "agent": {"class_path": "moto_pl.agents.bc.BC", "init_args": {"x": [1, (2, None)]}, "action_size": 2},
    "loops": {
        "fit_loop": {
            "state_dict": {},
            "epoch_progress": PROGRESS,
            "epoch_loop.state_dict": {},
            "epoch_loop.batch_progress": {**PROGRESS, "is_last_batch": True},
            "epoch_loop.scheduler_progress": PROGRESS,
            "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": PROGRESS, "zero_grad": {}}},
        }
    },
    "callbacks": {"RunCheckpoint": {"best": [0.5, 1.0]}},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}],
    "lr_schedulers": [{"last_epoch": 1}],
    "rng": [rng_state()],
    "OfflineToOnlineDataModule": {
        "manifest": [{"file": "000000.safetensors", "length": 3, "crc32": 7}],
        "collected_episodes": 0,
        "env_steps": 0,
    },
}


def changed(*place: Any, value: Any) -> dict[str, Any]:
    checkpoint = copy.deepcopy(WHOLE)
    at: Any = checkpoint
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return checkpoint


def test_a_whole_one_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    torch.save(WHOLE, tmp_path / "a.ckpt")
    claims = read_claims(tmp_path / "a.ckpt")
    assert claims["state_dict"] == {
        "w": Claim("FloatStorage", (2, 3)),
        "t": Claim("FloatStorage", (3, 2)),
        "e": Claim("FloatStorage", (0,)),
    }
    assert claims["agent"] == WHOLE["agent"] and claims["loops"] == WHOLE["loops"]
    assert torch.equal(load_checkpoint(tmp_path / "a.ckpt")["state_dict"]["t"], WHOLE["state_dict"]["t"])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("global_step",), "3"), (("global_step",), 10**400), (("global_step",), None), (("state_dict",), [1]),
        (("state_dict", "w"), 3), (("average",), 3), (("average",), {"w": "x"}), (("agent",), "BC"), (("agent",), {}),
        (("agent", "class_path"), None), (("agent", "init_args"), []), (("loops",), []), (("loops", "fit_loop"), {}),
        (("loops", "fit_loop", "epoch_progress"), {"total": 3, "current": 3}), (("callbacks",), 3), (("rng",), {}),
        (("rng", 0, "python"), [3]), (("rng", 0, "torch"), 3), (("rng", 0), {}), (("optimizer_states",), [3]),
        (("OfflineToOnlineDataModule",), {}), (("OfflineToOnlineDataModule", "manifest"), [{"file": 3}]),
        (("pytorch-lightning_version",), 26), (("lr_schedulers",), {"a": 1}), (("epoch",), 1.5),
    ],
    ids=str,
)  # fmt: skip
def test_a_field_of_another_type_is_refused_in_a_line(place: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    torch.save(changed(*place, value=value), tmp_path / "a.ckpt")
    with pytest.raises(SettingError) as error:
        load_checkpoint(tmp_path / "a.ckpt")
    assert str(place[-1] if isinstance(place[-1], str) else place[0]) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def rewritten(path: Path, pickle: bytes | Callable[[bytes], bytes]) -> Path:
    """A checkpoint with another pickle in it."""
    torch.save({"state_dict": {"w": torch.arange(6.0)}}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if name.endswith("data.pkl"):
                content = pickle(content) if callable(pickle) else pickle
            archive.writestr(name, content)
    return path


def allocates(count: int) -> bytes:
    return b"\x80\x02ctorch\nFloatTensor\nJ" + struct.pack("<i", count) + b"\x85R."


#: A list of the one before twice, sixty times.
LAUGHS = b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 60)) + b"."
ONES = b"K\x06\x85"  # the shape [6] in the pickle of rewritten()


@pytest.mark.parametrize(
    "pickle",
    [
        allocates(1_600_000_000),
        b"\x80\x02ctorch\nFloatStorage\nJ\x00\x10\x00\x00\x85R.",
        lambda whole: whole.replace(ONES, b"J\x00\x00\x00\x60\x85"),
        lambda whole: whole.replace(b"K\x06t", b"J\x00\x00\x00\x60t"),
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueR.",
        b"\x80\x02}q\xff\xff\xff\xff.",
        b"\x80\x02]q\x00h\x00a.",
        LAUGHS,
        b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
        b"\x80\x02((((.", b"", b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    ],
    ids=["tensor", "storage", "shape", "items", "call", "memo", "itself", "laughs", "deep", "marks", "nothing", "new"],
)  # fmt: skip
def test_what_claims_more_than_it_holds_is_refused(pickle: Any, tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.ckpt", pickle)
    assert path.stat().st_size < 20_000
    with pytest.raises(SettingError, match="cannot be read|is no checkpoint") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_no_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ckpt")
    with pytest.raises(SettingError, match="regular file"):
        load_checkpoint(tmp_path / "a.ckpt")
