"""What collecting kitchen data costs: ``python -m benchmarks.collect``.

Environment steps a second with and without pixels, in this process and in workers; frames a second of building
demonstrations with ``moto data build``'s processes, and of rendering a dataset of states with ``moto data render``'s.
Starting processes is left out: the clock runs from each one's first result. The kinds take turns in short rounds; the
median round counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.render import pool_step, rate
from moto_pl.datasets.kitchen.demonstrations import Demonstration, record_demonstration
from moto_pl.datasets.kitchen.orders import sequence
from moto_pl.datasets.kitchen.render import Job, render_part
from moto_pl.datasets.parallel import in_processes
from moto_pl.doctor import environment_summary
from moto_pl.envs import KITCHEN_TASKS, kitchen_id
from moto_pl.envs.kitchen import KitchenEnv
from moto_pl.envs.rendering import Quality, select_backend
from moto_pl.files import write_whole
from moto_pl.rollout.pool import EnvPool

EPISODES = 8  # that are rendered in a round


def write_states(path: Path, episodes: int, steps: int) -> Path:
    """A dataset of states of an arm that moves about, as three arrays."""
    env = KitchenEnv()
    rng = np.random.default_rng(0)
    states, actions = np.zeros((steps + 1, episodes, 60)), rng.uniform(-0.5, 0.5, (steps + 1, episodes, 9))
    env.start(0)
    for step in range(steps + 1):
        states[step, :, :30] = env.data.qpos
        env.advance(actions[step, 0])
    env.close()
    path.mkdir()
    np.save(path / "observations_seq.npy", states)
    np.save(path / "actions_seq.npy", actions)
    np.save(path / "existence_mask.npy", np.ones((steps + 1, episodes)))
    return path


def render_rate(states: Path, frames: int, workers: int, quality: Quality, size: int) -> float:
    """Frames a second that ``workers`` processes draw and write: the last of eight episodes' ``frames``."""
    kwargs = {"objects": list(KITCHEN_TASKS["mixed"]), "image_size": size, "render_quality": quality}
    with tempfile.TemporaryDirectory() as parts:
        jobs = [Job(str(states), index, kwargs, f"{parts}/{index}.npz") for index in range(EPISODES)]
        return _rate_after_start(render_part, jobs, workers, lambda _: frames)


def build_rate(workers: int, quality: Quality, size: int) -> float:
    """Frames a second that ``workers`` processes record of scripted demonstrations, failed attempts not counted.

    Whole ones of four objects; in full quality, which takes minutes for one of them, those of a single object.
    """
    steps, objects = (280, 4) if quality == "fast" else (45, 1)
    kwargs = {"image_size": size, "render_quality": quality, "episode_steps": steps}
    plans = [
        Demonstration("mixed", index, sequence("mixed", index)[:objects], 0, 0.05, True, "canonical", kwargs)
        for index in range(6)
    ]
    return _rate_after_start(record_demonstration, plans, workers, lambda episode: len(episode.image))


def _rate_after_start(
    function: Callable[..., Any], jobs: list[Any], workers: int, frames: Callable[[Any], int]
) -> float:
    """Frames a second from the moment when every process has finished its first job."""
    results = [(time.perf_counter(), frames(result)) for _, result in in_processes(function, jobs, workers)]
    return sum(count for _, count in results[workers:]) / (results[-1][0] - results[workers - 1][0])


def stepping(env: KitchenEnv, pixels: bool) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    return (lambda: env.step(rng.uniform(-1, 1, 9))) if pixels else (lambda: env.advance(rng.uniform(-1, 1, 9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each kind of step in a round")
    parser.add_argument("--steps", type=int, default=60, help="of each of the eight episodes that are rendered")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--full", action="store_true", help="build and render in full quality as well, once")
    parser.add_argument("--out", type=Path, help="also write the numbers to this JSON file")
    arguments = parser.parse_args()

    select_backend()
    fast, full = (KitchenEnv(image_size=arguments.size, render_quality=quality) for quality in ("fast", "full"))
    kinds: dict[str, tuple[Callable[[], object], int]] = {
        "step: no pixels": (stepping(fast, False), 1),
        "step: fast": (stepping(fast, True), 1),
        "step: full": (stepping(full, True), 1),
    }
    pools = []
    for workers in arguments.workers:
        pools.append(EnvPool(kitchen_id("mixed"), {"image_size": arguments.size}, workers))
        kinds[f"step: fast, {workers} worker{'s' * (workers > 1)}"] = (pool_step(pools[-1]), workers)
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as directory:
        states: dict[Quality, tuple[Path, int]] = {}
        for quality, steps in (("fast", arguments.steps), ("full", max(2, arguments.steps // 6))):
            states[quality] = write_states(Path(directory) / quality, EPISODES, steps), steps + 1
        for number in track(range(arguments.rounds), "measuring", transient=True):
            for name, (call, count) in kinds.items():
                rates[name].append(rate(call, arguments.seconds, count))
            for quality in states if arguments.full and number == 0 else ("fast",):
                for workers in arguments.workers:
                    name = f"{quality}, {workers} worker{'s' * (workers > 1)}"
                    found = build_rate(workers, quality, arguments.size)
                    rates.setdefault(f"build a dataset: {name}", []).append(found)
                    found = render_rate(*states[quality], workers, quality, arguments.size)
                    rates.setdefault(f"render a dataset: {name}", []).append(found)
    medians = {name: statistics.median(values) for name, values in rates.items()}

    console = Console()
    table = Table(title=f"{kitchen_id('mixed')}, {arguments.size}x{arguments.size}\n{fast.gl_renderer}")
    for column in ("", "a second", "lowest", "highest"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in rates.items():
        table.add_row(name, *(f"{figure:.1f}" for figure in (medians[name], min(values), max(values))))
    console.print(table)
    console.print(f"Medians of {arguments.rounds} rounds.")
    if arguments.out:
        result = {
            "size": arguments.size,
            "gl_renderer": fast.gl_renderer,
            "per_second": rates,
            "median": medians,
            "environment": environment_summary(),
        }
        write_whole(arguments.out, json.dumps(result, indent=2).encode())
    for pool in pools:
        pool.close()
    fast.close()
    full.close()


if __name__ == "__main__":
    main()
