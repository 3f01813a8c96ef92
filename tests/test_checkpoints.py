"""What is written of a run: whole, or not at all."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from moto_pl.checkpoints import DurableCheckpointIO, load_checkpoint
from moto_pl.errors import SettingError


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As ``ulimit -f`` has it, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_the_disk_refuses_says_why_and_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    small, large = ({"global_step": size, "state_dict": {"w": torch.zeros(size)}} for size in (10, 100_000))
    DurableCheckpointIO().save_checkpoint(small, path)
    for size in (0, 1000, 100_000, 400_000):  # in its head, in its weights, in what ends it
        with (
            files_of_at_most(size),
            pytest.raises(SettingError, match=r"last\.ckpt could not be written \(File too large\)"),
        ):
            DurableCheckpointIO().save_checkpoint(large, path)
        assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]
        assert load_checkpoint(path)["global_step"] == 10
    DurableCheckpointIO().save_checkpoint(large, path)
    assert load_checkpoint(path)["global_step"] == 100_000


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_directory_that_cannot_be_written_is_said(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:
        raise OSError(code, "it cannot be", str(path))

    monkeypatch.setattr("moto_pl.files._open_held", refuse)
    with pytest.raises(SettingError, match=r"last\.ckpt could not be written \(it cannot be\)"):
        DurableCheckpointIO().save_checkpoint({"global_step": 1}, tmp_path / "last.ckpt")
