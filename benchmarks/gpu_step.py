"""A whole gradient step on a GPU in each of its forms: ``python -m benchmarks.gpu_step``.

*eager*: as it is; *captured*: one CUDA graph, replayed; *compile*: ``torch.compile(mode="reduce-overhead")`` of the
losses with plain-PyTorch references, then backward and optimizer; *reference*: the references as they are. In float32,
with TF32, and under bfloat16 autocast. Each form's figures are written as they are found: a form that fails, or time
that is up, takes none of them away. On a CPU there is no graph to capture, and moto_pl.agents.capture's recorder stands
in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.train_step import load_agent, optimizer_of, random_batch
from moto_pl.agents.capture import WARM_UP, CapturedStep
from moto_pl.agents.param_groups import Clipping
from moto_pl.doctor import environment_summary
from moto_pl.files import write_whole
from moto_pl.ops import Key

Step = Callable[[int], None]
FORMS = ("eager", "captured", "compile", "reference")
PRECISIONS = ("float32", "tf32", "bfloat16")
_FIRST = WARM_UP + 7  # steps that are not counted: eager ones, captures of both kinds of steps, and what follows


def make_step(form: str, config: str, device: torch.device, half: bool) -> Step:
    """A function that takes gradient step number ``i``."""
    agent = load_agent(config, device, ops="reference" if form in ("compile", "reference") else "auto")
    batch = random_batch(agent, device)
    optimizer = optimizer_of(agent)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=half)
    clipping = [Clipping(group.name, group.modules, group.clip) for group in agent.param_groups()]

    def total(key: Key) -> Tensor:
        losses, _ = agent.losses(batch, key)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    # The key is one all along: what a compiled graph takes for a constant need not be compiled again.
    forward = torch.compile(total, mode="reduce-overhead") if form == "compile" else total

    def step(i: int) -> None:
        optimizer.zero_grad()
        with autocast():
            loss = forward(Key(0, 0 if form == "compile" else i))
        loss.backward()
        for part in clipping:
            part.clip()
        optimizer.step()

    if form != "captured":
        return step
    captured = CapturedStep(agent, optimizer, device)

    def replayed(i: int) -> None:
        if i < WARM_UP:
            step(i)  # libraries set themselves up outside of a capture
        else:
            captured.take(batch, Key(0, i), "all", clipping, i + 1, autocast=autocast)

    return replayed


def measure(step: Step, rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of the first step, the median one and the fastest, and the memory of all of them."""
    on_gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for i in range(_FIRST + rounds):
        begun = time.perf_counter()
        step(i)
        wait()
        times.append(time.perf_counter() - begun)
    counted = times[_FIRST:]
    found = {"first_s": times[0], "median_s": statistics.median(counted), "least_s": min(counted)}
    # Many steps at once: what the host takes to launch one hides behind what the device takes for another.
    begun = time.perf_counter()
    for i in range(rounds):
        step(_FIRST + rounds + i)
    wait()
    found["queued_s"] = (time.perf_counter() - begun) / rounds
    if on_gpu:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    """Prints a line for each form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", default=["tasks/metaworld", "demo"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, help="all; but compile on a CPU is to be named: minutes")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    precisions = args.precisions if on_gpu else ["float32"]
    forms = args.forms or [form for form in FORMS if on_gpu or form != "compile"]
    # What is compiled comes last of all: it takes longest.
    cases = [(c, p, f) for c in args.configs for p in precisions for f in forms]
    cases.sort(key=lambda case: (case[2] == "compile", args.configs.index(case[0])))
    record: dict[str, Any] = {"date": str(date.today()), "environment": environment_summary(), "results": []}
    failed = 0
    for config, precision, form in cases:
        result: dict[str, Any] = {"config": config, "precision": precision, "form": form}
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        try:
            result |= measure(make_step(form, config, device, precision == "bfloat16"), args.rounds, device)
        except Exception as error:
            traceback.print_exc()
            failed += form != "compile"  # torch's compiler is not ours to mend
            result["error"] = f"{type(error).__name__}: {error}"[:500]
        torch._dynamo.reset()
        if on_gpu:
            torch.cuda.empty_cache()
        record["results"].append(result)
        if args.out is not None:
            write_whole(args.out, json.dumps(record, indent=1).encode())
        figures = {name: round(1000 * value, 2) for name, value in result.items() if name.endswith("_s")}
        print(config, precision, form, figures or result.get("error"), "ms", flush=True)
    if failed:
        raise SystemExit(f"{failed} forms failed")


if __name__ == "__main__":
    main()
