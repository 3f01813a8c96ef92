"""What one step of a policy costs on one core: ``python -m benchmarks.policy_step``.

Milliseconds from an image to an action, of a size's agent with random weights: ``load_policy``'s object, the step in
ONNX with onnxruntime, and the archive of torch.export. Each is first compared with the agent. They take turns in short
rounds. The clock's median round is what a control loop on this machine sees; the processor's time in the fastest round
is what one core needs, whoever else is at work.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.train_step import agent_of_size
from moto_pl.deploy.export import FORMS, Run, compare
from moto_pl.deploy.step import PolicyStep, policy_step
from moto_pl.doctor import environment_summary
from moto_pl.files import write_whole
from moto_pl.ops import Key
from moto_pl.rollout.policy import Policy

STEPS = 10  # of a round
GOAL_MS = 5.0


def follower(run: Run, step: PolicyStep, image: np.ndarray) -> Callable[[], None]:
    """A step of a file that goes on from its own state."""
    state = [part.example.numpy() for part in step.state]
    draws, first = [part.example.numpy() for part in step.draws], np.array(False)

    def follow() -> None:
        found = dict(zip(step.outputs, run([image, first, *state, *draws]), strict=True))
        state[:] = [found[part.source] for part in step.state]

    return follow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=["MOTO", "BC"])
    parser.add_argument("--size", default="small", help="debug, cpu, small or paper")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compare", type=int, default=100, help="steps that are first compared with the agent")
    parser.add_argument("--out", type=Path, help="also write the numbers to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    table = Table(title=f"a step on one core, {arguments.size}, ms of the clock (of the processor)")
    for column in ("agent", "load_policy", *FORMS):
        table.add_column(column, justify="left" if column == "agent" else "right")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in arguments.agents:
        agent = agent_of_size(name, arguments.size, torch.device("cpu")).eval().requires_grad_(False)
        policy = Policy(agent, "mode", Key(0, 0))
        calls: dict[str, Callable[[], object]] = {"load_policy": lambda policy=policy: policy.act(image)}
        for form, (write, read) in FORMS.items():
            step = policy_step(copy.deepcopy(agent))
            run = read(write(step, step.metadata(None)))
            print(name, form, compare(run, step, Policy(agent, "mode", Key(0, 0)), arguments.compare), flush=True)
            calls[form] = follower(run, step, image)
        times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in calls}  # clock, processor
        for number in range(arguments.rounds + 1):
            for kind, call in calls.items():
                begun, used = time.perf_counter(), time.process_time()
                for _ in range(STEPS):
                    call()
                if number:  # the first round warms up
                    spent = time.perf_counter() - begun, time.process_time() - used
                    times[kind].append((1000 * spent[0] / STEPS, 1000 * spent[1] / STEPS))
        results[name] = {
            kind: {
                "clock_median_ms": statistics.median(clock for clock, _ in found),
                "processor_min_ms": min(processor for _, processor in found),
            }
            for kind, found in times.items()
        }
        cells = (f"{t['clock_median_ms']:.2f} ({t['processor_min_ms']:.2f})" for t in results[name].values())
        table.add_row(name, *cells)
    Console().print(table)
    print(f"goal: at most {GOAL_MS:g} ms of one core for a step of a file")
    if arguments.out is not None:
        summary = {"size": arguments.size, "ms": results, "environment": environment_summary()}
        write_whole(arguments.out, json.dumps(summary, indent=1).encode())


if __name__ == "__main__":
    main()
