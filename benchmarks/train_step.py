"""Updates per second of a whole training step, and where its time goes: ``python -m benchmarks.train_step``.

Sizes are those of the configurations. The alternative is what one would write first: a Python loop over the ensemble's
members and over the critics, and the lambda-return as a loop of tensor operations. Each round times every variant once,
in turn, so that a busy machine troubles all alike; medians over the rounds, in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

from moto_pl.agents import MOTO
from moto_pl.agents.moto import BatchConfig, BehaviourConfig, OptimConfig
from moto_pl.cli import _lineage, config_path
from moto_pl.nn import EnsembleMLP, WorldModelConfig
from moto_pl.ops import Key, PriorWeights
from moto_pl.replay.sampler import SequenceBatch


def load_agent(name: str, device: torch.device) -> MOTO:
    """The agent of a configuration, with four actions."""
    settings: dict[str, dict[str, object]] = {}
    for path in _lineage(config_path(name), ()):
        for group, values in yaml.safe_load(path.read_text()).get("model", {}).get("init_args", {}).items():
            settings.setdefault(group, {}).update(values)
    agent = MOTO(
        WorldModelConfig(**settings["world_model"]),  # type: ignore[arg-type]
        BehaviourConfig(**settings["behaviour"]),  # type: ignore[arg-type]
        BatchConfig(**settings["batch"]),  # type: ignore[arg-type]
        OptimConfig(**settings.get("optim", {})),  # type: ignore[arg-type]
    )
    agent.action_size = 4
    agent.build(4)
    return agent.to(device)


def random_batch(agent: MOTO, device: torch.device) -> dict[str, SequenceBatch]:
    """A batch of the agent's sizes."""
    batch = {}
    for name, part in agent.parts().items():
        shape = (part.size, part.length)
        batch[name] = SequenceBatch(
            torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8, device=device),
            torch.rand(*shape, 4, device=device) * 2 - 1,
            torch.rand(shape, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
        )
    return batch


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
        "--configs", nargs="+", default=["debug", "demo"], help="add metaworld/paper for the paper's sizes"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def measure(name: str, device: torch.device, rounds: int) -> dict[str, float]:
    """Medians, in seconds, of the whole step, the step with loops, and the world model's part alone."""
    agent = load_agent(name, device)
    batch = random_batch(agent, device)
    agent.final_lr = 1.0  # a schedule would need a run
    optimizer = agent.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)

    def step() -> None:
        losses, _ = agent.losses(batch, Key(0, 0))
        optimizer.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()

    def reference() -> None:
        rssm = agent.world_model.rssm
        with mock.patch.object(agent, "ops", "reference"), mock.patch.object(rssm, "ops", "reference"):
            step()

    def loops() -> None:
        with (
            mock.patch("moto_pl.ops.imagine.priors", looped_priors),
            mock.patch("moto_pl.nn.rssm.priors", looped_priors),
            mock.patch.object(EnsembleMLP, "forward", looped_ensemble),
            mock.patch.object(agent, "ops", "reference"),
            mock.patch.object(agent.world_model.rssm, "ops", "reference"),
        ):
            step()

    def model() -> None:
        losses, _, _ = agent.world_model.loss(batch["model"], Key(0, 0))
        optimizer.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()

    times: dict[str, list[float]] = {"step_s": [], "reference_s": [], "loops_s": [], "model_s": []}
    variants: list[tuple[str, Callable[[], None]]] = [
        ("step_s", step),
        ("reference_s", reference),
        ("loops_s", loops),
        ("model_s", model),
    ]
    for index in range(rounds + 1):
        for label, variant in variants:
            begun = time.perf_counter()
            variant()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if index:  # the first round warms up
                times[label].append(time.perf_counter() - begun)
    return {label: statistics.median(values) for label, values in times.items()}


if __name__ == "__main__":
    main()
