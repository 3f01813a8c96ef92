"""Imagination and observation, forward and backward, beside their alternatives: ``python -m benchmarks.ops``.

Each row is one process's medians over rounds in which every variant runs once, in turn, so that a busy machine troubles
all alike. *Floor*: exactly the matrix products that forward and backward need, alone, on random operands in torch's own
layouts; nothing can compute them all and be faster by more than the products it avoids. *eager*: the plain-PyTorch
reference. *compile*: ``torch.compile`` of it, its compilation (first call) apart. World-model weights are frozen in
imagination, noise is drawn inside, all variants have the same dtype and threads.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from moto_pl.doctor import environment_summary
from moto_pl.ops import CellWeights, Key, LatentSpec, PosteriorWeights, PriorWeights, imagine, observe
from moto_pl.ops.imagine import imagine_ref
from moto_pl.ops.observe import observe_ref


class Shape(NamedTuple):
    """Sizes of a model and of a batch."""

    deter: int
    hidden: int
    stoch: int
    members: int
    batch: int
    steps: int
    actor: int  # units of the four layers

    @property
    def latent(self) -> LatentSpec:
        """S variables of S classes."""
        return LatentSpec("categorical", self.stoch, self.stoch)


SHAPES = [
    Shape(128, 128, 16, 7, 64, 15, 128),
    Shape(256, 256, 16, 7, 256, 15, 400),
    Shape(200, 200, 32, 7, 128, 15, 400),
    Shape(1024, 1024, 32, 7, 128, 15, 400),
]
ACTIONS, EMBED, SEQUENCES, LENGTH = 4, 1024, 16, 50
Variant = Callable[[], None]


def draw(*shape: int, fan_in: int = 16) -> Tensor:
    return torch.randn(*shape) / fan_in**0.5


def cell(shape: Shape) -> CellWeights:
    size, units, z = shape.deter, shape.hidden, shape.latent.size
    return CellWeights(
        draw(units, z + ACTIONS, fan_in=z),
        draw(units),
        draw(3 * size, units + size, fan_in=units + size),
        torch.ones(3 * size),
        draw(3 * size),
    )


def start(shape: Shape, batch: int) -> tuple[Tensor, Tensor]:
    one_hot = F.one_hot(torch.randint(shape.stoch, (batch, shape.stoch)), shape.stoch)
    return torch.tanh(torch.randn(batch, shape.deter)), one_hot.float().flatten(1)


def imagination(shape: Shape, half: bool) -> Callable[[Callable[..., Any]], Variant]:
    """Makes the training step of an implementation of ``imagine``."""
    size, units, latent, members = shape.deter, shape.hidden, shape.latent, shape.members
    deter, stoch = start(shape, shape.batch)
    widths = [size + latent.size, *[shape.actor] * 4, 2 * ACTIONS]
    actor = [
        (draw(b, a, fan_in=a).requires_grad_(), draw(b).requires_grad_())
        for a, b in zip(widths[:-1], widths[1:], strict=True)
    ]
    prior = PriorWeights(
        draw(members, size, units, fan_in=size),
        draw(members, 1, units),
        draw(members, units, latent.params, fan_in=units),
        draw(members, 1, latent.params),
    )
    weights = cell(shape)
    leaves = [x for layer in actor for x in layer]

    def variant(function: Callable[..., Any], **options: Any) -> Variant:
        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                out = function(deter, stoch, actor, weights, prior, latent, Key(1, 2), shape.steps, **options)
            loss = out.deter.sum() + out.stoch.mul(0.5).sum() + out.action.sum() + out.entropy.sum()
            torch.autograd.grad(loss + out.disagreement.sum(), leaves)

        return run

    return variant


def observation(shape: Shape, half: bool) -> Callable[[Callable[..., Any]], Variant]:
    """Makes the training step of an implementation of ``observe``."""
    units, latent = shape.hidden, shape.latent
    deter, stoch = start(shape, SEQUENCES)
    weights = cell(shape)
    head = PosteriorWeights(
        draw(units, shape.deter + EMBED, fan_in=shape.deter + EMBED),
        draw(units),
        draw(latent.params, units, fan_in=units),
        draw(latent.params),
    )
    action, embed = torch.rand(LENGTH, SEQUENCES, ACTIONS) * 2 - 1, torch.randn(LENGTH, SEQUENCES, EMBED)
    is_first = torch.rand(LENGTH, SEQUENCES) < 0.02
    leaves = [*(x.requires_grad_() for x in (*weights, *head)), embed.requires_grad_()]

    def variant(function: Callable[..., Any], **options: Any) -> Variant:
        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                out = function(action, embed, is_first, deter, stoch, weights, head, latent, Key(1, 2), **options)
            torch.autograd.grad(sum(x.sum() for x in out), leaves)

        return run

    return variant


class Product(NamedTuple):
    """``count`` products [batch] x [m, k] x [k, n] of the given transpositions."""

    count: int
    m: int
    k: int
    n: int
    left: bool = False
    right: bool = True
    batch: int = 1


def imagination_products(shape: Shape) -> list[Product]:
    """The products of a rollout and of its gradient to the actor; each weight in its own layout."""
    d, u, z, k, b, h, a = (*shape[:2], shape.latent.size, shape.members, shape.batch, shape.steps, shape.actor)
    states, p = h + 1, z
    forward = [Product(states, b, d + z, a), Product(3 * states, b, a, a), Product(states, b, a, 2 * ACTIONS)]
    forward += [Product(h, b, z + ACTIONS, u), Product(h, b, u + d, 3 * d)]
    forward += [Product(h, b, d, u, right=False, batch=k), Product(h, b, u, p, right=False, batch=k)]
    backward = [Product(h, b, p, u, batch=k), Product(h, b, u, d, batch=k)]
    backward += [Product(h, b, 3 * d, u + d, right=False), Product(h, b, u, z + ACTIONS, right=False)]
    rows = states * b
    backward += [Product(1, 2 * ACTIONS, rows, a, True, False), Product(1, rows, 2 * ACTIONS, a, right=False)]
    backward += [Product(3, a, rows, a, True, False), Product(3, rows, a, a, right=False)]
    return [*forward, *backward, Product(1, a, rows, d + z, True, False)]


def observation_products(shape: Shape) -> list[Product]:
    """The products of a scan and of its gradients to all weights and to the embeddings."""
    d, u, z, b, t = shape.deter, shape.hidden, shape.latent.size, SEQUENCES, LENGTH
    rows = b * t
    pairs = [(z, u, t), (u + d, 3 * d, t), (d, u, t), (u, z, t), (ACTIONS, u, 1), (EMBED, u, 1)]
    products = []
    for inputs, outputs, count in pairs:
        products.append(Product(count, rows // count, inputs, outputs))
        if inputs != ACTIONS:  # no gradient to the data's actions
            products.append(Product(count, rows // count, outputs, inputs, right=False))
        products.append(Product(1, outputs, rows, inputs, True, False))
    return products


def floor(products: list[Product], half: bool) -> Variant:
    """The products alone, into buffers that are there."""
    dtype = torch.bfloat16 if half else torch.float32
    calls: list[tuple[int, Callable[..., Any], Tensor, Tensor, Tensor]] = []
    for x in products:
        lead = (x.batch,) if x.batch > 1 else ()
        left = torch.randn(*lead, *((x.k, x.m) if x.left else (x.m, x.k)), dtype=dtype)
        right = torch.randn(*lead, *((x.n, x.k) if x.right else (x.k, x.n)), dtype=dtype)
        out = torch.empty(*lead, x.m, x.n, dtype=dtype)
        operands = (left.mT if x.left else left, right.mT if x.right else right)
        calls.append((x.count, torch.bmm if lead else torch.mm, *operands, out))

    def run() -> None:
        for count, function, left, right, out in calls:
            for _ in range(count):
                function(left, right, out=out)

    return run


def peak_memory(task: str, index: int, which: str) -> float:
    """MiB by which one training step raises a process's peak memory."""
    torch.set_num_threads(1)
    make = imagination(SHAPES[index], False) if task == "imagine" else observation(SHAPES[index], False)
    run = variants(task, make)[which]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def variants(task: str, make: Callable[..., Variant]) -> dict[str, Variant]:
    """Ours and eager."""
    ours, reference = (imagine, imagine_ref) if task == "imagine" else (observe, observe_ref)
    return {"ours": make(ours, ops="compiled"), "eager": make(reference)}


def measure(
    task: str, shape: Shape, half: bool, rounds: int, compiler: bool, clock: Callable[[], float]
) -> dict[str, Any]:
    """Medians and first calls in seconds."""
    torch.manual_seed(0)
    make = imagination(shape, half) if task == "imagine" else observation(shape, half)
    products = imagination_products(shape) if task == "imagine" else observation_products(shape)
    # The floor goes first: what the libraries set up at their first call is not ours.
    runs = {"floor": floor(products, half)} | variants(task, make)
    if compiler:
        runs["compile"] = make(torch.compile(imagine_ref if task == "imagine" else observe_ref))
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            begun = clock()
            run()
            taken = clock() - begun
            if index == 0:
                first[name] = taken
            else:
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "task": task,
        **shape._asdict(),
        "dtype": "bfloat16" if half else "float32",
        "median_s": medians,
        "first_s": first,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shapes", type=int, nargs="+", default=list(range(len(SHAPES))), help="0 to 3")
    parser.add_argument("--tasks", nargs="+", default=["imagine", "observe"], choices=["imagine", "observe"])
    parser.add_argument("--quick", action="store_true", help="three rounds, without torch.compile and memory")
    parser.add_argument("--cpu-time", action="store_true", help="processor time: for one thread on a busy machine")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds = 3 if args.quick else args.rounds
    table = Table(title=f"forward + backward on the CPU, {args.threads} threads, median of {rounds}, ms")
    for column in (
        "",
        "floor",
        "ours",
        "compile",
        "eager",
        "ours/floor",
        "compile/ours",
        "eager/ours",
        "first/ours",
        "MiB",
    ):
        table.add_column(column, justify="right" if column else "left")
    results = []
    cases = [(task, index, half) for task in args.tasks for index in args.shapes for half in (False, True)]
    for task, index, half in track(cases, "measuring", transient=True):
        shape = SHAPES[index]
        compiler = not args.quick and not half
        clock = time.process_time if args.cpu_time else time.perf_counter
        result = measure(task, shape, half, rounds, compiler, clock)
        if compiler:
            with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                memory = {name: pool.apply(peak_memory, (task, index, name)) for name in ("ours", "eager")}
            result["peak_mib"] = memory
        results.append(result)
        m, first = result["median_s"], result["first_s"]
        compile_s = m.get("compile")
        table.add_row(
            f"{task} {shape.deter} x {shape.hidden}, {shape.stoch} x {shape.stoch}, {result['dtype']}",
            *(f"{1000 * m[name]:.1f}" if name in m else "" for name in ("floor", "ours", "compile", "eager")),
            f"{m['ours'] / m['floor']:.2f}",
            f"{compile_s / m['ours']:.2f}" if compile_s else "",
            f"{m['eager'] / m['ours']:.2f}",
            f"{first['ours'] / m['ours']:.2f}",
            " / ".join(f"{result['peak_mib'][name]:.0f}" for name in ("ours", "eager")) if compiler else "",
        )
    Console(width=150).print(table)
    if args.json is not None:
        args.json.write_text(json.dumps({"environment": environment_summary(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
