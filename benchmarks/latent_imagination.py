"""What share of a round LOMPO's and COMBO's imagination takes: ``python -m benchmarks.latent_imagination``.

They imagine once as a round begins, not at each gradient step as MOTO does, and their Gaussian latents (``softplus``)
are rolled by the plain-PyTorch references. The share is what operators of their own could win at most: of the
shortest round, an online one of a single environment.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.train_step import agent_of_size, medians, optimizer_of, random_batch, random_sequences, take_step
from moto_pl.agents import BatchPart
from moto_pl.doctor import environment_summary
from moto_pl.files import write_whole
from moto_pl.ops import Key

#: Gradient steps of the shortest round: ``data.updates_per_episode`` of the sizes that ``agent_of_size`` knows.
UPDATES = {"debug": 5, "suite": 10, "paper": 20}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["suite", "paper"], choices=list(UPDATES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = f"imagination in a round on {device}, {torch.get_num_threads()} threads, median of {args.rounds}"
    table = Table("agent", "size", "rollouts", "imagine, ms", "encode, ms", "step, ms", "share of a round", title=title)
    found = {}
    for name in ("LOMPO", "COMBO"):
        for size in args.sizes:
            times = found[f"{name} {size}"] = measure(name, size, args.rounds, device)
            cells = (f"{1000 * times[part]:,.0f}" for part in ("imagine_s", "encode_s", "step_s"))
            table.add_row(name, size, f"{times['rollouts']:.0f}", *cells, f"{times['share']:.1%}")
    Console().print(table)
    if args.out is not None:
        write_whole(args.out, json.dumps({"found": found, "environment": environment_summary()}, indent=1).encode())


def measure(name: str, size: str, rounds: int, device: torch.device) -> dict[str, float]:
    """Medians, in seconds, of a round's imagination, of the encoding before it, and of a gradient step."""
    agent = agent_of_size(name, size, device)
    optimizer, batch = optimizer_of(agent), random_batch(agent, device)
    sequences = random_sequences(BatchPart(agent.batch.replay_size, agent.batch.model_length), device)
    with torch.no_grad():
        starts = agent._start_states(agent.encode(sequences, Key(0, 0))[1], Key(0, 0))
    found = medians(
        {
            "imagine_s": lambda: agent.imagine(starts, Key(0, 1)),
            "encode_s": torch.no_grad()(lambda: agent.encode(sequences, Key(0, 0))),
            "step_s": lambda: take_step(agent, batch, optimizer),
        },
        rounds,
        device,
    )
    whole = found["imagine_s"] + found["encode_s"] + UPDATES[size] * found["step_s"]
    return {**found, "rollouts": len(starts.deter), "share": found["imagine_s"] / whole}


if __name__ == "__main__":
    main()
