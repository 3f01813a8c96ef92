"""All eight methods on one MetaWorld task, three seeds each: ``python -m benchmarks.suite``.

Runs ``benchmarks/suite/<method>.yaml`` under ``--runs``, two at a time with a thread each, then ``moto compare`` on all
of them. A run that is there already is gone on with, or left alone if it is finished: the suite may be stopped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moto_pl.analysis.records import read_run
from moto_pl.compare import run_compare
from moto_pl.data.builders import ensure

CONFIGS = Path(__file__).parent / "suite"
METHODS = ("moto", "dreamer", "lompo", "combo", "bc", "iql", "cql", "sac")


def finished(root: Path) -> bool:
    """Whether a run has taken all its steps and been evaluated after the last."""
    if not (root / "config.yaml").exists():
        return False
    record = read_run(root)
    return record.schedule is not None and any(e.step == record.schedule.total_steps for e in record.evaluations)


def run(method: str, seed: int, root: Path) -> str:
    """Trains a method with a seed, to its end; says how long it took."""
    if finished(root):
        return "was finished"
    begun = time.monotonic()
    command = [sys.executable, "-m", "moto_pl.cli", "fit", "--config", str(CONFIGS / f"{method}.yaml")]
    command += ["--trainer.default_root_dir", str(root), "--seed_everything", str(seed)]
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "output.txt", "ab") as output:
        code = subprocess.run(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return f"{(time.monotonic() - begun) / 60:.1f} minutes" if code.returncode == 0 else f"failed: {root}/output.txt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=Path("runs/suite"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/suite"))
    arguments = parser.parse_args()

    ensure("metaworld/drawer-open", noise=0.5, output="moto_pl/metaworld/drawer-open-noisy-v0")
    roots = {
        (method, seed): arguments.runs / f"{method}_{seed}" for seed in arguments.seeds for method in arguments.methods
    }
    with ThreadPoolExecutor(arguments.at_once) as pool:
        results = {key: pool.submit(run, *key, root) for key, root in roots.items()}
        for (method, seed), result in results.items():
            print(f"{method}, seed {seed}: {result.result()}", flush=True)
    done = [str(root) for root in roots.values() if finished(root)]
    return run_compare(done, arguments.out, "success") or int(len(done) < len(roots))


if __name__ == "__main__":
    sys.exit(main())
