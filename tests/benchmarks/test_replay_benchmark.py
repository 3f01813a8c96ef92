import json
import sys
from pathlib import Path

import pytest

from benchmarks import replay


def test_every_reader_gives_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # main compares them before it measures.
    options = ("--episodes", "3", "--steps", "50", "--rounds", "1", "--seconds", "0.01", "--folder", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["replay", *options, "--out", str(tmp_path / "rates.json")])
    replay.main()
    assert "h5py" in capsys.readouterr().out
    assert json.loads((tmp_path / "rates.json").read_text())
