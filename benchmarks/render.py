"""Frames a second of the environments, beside their simulators' own rendering: ``python -m benchmarks.render``.

``--task kitchen`` measures Franka Kitchen, any other a task of MetaWorld. ``as shipped`` is what ``render()`` of
MetaWorld's or gymnasium-robotics' environment gives at 64x64; ``full`` and ``fast`` are this package's
qualities. The kinds take turns in short rounds, so that whatever else the machine does meets all of them; the median
round counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from moto_pl.doctor import environment_summary
from moto_pl.envs import kitchen_id, make, metaworld_id
from moto_pl.envs.kitchen import KitchenEnv
from moto_pl.envs.metaworld import MetaWorldEnv
from moto_pl.envs.rendering import Quality, select_backend
from moto_pl.files import write_whole
from moto_pl.rollout.pool import EnvPool

KITCHEN = "kitchen"
KITCHEN_CAMERA = "paper"


def kitchen_as_shipped(size: int) -> tuple[Callable[[], object], Callable[[], object]]:
    import gymnasium as gym
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    env = gym.make("FrankaKitchen-v1", render_mode="rgb_array", width=size, height=size, disable_env_checker=True)
    env.reset(seed=0)
    image: Any = env.render()
    assert image.shape == (size, size, 3) and np.ptp(image) > 0
    viewer = env.unwrapped.robot_env.mujoco_renderer.viewer  # type: ignore[attr-defined]

    def render() -> None:
        viewer.make_context_current()  # it does not by itself, and would draw in the context of whoever drew last
        env.render()

    return render, env.close


def env_id(task: str) -> str:
    return kitchen_id("mixed") if task == KITCHEN else metaworld_id(task)


def as_shipped(task: str, size: int, camera: str) -> tuple[Callable[[], object], Callable[[], object]]:
    if task == KITCHEN:
        return kitchen_as_shipped(size)
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

    # The goal-observable classes take neither size nor camera: the renderer is made on first use and reads them here.
    env: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"](seed=0, render_mode="rgb_array")
    env.mujoco_renderer.width = env.mujoco_renderer.height = size
    env.model.vis.global_.offwidth = env.model.vis.global_.offheight = size
    env.mujoco_renderer.camera_id = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
    assert env.mujoco_renderer.camera_id >= 0, f"no camera {camera}"
    env.reset()
    image = env.render()
    assert image.shape == (size, size, 3) and np.ptp(image) > 0
    viewer = env.mujoco_renderer.viewer

    def render() -> None:
        viewer.make_context_current()  # it does not by itself, and would draw in the context of whoever drew last
        env.render()

    return render, env.close


def ours(task: str, size: int, camera: str, quality: Quality) -> MetaWorldEnv | KitchenEnv:
    env = make(env_id(task), image_size=size, camera=camera, render_quality=quality).unwrapped
    assert isinstance(env, MetaWorldEnv | KitchenEnv)
    env.reset(seed=0)
    return env


def rate(call: Callable[[], object], seconds: float, frames: int = 1) -> float:
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        call()
        count += frames
    return count / elapsed


def pool_step(pool: EnvPool) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    seeds = list(range(pool.capacity))
    left = 0

    def step() -> None:
        nonlocal left
        if not left:
            pool.reset(seeds)
            left = 100
        left -= 1
        pool.step(rng.uniform(-1, 1, (pool.capacity, *pool.action_space.shape)))

    step()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="door-open", help="of MetaWorld, or kitchen")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--camera", help="of MetaWorld's scene (corner2), which all of them can use")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each kind in a round")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--out", type=Path, help="also write the numbers to this JSON file")
    arguments = parser.parse_args()

    select_backend()
    if arguments.camera is None:
        arguments.camera = KITCHEN_CAMERA if arguments.task == KITCHEN else "corner2"
    scene = arguments.task, arguments.size, arguments.camera
    (shipped, close_shipped), full, fast = as_shipped(*scene), ours(*scene, "full"), ours(*scene, "fast")
    kinds: dict[str, tuple[Callable[[], object], int]] = {
        "render: as shipped": (shipped, 1),
        "render: full": (full.render, 1),
        "render: fast": (fast.render, 1),
    }
    pools = []
    for workers in (0, *arguments.workers):
        kwargs = {"image_size": arguments.size, "camera": arguments.camera, "render_quality": "fast"}
        pools.append(EnvPool(env_id(arguments.task), kwargs, workers))
        where = "this process" if workers == 0 else f"{workers} worker{'s' * (workers > 1)}"
        kinds[f"step: fast, {where}"] = (pool_step(pools[-1]), max(workers, 1))

    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in track(range(arguments.rounds), "measuring", transient=True):
        for name, (call, frames) in kinds.items():
            rates[name].append(rate(call, arguments.seconds, frames))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    base = {"render": medians["render: as shipped"], "step": medians["step: fast, this process"]}

    console = Console()
    size = f"{arguments.size}x{arguments.size}"
    table = Table(title=f"{env_id(arguments.task)}, {arguments.camera}, {size}\n{fast.gl_renderer}")
    for column in ("", "frames/s", "lowest", "highest", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in rates.items():
        figures = (medians[name], min(values), max(values))
        ratio = medians[name] / base[name.split(":")[0]]
        cells = [*(f"{figure:.1f}" for figure in figures), f"{ratio:.2f}"]
        table.add_row(name, *cells, end_section=name == "render: fast")
    console.print(table)
    console.print(f"Medians of {arguments.rounds} rounds of {arguments.seconds:g} s each.")
    per_step = "0.08 s of simulation" if arguments.task == KITCHEN else "two simulator steps"
    console.print(f"A step is an agent's: {per_step} and an image.")
    console.print("Ratios: renders to render as shipped, steps to steps in this process.")
    if arguments.out:
        result = {
            "task": arguments.task,
            "size": arguments.size,
            "camera": arguments.camera,
            "gl_renderer": fast.gl_renderer,
            "frames_per_second": rates,
            "median": medians,
            "environment": environment_summary(),
        }
        write_whole(arguments.out, json.dumps(result, indent=2).encode())
    for closing in (*pools, full, fast):
        closing.close()
    close_shipped()


if __name__ == "__main__":
    main()
