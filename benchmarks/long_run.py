"""Memory, files, threads and disk of a long run: ``python -m benchmarks.long_run --out benchmarks/results/long_run``.

A run of the debug configuration with thousands of online rounds in this process, looked at every few rounds. What
should stay flat is compared between the second and the last quarter of the run; the disk, with what was announced.
``--busy`` has an evaluation with a film every twenty rounds, and processes that collect while the run learns.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib
from rich.console import Console
from rich.table import Table

from moto_pl.callbacks.collect import CollectEpisodes
from moto_pl.callbacks.progress import RunProgress
from moto_pl.training.cli import MotoCLI
from moto_pl.training.configs import config_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt

QUIET = ("--data.env_workers", "0", "--video_episodes", "0")
BUSY = ("--data.env_workers", "1", "--data.collect", "overlap", "--data.eval_every", "20", "--video_episodes", "1")


class Watch(L.Callback):
    """Looks at this process at the end of every ``every``-th online round."""

    def __init__(self, every: int) -> None:
        self.every, self.begun = every, time.monotonic()
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks."""
        (collect,) = (c for c in trainer.callbacks if isinstance(c, CollectEpisodes))  # type: ignore[attr-defined]
        if collect.collected_episodes == 0 or collect.collected_episodes % self.every:
            return
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        # Pages of mapped episodes count as resident, though the system may drop them at will.
        mapped = int(next(line for line in open("/proc/self/status") if line.startswith("RssFile")).split()[1])
        root, below = Path(trainer.default_root_dir), children()
        self.rows.append(
            {
                "round": collect.collected_episodes,
                "seconds": time.monotonic() - self.begun,
                "memory_mb": resident / 2**20 - mapped / 1024,
                "mapped_mb": mapped / 1024,
                "children_mb": sum(map(memory_of, below)) / 2**20,
                "processes": len(below),
                "files": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
                "checkpoints_mb": sum(p.stat().st_size for p in (root / "checkpoints").glob("*")) / 2**20,
                "replay_mb": sum(p.stat().st_size for p in (root / "replay").glob("*.safetensors")) / 2**20,
            }
        )


def children() -> list[int]:
    """The processes below this one."""
    begun = [os.getpid()]
    for parent in begun:  # which grows
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                begun += map(int, task.read_text().split())
    return begun[1:]


def memory_of(process: int) -> int:
    """Bytes that a process holds and shares with no other; 0 where it has ended."""
    with suppress(OSError):
        resident, shared = map(int, Path(f"/proc/{process}/statm").read_text().split()[1:3])
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    return 0


def main() -> None:
    """Runs, prints the table, writes a CSV and a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("long_run"), help="path without suffix")
    parser.add_argument("--busy", action="store_true", help="with evaluations, films, and episodes collected meanwhile")
    args = parser.parse_args()
    watch = Watch(args.every)
    original = MotoCLI._instantiate_trainer

    def with_watch(self: MotoCLI, config: dict[str, Any], callbacks: list[Any]) -> L.Trainer:
        kept = [callback for callback in callbacks if not isinstance(callback, RunProgress)]
        return original(self, config, [*kept, watch])

    with tempfile.TemporaryDirectory() as directory:
        MotoCLI._instantiate_trainer = with_watch  # type: ignore[method-assign]
        MotoCLI.run(
            [
                *("fit", "--config", str(config_path("debug")), "--trainer.default_root_dir", f"{directory}/run"),
                *("--data.online_steps", str(args.rounds), "--data.updates_per_episode", "1"),
                *("--data.eval_episodes", "1", "--trainer.log_every_n_steps", "50"),
                *(BUSY if args.busy else QUIET),
            ]
        )
        announced = (10 + args.rounds) * watch.rows[-1]["replay_mb"] / (10 + watch.rows[-1]["round"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with open(args.out.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(watch.rows[0]))
        writer.writeheader()
        writer.writerows(watch.rows)
    count = len(watch.rows)
    table = Table(title=f"{args.rounds} online rounds, {count} looks")
    for column in ("", "second quarter", "last quarter", "growth"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("memory_mb", "children_mb", "processes", "files", "threads", "checkpoints_mb"):
        early = statistics.median(row[name] for row in watch.rows[count // 4 : count // 2])
        late = statistics.median(row[name] for row in watch.rows[3 * count // 4 :])
        growth = f"{100 * (late / early - 1):+.1f}%" if early else ""
        table.add_row(name, f"{early:.1f}", f"{late:.1f}", growth)
    console = Console()
    console.print(table)
    console.print(f"replay: {watch.rows[-1]['replay_mb']:.0f} MiB on disk, {announced:.0f} announced")
    console.print(f"time: {watch.rows[-1]['seconds']:.0f} s")
    figure, axes = plt.subplots(2, 3, figsize=(13, 6), sharex=True, constrained_layout=True)
    rounds = [row["round"] for row in watch.rows]
    for axis, (name, label) in zip(
        axes.flat,
        (("memory_mb", "memory, MiB (without mapped files)"), ("children_mb", "of the processes below it, MiB"),
         ("processes", "processes below it"), ("files", "open files"), ("threads", "threads"),
         ("replay_mb", "replay on disk, MiB")),
        strict=True,
    ):  # fmt: skip
        axis.plot(rounds, [row[name] for row in watch.rows], color="#1f5f8b")
        axis.set_ylim(0, 1.15 * max(1, *(row[name] for row in watch.rows)))
        axis.set_title(label, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("online round")
    figure.savefig(args.out.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
