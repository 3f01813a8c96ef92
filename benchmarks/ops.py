"""Imagination and observation, forward and backward, beside their alternatives: ``python -m benchmarks.ops``.

Each row is one process's medians over rounds in which every variant runs once, in turn, so that a busy machine troubles
all alike. *Floor*: exactly the matrix products that forward and backward need, alone, on random operands in torch's own
layouts; nothing can compute them all and be faster by more than the products it avoids. *eager*: the plain-PyTorch
reference. *compile*: ``torch.compile`` of it, its compilation (first call) apart. World-model weights are frozen in
imagination, noise is drawn inside, all variants have the same dtype and threads. On a GPU there are two more, under
``torch.compile(mode="reduce-overhead")``, which replays CUDA graphs: *graphs*, the reference, and *ours, graphs*; the
launches of one training step are counted too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.autograd import DeviceType

from moto_pl.doctor import environment_summary
from moto_pl.files import write_whole
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
            with torch.autocast(deter.device.type, torch.bfloat16, enabled=half):
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
            with torch.autocast(deter.device.type, torch.bfloat16, enabled=half):
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
    """MiB by which one training step on the CPU raises a process's peak memory."""
    torch.set_num_threads(1)
    make = imagination(SHAPES[index], False) if task == "imagine" else observation(SHAPES[index], False)
    run = variants(task, make, [which])[which]
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on: a new process inherits its parent's
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    """A field of this process's memory in KiB: what is resident, or its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def peak_gpu_memory(run: Variant) -> float:
    """MiB that one training step allocates on the GPU beyond what is there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def launches(run: Variant) -> int:
    """Kernels of one training step on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.device_type == DeviceType.CUDA)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products; without them every variant is unusably slow."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())


def variants(task: str, make: Callable[..., Variant], names: list[str]) -> dict[str, Variant]:
    """Implementations of a task by their columns' names."""
    ours, reference = (imagine, imagine_ref) if task == "imagine" else (observe, observe_ref)
    own = partial(ours, ops="compiled")
    # For these sizes alone: code for any size would be slower.
    compiled = partial(torch.compile, dynamic=False)
    made: dict[str, Callable[[], Variant]] = {
        "ours": lambda: make(own),
        "eager": lambda: make(reference),
        "compile": lambda: make(compiled(reference)),
        "graphs": lambda: make(compiled(reference, mode="reduce-overhead")),
        "ours, graphs": lambda: make(compiled(own, mode="reduce-overhead")),
    }
    return {name: made[name]() for name in names}


def measure(
    task: str, shape: Shape, half: bool, device: str, rounds: int, names: list[str], clock: Callable[[], float]
) -> dict[str, Any]:
    """Medians and first calls in seconds."""
    torch.manual_seed(0)
    torch.compiler.reset()  # what was compiled for other sizes counts towards a limit, beyond which nothing is
    products = imagination_products(shape) if task == "imagine" else observation_products(shape)
    with torch.device(device):
        make = imagination(shape, half) if task == "imagine" else observation(shape, half)
        # The floor goes first: what the libraries set up at their first call is not ours.
        runs = {"floor": floor(products, half)}
    runs |= variants(task, make, names)
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    on_gpu = device == "cuda"
    warm = 3 if on_gpu else 1  # CUDA graphs are captured in the second call
    for index in range(rounds + warm):
        for name, run in runs.items():
            if on_gpu:
                torch.compiler.cudagraph_mark_step_begin()
            begun = clock()
            run()
            if on_gpu:
                torch.cuda.synchronize()
            taken = clock() - begun
            if index == 0:
                first[name] = taken
            elif index >= warm:
                times[name].append(taken)
    result: dict[str, Any] = {"task": task, **shape._asdict(), "dtype": "bfloat16" if half else "float32"}
    result["median_s"] = {name: statistics.median(values) for name, values in times.items()}
    result["first_s"] = first
    if on_gpu:
        result["launches"] = {name: launches(run) for name, run in runs.items()}
        result["peak_mib"] = {name: peak_gpu_memory(runs[name]) for name in ("ours", "eager") if name in runs}
    return result


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shapes", type=int, nargs="+", default=list(range(len(SHAPES))), help="0 to 3")
    parser.add_argument("--tasks", nargs="+", default=["imagine", "observe"], choices=["imagine", "observe"])
    parser.add_argument("--quick", action="store_true", help="three rounds, without torch.compile and memory")
    parser.add_argument("--cpu-time", action="store_true", help="processor time: for one thread on a busy machine")
    parser.add_argument("--out", type=Path, help="folder for the numbers: ops.json, or ops_<device's name>.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    on_gpu = args.device == "cuda"
    rounds = 3 if args.quick else args.rounds
    where = torch.cuda.get_device_name() if on_gpu else f"the CPU, {args.threads} threads"
    table = Table(title=f"forward + backward on {where}, median of {rounds}, ms")
    columns = ["floor", "ours", "compile", "eager", *(["graphs", "ours, graphs"] if on_gpu else [])]
    alternatives = [name for name in columns if name not in ("floor", "ours", "ours, graphs")]
    extra = ["launches"] if on_gpu else []
    table.add_column("")
    for column in (*columns, "ours/floor", *(f"{name}/ours" for name in alternatives), "first/ours", "MiB", *extra):
        table.add_column(column, justify="right")
    results = []
    halves = (False, True) if on_gpu or multiplies_bfloat16() else (False,)
    cases = [(task, index, half) for task in args.tasks for index in args.shapes for half in halves]
    for task, index, half in track(cases, "measuring", transient=True):
        shape = SHAPES[index]
        names = columns[1:]
        if args.quick or (half and not on_gpu):  # the CPU's bars on compilers are about float32
            names = ["ours", "eager"]
        clock = time.process_time if args.cpu_time else time.perf_counter
        result = measure(task, shape, half, args.device, rounds, names, clock)
        if "compile" in names and not on_gpu:
            with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                memory = {name: pool.apply(peak_memory, (task, index, name)) for name in ("ours", "eager")}
            result["peak_mib"] = memory
        results.append(result)
        m, first, peak = result["median_s"], result["first_s"], result.get("peak_mib")
        counts = [f"{result['launches']['ours']} / {result['launches']['eager']}"] if on_gpu else []
        table.add_row(
            f"{task} {shape.deter} x {shape.hidden}, {shape.stoch} x {shape.stoch}, {result['dtype']}",
            *(f"{1000 * m[name]:.1f}" if name in m else "" for name in columns),
            f"{m['ours'] / m['floor']:.2f}",
            *(f"{m[name] / m['ours']:.2f}" if name in m else "" for name in alternatives),
            f"{first['ours'] / m['ours']:.2f}",
            f"{peak['ours']:.0f} / {peak['eager']:.0f}" if peak else "",
            *counts,
        )
    Console(width=180).print(table)
    if args.out is not None:
        name = f"ops_{torch.cuda.get_device_name().replace(' ', '_')}.json" if on_gpu else "ops.json"
        content = json.dumps(
            {"environment": environment_summary(), "date": str(date.today()), "results": results}, indent=1
        )
        args.out.mkdir(parents=True, exist_ok=True)
        write_whole(args.out / name, content.encode())


if __name__ == "__main__":
    main()
