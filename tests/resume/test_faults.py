"""The soak suite in short form: each kind of fault once, SIGKILL twice.

Two processes of which one is killed are in distributed/test_ddp.py, which compares the same ends.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import power
from soak import FAULTS, Bench, inject


@pytest.fixture(scope="session")
def bench(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("soak"), reach_dataset, share=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed"),
    [(name, seed) for name in FAULTS if "ranks" not in name for seed in range(2 if "SIGKILL" in name else 1)],
)
def test_nothing_is_lost(name: str, seed: int, bench: Bench) -> None:
    if name.startswith("power cut") and not power.can_record():
        pytest.skip("strace is not here, or may not look at processes")
    result = inject(name, bench, seed)
    assert result.survived and not result.lost and not result.problem, f"{result.problem} (saw: {result.saw})"
