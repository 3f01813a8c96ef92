"""The first losses of every agent's debug run, kept in tests/golden: what they should be as long as nothing changes.

``PYTHONPATH=.:tests python tests/golden.py`` writes them anew, after a change that is meant to change them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from runs import AGENTS, fit

KEPT = Path(__file__).parent / "golden"
STEPS = 20


def device_kind() -> str:
    """The kind of device that losses are kept for: ``cpu``, or ``cuda``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


Losses = dict[str, list[float]]
"""Each part of the loss, by its name: a number a gradient step."""


def losses(agent: str, run: Path, dataset: Path, *args: str) -> Losses:
    """The first gradient steps' losses of a debug run."""
    data = ("--data.dataset", str(dataset), "--data.build_missing", "false", "--data.online_steps", "0")
    noted = ("--trainer.callbacks+=audit.Losses", f"--trainer.callbacks.path={run.with_suffix('.json')}")
    short = ("--data.eval_episodes", "0", "--trainer.logger", "false", "--trainer.accelerator", device_kind())
    done = fit(run, *data, *short, *noted, *args, agent=agent)
    assert done.returncode == 0, done.stderr[-3000:]
    found: Losses = json.loads(run.with_suffix(".json").read_text())
    assert all(len(part) == STEPS for part in found.values())
    return found


def main() -> None:
    """Writes the losses of this machine's kind of device."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from moto_pl.datasets.builders import build

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        build("reach", output=str(root / "reach"), workers=1)
        kept = {agent: losses(agent, root / agent, root / "reach") for agent in sorted(AGENTS)}
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{device_kind()}.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{KEPT / device_kind()}.json: written", file=sys.stderr)


if __name__ == "__main__":
    main()
