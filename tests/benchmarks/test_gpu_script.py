"""``benchmarks/gpu.sh`` on a CPU, in a bare copy of the tree: no GPU's time is to be wasted on a missing import."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_parity import summary
from benchmarks.gpu_resume import differences

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.sh"


def offline() -> list[str]:
    """What keeps a command from the network, where that can be done."""
    words = ["unshare", "--net"]
    there = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if there else []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_parts_in_a_dry_run(tmp_path: Path) -> None:
    """By ``MOTO_GPU_PYTHON``, a Python 3.12 with the GPU's packages, where that is set; else by this one."""
    python = os.environ.get("MOTO_GPU_PYTHON", sys.executable)
    out = tmp_path / "results"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MUJOCO_GL", "PYTEST_ADDOPTS")
    }
    command = [*offline(), "bash", str(SCRIPT), "--dry", "--seconds", "1100", "--out", str(out)]
    done = subprocess.run(command, env={**environment, "PYTHON": python}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    text = (out / "summary.txt").read_text()
    for part in ("build", "tests", "step", "ops", "resume", "run"):
        assert f"{part}: good" in text, text
    files = list(out.iterdir())
    assert len(files) <= 8 and all(path.is_file() and path.stat().st_size < 16 * 2**20 for path in files)
    forms = {result["form"]: result for result in json.loads((out / "step.json").read_text())["results"]}
    assert forms.keys() == {"eager", "captured", "reference"}  # torch.compile on a GPU alone
    assert all(result["median_s"] > 0 for result in forms.values())
    assert json.loads((out / "resume.json").read_text())["differences"] == []
    assert json.loads((out / "ops.json").read_text())["results"]
    with tarfile.open(out / "run.tar.gz") as archive:
        assert any(name.endswith("metrics.csv") for name in archive.getnames())
    assert " passed" in (out / "tests.txt").read_text()


def test_the_rest_goes_on_after_a_part_that_fails(tmp_path: Path) -> None:
    """A Python without anything: each part fails, and each is reported."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho none; exit 3\n")
    python.chmod(0o755)
    command = ["bash", str(SCRIPT), "--dry", "--out", str(tmp_path / "out"), "--seconds", "100", "ops", "resume"]
    done = subprocess.run(command, env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True)
    assert done.returncode == 1
    text = (tmp_path / "out/summary.txt").read_text()
    assert "ops: exit status 3" in text and "resume: exit status 3" in text


def test_no_time_and_unknown_parts(tmp_path: Path) -> None:
    command = ["bash", str(SCRIPT), "--dry", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": shutil.which("true") or "true"}
    none = subprocess.run([*command, "--seconds", "20", "ops"], env=environment, capture_output=True, text=True)
    assert none.returncode == 1 and "ops: not begun" in none.stdout
    unknown = subprocess.run([*command, "opss"], env=environment, capture_output=True, text=True)
    assert unknown.returncode == 2 and "PART: found 'opss'" in unknown.stderr


def test_what_fails_is_listed_with_how_much_it_differs() -> None:
    report = """<testsuites><testsuite><testcase classname="a" name="good"/>
    <testcase classname="a" name="none"><skipped message="no"/></testcase>
    <testcase classname="a" name="far"><failure message="AssertionError: Tensor-likes are not close!">
    Mismatched elements: 1 / 3 (33.3%)
    Greatest absolute difference: 0.5 at index (1,) (up to 1e-5 allowed)
    </failure></testcase><testcase classname="b" name="broken"><error message="ImportError: x">trace</error></testcase>
    </testsuite></testsuites>"""
    first, far, broken = summary(report)
    assert first == "4 tests, 1 passed, 1 skipped, 2 failed"
    assert far.startswith("a::far: Mismatched elements: 1 / 3") and "difference: 0.5 at index (1,)" in far
    assert broken == "b::broken: ImportError: x"


def test_what_differs_between_two_ends_is_said() -> None:
    left = {"a": torch.zeros(2), "b": [1, {"c": torch.ones(1)}], "d": 1}
    assert differences(left, {"a": torch.zeros(2), "b": [1, {"c": torch.ones(1)}], "d": 1}) == []
    found = differences(left, {"a": torch.tensor([0.0, 0.5]), "b": [2, {"c": torch.ones(2)}], "e": 1}, "end")
    assert found == [
        "end.d: in one alone",
        "end.e: in one alone",
        "end.a: 0.5 at most",
        "end.b.0: 1, 2",
        "end.b.1.c: torch.float32 (1,), torch.float32 (2,)",
    ]
