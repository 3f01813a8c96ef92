"""After a power cut at any point what was acknowledged is there, and nothing that is half is taken for whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import power
from power_scenarios import SCENARIOS
from runs import ROOT, environment

needs_strace = pytest.mark.skipif(not power.can_record(), reason="strace is not here, or may not look at processes")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, power.Recording]:
    root = tmp_path_factory.mktemp("power")
    directories = [root / name for name in SCENARIOS]
    for directory in directories:
        directory.mkdir()
    command = [sys.executable, str(ROOT / "tests/power_scenarios.py"), str(root)]
    found = power.record(command, directories, root / "log", environment())
    return dict(zip(SCENARIOS, found, strict=True))


def problems(name: str, recording: power.Recording, root: Path) -> Iterator[str]:
    """What does not hold after a cut."""
    for how, state in power.states(recording):
        state.write(root / name)
        try:
            SCENARIOS[name][1](root / name, state.acknowledged)
        except Exception as error:
            yield f"{how}: acknowledged {state.acknowledged}, and {type(error).__name__}: {error}"


@needs_strace
@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_acknowledged_is_there(
    name: str, recordings: dict[str, power.Recording], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    recording = recordings[name]
    assert sum(isinstance(operation, power.Acknowledged) for operation in recording.operations) >= 1
    found = list(problems(name, recording, tmp_path))
    assert not found, f"{len(found)} states; the first:\n" + "\n".join(found[:5])
