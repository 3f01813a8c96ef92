"""A network that drops between two machines: every process ends within the bound, and says who does not answer."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import machines
from runs import final


@pytest.mark.slow
def test_a_network_that_drops_ends_all_within_the_bound(reach_dataset: Path, tmp_path: Path) -> None:
    if (reason := machines.reason()) is not None:
        pytest.skip(f"two machines cannot be played: {reason}")
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--peer_timeout_s", "20")
    drop = ("--trainer.callbacks+=faults.NetworkDownAt", "--trainer.callbacks.step=11")
    done = machines.fit(tmp_path, *data, *drop, "--trainer.callbacks.link=moto0", processes=1, timeout=300)
    ended = time.time() - (tmp_path / "node0/network_down").stat().st_mtime
    assert done.returncode != 0
    said = sorted(line for line in done.stderr.splitlines() if line.startswith("moto: "))
    assert len(said) == 2, done.stderr
    for line, other, own in zip(said, (0, 1), (1, 0), strict=True):
        found = rf"2 processes in all, of which rank {other} on host{other} does not answer \(waited at most 20 s\)"
        assert re.match(rf"moto: trainer.devices: found {found} \(rank {own} says so\)", line)
    assert "moto_pl/" not in done.stderr  # no traceback of ours; torchrun prints its own
    assert 18 < ended < 20 + 40  # the bound, and what a busy machine takes to end
    for node in range(2):
        assert final(tmp_path / f"node{node}")["global_step"] == 10
