"""How often the scripted arm of the kitchen succeeds: ``python -m benchmarks.kitchen_arm``.

An attempt at an object is one pass of its script, without trying again; in every second one the arm begins where
another object left it. A sequence is four objects, and succeeds where its episode would be kept: in canonical order
where they, and no other, are in place after 280 steps and were completed in their order; in free order where all are in
place together at some step. Nothing is drawn.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from moto_pl.datasets.kitchen.arm import KitchenArm
from moto_pl.datasets.kitchen.demonstrations import Demonstration, rehearse
from moto_pl.datasets.kitchen.orders import ORDERS, sequence
from moto_pl.envs import KITCHEN_OBJECTS
from moto_pl.envs.kitchen import KitchenEnv


def attempt(env: KitchenEnv, name: str, seed: int, noise: float, before: str | None = None) -> tuple[bool, int]:
    """Operate one object once, perhaps after another one.

    Returns:
        Whether it is in place after the hand has left it, and the steps that it took.
    """
    rng = np.random.default_rng(seed)
    env.start(seed)
    arm = KitchenArm(env, rng)
    steps = 0
    for operated in (before, name) if before else (name,):
        steps = 0
        for action in arm.operate(operated):
            env.advance(np.clip(action + noise * rng.standard_normal(len(action)), -1.0, 1.0))
            steps += 1
    return arm.in_place(name), steps


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=50, help="at each object (50)")
    parser.add_argument("--sequences", type=int, default=60, help="(60)")
    parser.add_argument("--noise", type=float, default=0.05, help="standard deviation on each action (0.05)")
    parser.add_argument("--seed", type=int, default=0, help="of the first attempt (0)")
    args = parser.parse_args(argv)
    console = Console(width=100)
    env = KitchenEnv()
    table = Table("attempt", "successes", "share", "median steps", title=f"Scripted arm, action noise {args.noise:g}")
    for name in track(KITCHEN_OBJECTS, "objects", console=Console(stderr=True)):
        others = [other for other in KITCHEN_OBJECTS if other != name]
        results = []
        for index in range(args.attempts):
            before = others[index // 2 % len(others)] if index % 2 else None
            results.append(attempt(env, name, args.seed + index, args.noise, before))
        won = sum(success for success, _ in results)
        steps = statistics.median(taken for _, taken in results)
        table.add_row(name, f"{won} of {args.attempts}", f"{won / args.attempts:.0%}", f"{steps:g}")
    for order in ORDERS:
        ends = []
        for index in track(range(args.sequences), f"sequences, {order}", console=Console(stderr=True)):
            objects = sequence("mixed", index, args.seed, order=order)
            _, in_place = rehearse(env, objects, args.seed + index, args.noise)
            plan = Demonstration("mixed", index, objects, args.seed, args.noise, False, order, {})
            together = in_place[:, [KITCHEN_OBJECTS.index(name) for name in objects]].all(axis=1)
            ends += [int(together.argmax()) + 1] if plan.accepts(in_place) else []
        middle = f"{statistics.median(ends):g}" if ends else "-"
        share = f"{len(ends) / args.sequences:.0%}"
        table.add_row(f"four objects, {order}", f"{len(ends)} of {args.sequences}", share, middle)
    console.print(table)
    env.close()


if __name__ == "__main__":
    main()
