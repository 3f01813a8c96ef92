"""A training step of this tree beside another commit's: ``python -m benchmarks.train_step --against COMMIT``.

The commit is checked out into a temporary worktree and built there. Both trees train its agents, with the settings that
they have there. Processes of both trees take turns, each on the same weights and batches; what one process finds is its
median step, and what is compared are the two processes of a pair. As other programs disturb both, time of the processor
stands beside time by the clock.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_WARM_UP = 3


def compare(commit: str, cases: list[str], rounds: int, steps: int, out: Path | None) -> None:
    """Prints, for each case, how many times as fast as the commit's this tree's step is, and keeps the figures.

    Args:
        commit: what to compare with.
        cases: configurations, or agents (at the sizes of benchmarks/suite).
        rounds: pairs of processes.
        steps: steps timed in each.
        out: where to keep the figures; ``step_against_COMMIT.json`` under benchmarks/results by default.
    """
    name = _git("rev-parse", "--short", f"{commit}^{{commit}}")
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    with _checkout(commit) as other:
        settings = {case: _settings(other, case) for case in cases}
        for index in track(range(rounds), "pairs", transient=True):
            for case in cases:
                trees = {"ours": ROOT, "theirs": other}
                order = list(trees) if index % 2 == 0 else list(trees)[::-1]
                given = {"ours": settings[case], "theirs": None}
                found[case].append({tree: _measure(trees[tree], case, steps, given[tree]) for tree in order})
    results = {case: _summary(pairs) for case, pairs in found.items()}
    _print(name, results)
    path = out or RESULTS / f"step_against_{name}.json"
    record = {
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "against": name,
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "steps": steps,
        "results": results,
        "pairs": {case: [_times(pair) for pair in pairs] for case, pairs in found.items()},
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    Console().print(f"kept in {path}")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    """A worktree of the commit with its operators built."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            environment = {"MOTO_BUILD": "require", **os.environ}
            done = subprocess.run(build, cwd=tree, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{commit} could not be built:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _settings(tree: Path, case: str) -> dict[str, Any]:
    """The agent that a tree makes of a case, as a checkpoint of it is read today."""
    from moto_pl.agents.earlier import complete  # here: an earlier tree's process reads this file too

    return complete(_measure(tree, case, 1, None)["agent"])


def _measure(tree: Path, case: str, steps: int, settings: dict[str, Any] | None) -> dict[str, Any]:
    """What a new process finds with a tree's own package. The code that measures is ours; -P keeps its folder away."""
    command = [sys.executable, "-P", str(Path(__file__).resolve()), case, "--steps", str(steps)]
    if settings is not None:
        command += ["--settings", json.dumps(settings)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, cwd=tree
    )
    if done.returncode:
        sys.exit(f"{case} in {tree} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios theirs / ours over the pairs, best times, and how far the first steps' losses and gradients lie apart."""
    summary: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        ratios = sorted(pair["theirs"][clock] / pair["ours"][clock] for pair in pairs)
        best = {tree: min(pair[tree][f"{clock}_min"] for pair in pairs) for tree in ("ours", "theirs")}
        summary[clock] = {
            "ratio": statistics.median(ratios),
            "ratio_min": ratios[0],
            "ratio_max": ratios[-1],
            "ratio_best": best["theirs"] / best["ours"],
            "ours_s": statistics.median(pair["ours"][clock] for pair in pairs),
            "theirs_s": statistics.median(pair["theirs"][clock] for pair in pairs),
        }
    ours, theirs = pairs[0]["ours"]["first"], pairs[0]["theirs"]["first"]
    summary["apart"] = max(abs(ours[name] - theirs[name]) / max(1e-6, abs(theirs[name])) for name in theirs)
    return summary


def _times(pair: dict[str, Any]) -> dict[str, Any]:
    return {
        tree: {name: value for name, value in found.items() if name not in ("first", "agent")}
        for tree, found in pair.items()
    }


def _print(name: str, results: dict[str, dict[str, Any]]) -> None:
    table = Table(title=f"training step, {torch.get_num_threads()} threads: times as fast as {name}'s")
    columns = ("case", "ours, ms", "theirs, ms", "by the clock", "best of each", "by processor time", "apart")
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right")
    for case, found in results.items():
        wall, cpu = found["wall"], found["cpu"]
        table.add_row(
            case,
            f"{1000 * wall['ours_s']:.0f}",
            f"{1000 * wall['theirs_s']:.0f}",
            f"{wall['ratio']:.2f} ({wall['ratio_min']:.2f} to {wall['ratio_max']:.2f})",
            f"{wall['ratio_best']:.2f}",
            f"{cpu['ratio']:.2f} ({cpu['ratio_min']:.2f} to {cpu['ratio_max']:.2f})",
            f"{found['apart']:.0e}",
        )
    Console(width=140).print(table)
    Console().print("apart: the largest relative difference of the first step's losses and gradient norms", style="dim")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def probe(case: str, steps: int, settings: dict[str, Any] | None) -> dict[str, Any]:
    """Times a case with the package that this process imports, set up as a run is; only names of old may be used.

    Args:
        case: a configuration or an agent.
        steps: steps timed.
        settings: the agent's, in place of those that this package has for the case.
    """
    from benchmarks import train_step
    from benchmarks.train_step import AGENTS, agent_of_size, load_agent, random_batch, take_step
    from moto_pl.ops import Key

    build = train_step.build_agent

    def build_given(model: dict[str, Any], *arguments: Any) -> Any:
        return build({name: (settings or model)[name] for name in ("class_path", "init_args")}, *arguments)

    try:
        from moto_pl.training.memory import keep_freed_memory
    except ImportError:
        pass
    else:
        keep_freed_memory()
    device = torch.device("cpu")
    torch.manual_seed(0)
    with mock.patch.object(train_step, "build_agent", build_given):
        agent = agent_of_size(case, "suite", device) if case in AGENTS else load_agent(case, device)
    torch.manual_seed(1)
    batch = random_batch(agent, device)
    agent.final_lr = 1.0  # a schedule would need a run
    optimizer = agent.configure_optimizers()
    losses = agent.losses(batch, Key(0, 0))[0]
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    first = {name: float(loss.detach()) for name, loss in losses.items()}
    first |= {name: float(p.grad.norm()) for name, p in agent.named_parameters() if p.grad is not None}
    del losses
    times: dict[str, list[float]] = {"wall": [], "cpu": []}
    for index in range(_WARM_UP + steps):
        begun = time.perf_counter(), time.process_time()
        take_step(agent, batch, optimizer)
        if index >= _WARM_UP:
            times["wall"].append(time.perf_counter() - begun[0])
            times["cpu"].append(time.process_time() - begun[1])
    medians = {clock: statistics.median(values) for clock, values in times.items()}
    least = {f"{clock}_min": min(values) for clock, values in times.items()}
    return {**medians, **least, "first": first, "agent": agent.description()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--settings", type=json.loads)
    arguments = parser.parse_args()
    print(json.dumps(probe(arguments.case, arguments.steps, arguments.settings)))
