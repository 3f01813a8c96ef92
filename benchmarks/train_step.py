"""Updates per second of a whole training step, and where its time goes: ``python -m benchmarks.train_step``.

Sizes are those of the configurations. The alternative is what one would write first: a Python loop over the ensemble's
members and over the critics, and the lambda-return as a loop of tensor operations. Each round times every variant once,
in turn, so that a busy machine troubles all alike; medians over the rounds, in one process.

``--profile`` shows where a step's time goes, ``--against COMMIT`` how it compares with another commit's.
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
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.step_against import compare
from benchmarks.step_profile import print_parts, profile_parts
from moto_pl.agents import Agent, BatchPart
from moto_pl.agents.latent_replay import LatentReplayAgent
from moto_pl.agents.loading import build_agent
from moto_pl.agents.run_facts import RunFacts
from moto_pl.doctor import environment_summary
from moto_pl.files import write_whole
from moto_pl.nn import EnsembleMLP
from moto_pl.ops import Key, PriorWeights
from moto_pl.replay import EpisodeSet, EpisodeStore, SequenceSampler
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.schedule import Schedule
from moto_pl.training.configs import config_path, merge, settings_of
from moto_pl.training.memory import keep_freed_memory

ACTIONS = 4


def load_agent(name: str, device: torch.device, **changes: Any) -> Any:
    """The agent of a configuration, with four actions; ``name`` is one of the package's, or a path.

    ``changes`` are arguments of the agent.
    """
    model = settings_of("--config", name if name.endswith(".yaml") else str(config_path(name)))["model"]
    merge(model, {"init_args": changes})
    return build_agent(model, ACTIONS).to(device)


def optimizer_of(agent: Agent) -> torch.optim.Optimizer:
    """The optimizer of an agent without a run, whose learning rates stay what they are at its first step."""
    agent.meet(RunFacts(ACTIONS, False, Schedule(0, 10, 1, 1)))
    found: Any = agent.configure_optimizers()
    optimizer: torch.optim.Optimizer = found["optimizer"] if isinstance(found, dict) else found
    return optimizer


def random_batch(agent: Agent, device: torch.device) -> dict[str, SequenceBatch]:
    """A batch of the agent's sizes."""
    return {name: random_sequences(part, device) for name, part in agent.parts().items()}


def random_sequences(part: BatchPart, device: torch.device) -> SequenceBatch:
    """Random sequences of a part's size."""
    shape = (part.size, part.length)
    return SequenceBatch(
        torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8, device=device),
        torch.rand(*shape, 4, device=device) * 2 - 1,
        torch.rand(shape, device=device),
        torch.zeros(shape, dtype=torch.bool, device=device),
        torch.zeros(shape, dtype=torch.bool, device=device),
    )


def looped_priors(deter: Tensor, weights: PriorWeights) -> Tensor:
    """The prior heads one after another."""
    heads = zip(*weights, strict=True)
    return torch.stack([(F.elu(deter @ w1 + b1) @ w2 + b2) for w1, b1, w2, b2 in heads])


def looped_ensemble(self: EnsembleMLP, x: Tensor, frozen: bool = False, member: Tensor | None = None) -> Tensor:
    """The critics one after another."""
    outputs = []
    for n in range(self.members) if member is None else member.tolist():
        y = x
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            if frozen:
                kernel, bias = kernel.detach(), bias.detach()
            y = (F.elu(y) if i else y) @ kernel[n] + bias[n]
        outputs.append(y)
    return torch.stack(outputs)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--configs", nargs="+", default=["debug", "demo"], help="add tasks/metaworld for the paper's sizes"
    )
    parser.add_argument("--agents", action="store_true", help="instead, every agent; slow at the paper's sizes")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES, help="of the agents")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--against", metavar="COMMIT", help="instead, pairs with another commit, on the CPU")
    parser.add_argument("--profile", action="store_true", help="instead, where the time goes, by part, on the CPU")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="of the last two: configurations or agents")
    parser.add_argument("--steps", type=int, default=10, help="of the last two: steps timed in a process")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.against:
        compare(args.against, args.cases, args.rounds, args.steps, args.out)
        return
    if args.profile:
        for case in args.cases:
            profile_case(case, args.steps)
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.agents:
        compare_agents(args.sizes, args.rounds, device, args.out)
        return
    table = Table(title=f"training step on {device}, {torch.get_num_threads()} threads, median of {args.rounds}")
    for column in (
        "configuration",
        "ours, updates/s",
        "references",
        "loops",
        "ours / references",
        "ours / loops",
        "model, ms",
        "behaviour, ms",
    ):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    results = []
    for name in args.configs:
        result = measure(name, device, args.rounds)
        results.append(result)
        table.add_row(
            name,
            f"{1 / result['step_s']:.2f}",
            f"{1 / result['reference_s']:.2f}",
            f"{1 / result['loops_s']:.2f}",
            f"{result['reference_s'] / result['step_s']:.2f}",
            f"{result['loops_s'] / result['step_s']:.2f}",
            f"{1000 * result['model_s']:.0f}",
            f"{1000 * (result['step_s'] - result['model_s']):.0f}",
        )
    Console().print(table)
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1))


def take_step(agent: Agent, batch: Any, optimizer: torch.optim.Optimizer) -> None:
    """Losses, gradient and the optimizer's step."""
    losses, _ = agent.losses(batch, Key(0, 0))
    optimizer.zero_grad()
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    optimizer.step()


def measure(name: str, device: torch.device, rounds: int) -> dict[str, float]:
    """Medians, in seconds, of the whole step, the step with loops, and the world model's part alone."""
    agent = load_agent(name, device)
    batch = random_batch(agent, device)
    optimizer = optimizer_of(agent)

    def step() -> None:
        take_step(agent, batch, optimizer)

    def reference() -> None:
        rssm = agent.world_model.rssm
        with mock.patch.object(agent, "ops", "reference"), mock.patch.object(rssm, "ops", "reference"):
            step()

    def loops() -> None:
        with (
            mock.patch("moto_pl.ops.imagine.priors", looped_priors),
            mock.patch("moto_pl.nn.world_model.priors", looped_priors),
            mock.patch.object(EnsembleMLP, "forward", looped_ensemble),
            mock.patch.object(agent, "ops", "reference"),
            mock.patch.object(agent.world_model.rssm, "ops", "reference"),
        ):
            step()

    def model() -> None:
        losses, _ = agent.world_model.loss(batch["model"], Key(0, 0))
        optimizer.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()

    variants = {"step_s": step, "reference_s": reference, "loops_s": loops, "model_s": model}
    return medians(variants, rounds, device)


def medians(variants: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Each variant's median in seconds, of rounds in which every one of them runs once, in turn."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds + 1):
        for name, run in variants.items():
            begun = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if index:  # the first round warms up
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


# Every agent.

#: What ``--against`` and ``--profile`` look at: the demo, and the other agents.
CASES = ("demo", "DreamerV2", "LOMPO", "COMBO", "BC", "IQL", "CQL", "SAC")


def profile_case(case: str, steps: int) -> None:
    """Prints where a step's time goes, with the settings of a run."""
    keep_freed_memory()
    device = torch.device("cpu")
    agent = agent_of_size(case, "suite", device) if case in AGENTS else load_agent(case, device)
    batch = random_batch(agent, device)
    optimizer = optimizer_of(agent)
    print_parts(case, profile_parts(lambda: take_step(agent, batch, optimizer), steps))


AGENTS = ("MOTO", "DreamerV2", "LOMPO", "COMBO", "BC", "IQL", "CQL", "SAC")
#: ``debug`` and ``paper`` are of configs/sizes, ``suite`` what benchmarks/suite makes of ``cpu``.
SIZES = ("debug", "suite", "paper")
_WORDS = {"DreamerV2": "dreamer"}


def agent_of_size(agent: str, size: str, device: torch.device) -> Any:
    """An agent with four actions; of LOMPO and COMBO, with a replay of random sequences."""
    word = _WORDS.get(agent, agent.lower())
    suite = Path(__file__).parent / "suite"
    own = suite / f"{word}.yaml"
    given = ["--config", str(own if own.exists() else suite / "protocol.yaml")] if size == "suite" else ["--size", size]
    built = build_agent(settings_of("--agent", word, *given)["model"], ACTIONS).to(device)
    if isinstance(built, LatentReplayAgent):
        part = BatchPart(built.batch.replay_size, built.batch.model_length)
        built.refresh_replay(random_sequences(part, device), Key(0, 0))
    return built


def compare_agents(sizes: list[str], rounds: int, device: torch.device, out: Path | None) -> None:
    """Prints updates a second of each agent, and what share of its time drawing its batches would be.

    The batches are drawn from 100 episodes of 101 steps, one after another in the training's own process: an upper
    bound, for training draws them while the step before is taken.
    """
    table = Table(title=f"every agent on {device}, {torch.get_num_threads()} threads, median of {rounds}")
    for column in ("agent", *(f"{size}: {what}" for size in sizes for what in ("updates/s", "drawing"))):
        table.add_column(column, justify="left" if column == "agent" else "right")
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        store = EpisodeStore(Path(directory))
        rng = np.random.default_rng(0)
        for _ in range(100):
            image = rng.integers(0, 256, (102, 64, 64, 3), np.uint8)
            action, reward = rng.uniform(-1, 1, (101, 4)).astype(np.float32), np.ones(101, np.float32)
            store.append(Episode(image, action, reward, False, True, reward > 0, {}, {}))
        for name in track(AGENTS, "agents", transient=True):
            results[name] = {size: _time_agent(agent_of_size(name, size, device), store, rounds) for size in sizes}
            cells = []
            for found in results[name].values():
                share = found["draw_s"] / (found["draw_s"] + found["step_s"])
                cells += [f"{1 / found['step_s']:.3g}", f"{share:.1%}"]
            table.add_row(name, *cells)
    Console().print(table)
    if out is not None:
        write_whole(out, json.dumps({"seconds": results, "environment": environment_summary()}, indent=1).encode())


def _time_agent(agent: Any, store: EpisodeStore, rounds: int) -> dict[str, float]:
    optimizer = optimizer_of(agent)
    sets = {
        name: EpisodeSet([(i, store[i].num_rows) for i in range(len(store))], part.length)
        for name, part in agent.parts().items()
    }
    times: dict[str, list[float]] = {"draw_s": [], "step_s": []}
    for index in range(rounds + 1):
        begun = time.perf_counter()
        batch = {
            name: SequenceSampler(store, 0, name).sample(index, 0, 1, part.size, part.length, sets[name], part.history)
            for name, part in agent.parts().items()
        }
        drawn = time.perf_counter()
        batch = {name: part.map(lambda x: x.to(agent.device)) for name, part in batch.items()}
        take_step(agent, batch, optimizer)
        if agent.device.type == "cuda":
            torch.cuda.synchronize()
        if index:  # the first round warms up
            times["draw_s"].append(drawn - begun)
            times["step_s"].append(time.perf_counter() - drawn)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
