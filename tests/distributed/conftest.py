"""What tests of several processes share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data(reach_dataset: Path) -> tuple[str, ...]:
    """Arguments of a run that takes its demonstrations from a dataset that is there."""
    return ("--data.dataset", str(reach_dataset), "--data.build_missing", "false")
