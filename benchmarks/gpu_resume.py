"""A resumed run beside the unbroken one, bit for bit: ``python -m benchmarks.gpu_resume --work FOLDER``.

On a GPU, or a CPU where there is none. The runs are those of tests/resume, in the debug configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from moto_pl.files import write_whole
from moto_pl.training.configs import config_path

_KILLED_AT = 25  # of the 40 gradient steps: online, in the middle of a round


def differences(left: Any, right: Any, name: str = "") -> list[str]:
    """What differs between two checkpoints' contents, and by how much."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        if left.shape != right.shape or left.dtype != right.dtype:
            return [f"{name}: {left.dtype} {tuple(left.shape)}, {right.dtype} {tuple(right.shape)}"]
        if torch.equal(left, right):
            return []
        return [f"{name}: {(left.double() - right.double()).abs().max().item():.3g} at most"]
    if isinstance(left, dict) and isinstance(right, dict):
        found = [f"{name}.{key}: in one alone" for key in sorted(map(str, left.keys() ^ right.keys()))]
        return found + [
            line for key in left if key in right for line in differences(left[key], right[key], f"{name}.{key}")
        ]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        return [
            line for i, (a, b) in enumerate(zip(left, right, strict=True)) for line in differences(a, b, f"{name}.{i}")
        ]
    return [] if left == right else [f"{name}: {left!r}, {right!r}"[:200]]


def fit(run: Path, *settings: str) -> int:
    """Exit status of a run of the debug configuration."""
    device = "gpu" if torch.cuda.is_available() else "cpu"
    command = [sys.executable, "-m", "moto_pl.cli", "fit", "--config", str(config_path("debug"))]
    command += ["--trainer.default_root_dir", str(run), "--trainer.accelerator", device, "--data.env_workers", "0"]
    command += ["--data.eval_episodes", "1", "--video_episodes", "0", "--evaluate_untrained", "false", *settings]
    command += ["--model.init_args.optim.ema_decay", "0.9", "--data.value_steps", "0"]
    if device == "gpu":
        command += ["--trainer.deterministic", "warn"]
    return subprocess.run(command, env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}).returncode


def main() -> None:
    """Exit status 0 where both runs end alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, help="file for what was found")
    args = parser.parse_args()
    begun = time.monotonic()
    unbroken, broken = args.work / "unbroken", args.work / "broken"
    statuses = {"unbroken": fit(unbroken)}
    fault = ["--trainer.callbacks+=faults.FaultAt", f"--trainer.callbacks.step={_KILLED_AT}"]
    statuses["killed"] = fit(broken, *fault)
    statuses["resumed"] = fit(broken)
    found: list[str] = []
    if statuses == {"unbroken": 0, "killed": -signal.SIGKILL, "resumed": 0}:
        ends = [
            torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
            for run in (unbroken, broken)
        ]
        for part in ("global_step", "state_dict", "optimizer_states", "average"):
            found += differences(ends[0][part], ends[1][part], part)
    else:
        found.append(f"exit statuses {statuses}")
    print("\n".join(found[:40]) or "the resumed run ends as the unbroken one, bit for bit")
    if args.out is not None:
        record = {"statuses": statuses, "differences": found, "seconds": round(time.monotonic() - begun, 1)}
        write_whole(args.out, json.dumps(record, indent=1).encode())
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
