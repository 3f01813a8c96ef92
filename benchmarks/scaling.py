"""Two processes against one, and overlapped against alternating collection: ``python -m benchmarks.scaling``.

Whole runs of MOTO on the reaching task, at a size for two cores, one thread a process: two processes share the global
batch that one has for itself. Both collect two episodes a round. Runs take turns; medians over their online rounds
after the first, which starts workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning as L
from rich.console import Console
from rich.table import Table

from moto_pl.callbacks.collect import CollectEpisodes
from moto_pl.training.configs import config_path

VARIANTS: dict[str, tuple[str, ...]] = {
    "one process": (),
    "two processes": ("--trainer.devices", "2", "--trainer.strategy", "ddp"),
    "two processes, broadcast": (
        *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
        *("--data.exchange", "broadcast"),
    ),
    "one process, overlap": ("--data.collect", "overlap"),
}


class Clock(L.Callback):
    """Writes down what each online round took; named in the runs' command lines."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rounds: list[dict[str, float]] = []
        self.before: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the round's time, and what of it went where."""
        (collect,) = (c for c in trainer.callbacks if isinstance(c, CollectEpisodes))  # type: ignore[attr-defined]
        now = {"collect": collect.collect_seconds, "exchange": collect.exchange_seconds, "end": time.perf_counter()}
        if collect.collected_episodes and self.before and trainer.is_global_zero:
            self.rounds.append({name: now[name] - self.before[name] for name in now})
            self.path.write_text(json.dumps(self.rounds))
        self.before = now


def run(name: str, size: str, rounds: int, updates: int) -> list[dict[str, float]]:
    """One run's rounds."""
    with tempfile.TemporaryDirectory() as directory:
        times = Path(directory) / "times.json"
        command = [
            *(sys.executable, "-m", "moto_pl.cli", "fit", "--config", str(config_path("tasks/reach")), "--size", size),
            *("--trainer.default_root_dir", f"{directory}/run", "--data.offline_steps", "2"),
            *("--data.online_steps", str(rounds * updates), "--data.updates_per_episode", str(updates // 2)),
            *("--data.num_envs", "2", "--evaluate_untrained", "false", "--video_episodes", "0"),
            *("--data.env_workers", "2", "--data.eval_episodes", "0", "--checkpoint_every", "1000"),
            *("--trainer.callbacks+=benchmarks.scaling.Clock", f"--trainer.callbacks.path={times}"),
            *VARIANTS[name],
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, check=True, env=env, capture_output=True)
        measured: list[dict[str, float]] = json.loads(times.read_text())
        return measured[1:]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="cpu", help="of networks and batches, a word that moto fit knows")
    parser.add_argument("--rounds", type=int, default=8, help="online rounds of each run")
    parser.add_argument("--updates", type=int, default=20, help="gradient steps of a round, an even number")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(args.repeats):
        for name in VARIANTS:
            rounds[name] += run(name, args.size, args.rounds, args.updates)
    table = Table(
        title=f"size {args.size}, one thread a process, {os.cpu_count()} cores, {args.updates} updates a round"
    )
    for column in ("", "updates/s", "round, s", "against one process", "collecting", "of it exchange"):
        table.add_column(column, justify="right" if column else "left")
    results: dict[str, dict[str, float]] = {}
    for name, measured in rounds.items():
        mean = {key: statistics.median(r[key] for r in measured) for key in ("end", "collect", "exchange")}
        results[name] = {
            "round_s": mean["end"],
            "updates_per_s": args.updates / (mean["end"] - mean["collect"]),
            "collect_share": mean["collect"] / mean["end"],
            "exchange_share": mean["exchange"] / mean["end"],
        }
        result, one = results[name], results["one process"]
        table.add_row(
            name,
            f"{result['updates_per_s']:.2f}",
            f"{result['round_s']:.2f}",
            f"{one['round_s'] / result['round_s']:.2f}",
            f"{result['collect_share']:.0%}",
            f"{result['exchange_share']:.1%}",
        )
    Console().print(table)
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
