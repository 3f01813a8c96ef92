"""docs/own_robot.md is run as it stands: its files are written, its commands typed one after another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of one core, on a machine that may have others at work
def test_from_recordings_to_a_policy_without_torch(tmp_path: Path) -> None:
    for name in ("pyarrow", "av", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="needs the extras lerobot and onnx")
    commands = []
    for language, text in BLOCK.findall((ROOT / "docs/own_robot.md").read_text()):
        if language == "bash":
            commands.append(text)
        else:
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
    assert {path.name for path in tmp_path.iterdir()} == {"my_robot.py", "record.py", "act.py"} and len(commands) == 7
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"MINARI_DATASETS_PATH": str(tmp_path / "minari"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    # Other than for a user, the package need not be installed.
    script = "".join(commands).replace("PYTHONPATH=.", f"PYTHONPATH=.:{ROOT}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # Each part has done its work: none stands in for another.
    assert (tmp_path / "recordings/meta/info.json").is_file() and "Actions: [-5, -5] to [5, 5]" in done.stdout
    said = "my_robot:my/Arm-v0: 'front' of 96x128, 'wrist' of 96x128, resized to 64x64"
    assert (done.stdout + done.stderr).count(said) == 1
    evaluated = [json.loads(line) for line in (tmp_path / "runs/arm/evaluations.jsonl").read_text().splitlines()]
    assert evaluated[-1]["step"] == 300 and (tmp_path / "runs/arm/videos/play_0000300.mp4").is_file()
    facts = json.loads((tmp_path / "policy.onnx.json").read_text())
    shapes = {name: part["shape"] for name, part in facts["observation"].items()}
    assert shapes == {"front": [64, 64, 3], "wrist": [64, 64, 3], "qpos": [2]} and facts["control_rate_hz"] == 10
    assert facts["action"]["stands_for"] == {"low": [-5, -5], "high": [5, 5]}
    last = re.search(r"success in (\d+) of 10 episodes; torch was not imported\n$", done.stdout)
    # An untrained policy comes to the cube in one of ten.
    assert last is not None and int(last[1]) >= 6, done.stdout[-2000:]
