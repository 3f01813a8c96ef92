"""``moto export``: a policy's step as a file that runs without this package, held against the agent before that."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.export.graph_signature import InputKind

from moto_pl.agents.loading import load_agent
from moto_pl.errors import SettingError
from moto_pl.files import check_can_write, write_whole
from moto_pl.ops import Key
from moto_pl.ops.extension import without_operators
from moto_pl.rollout.policy import Policy

from .step import PolicyStep, policy_step

TOLERANCE = 1e-5
"""Largest difference between a file's actions and states and the agent's."""
EPISODE_STEPS = 100
"""Steps of an episode while a file is compared."""
METADATA = "moto_pl"
"""The key of the metadata in a file of ONNX; in an archive of torch.export it is the extra file ``moto_pl.json``."""

#: Runs a file: what goes in, in order, to what comes out.
Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


class Compared(NamedTuple):
    """What a comparison with the agent came to.

    Attributes:
        steps: that were compared.
        largest: the largest difference of an action or a state from the agent's.
        rounded: steps where that was above ``TOLERANCE`` because the agent's own rounding is: the file is within it of
            the step in double precision.
        ties: steps where a draw lay on the border of two classes, within rounding, and the file took the other one.
    """

    steps: int
    largest: float
    rounded: int
    ties: int

    def __str__(self) -> str:
        rounded = f" ({self.rounded} by the agent's own rounding)" if self.rounded else ""
        ties = f"; {self.ties} draws on the border of two classes went the other way" if self.ties else ""
        return f"{self.steps:,} steps, largest difference from the agent {self.largest:.1e}{rounded}{ties}"


def run_export(checkpoint: Path, out: Path, control_rate: float | None, steps: int) -> int:
    """Writes the step of a checkpoint's policy, and its metadata beside it; see :func:`moto_pl.cli.export`."""
    form = FORMS.get(out.suffix)
    if form is None:
        raise SettingError("out", out, "Give a name that ends in .onnx, or in .pt2 for PyTorch alone.")
    if not out.parent.is_dir() or out.is_dir():
        found = f"{out}, a directory" if out.is_dir() else f"{out}, in a directory that is not there"
        raise SettingError("out", found, "Give the path of a file in a directory that is there.")
    check_can_write("out", out, file=True)
    if control_rate is not None and not 0 < control_rate < float("inf"):
        raise SettingError("--control_rate", control_rate, "Give actions a second, above 0.")
    if steps < 1:
        raise SettingError("--steps", steps, "Give at least 1 step to compare.")
    write, read = form
    if out.suffix == ".onnx":
        check_onnx()
    agent = load_agent(checkpoint, setting="checkpoint")
    step = policy_step(agent)
    metadata = step.metadata(control_rate)
    content = write(step, metadata)
    compared = compare(read(content), step, Policy(load_agent(checkpoint), "mode", _KEY), steps)
    write_whole(out, content)
    beside = out.with_name(f"{out.name}.json")
    write_whole(beside, json.dumps(metadata, indent=2).encode() + b"\n")
    print(f"{out}: {len(content):,} bytes; {compared}")
    print(f"{beside}: what goes in and what comes out")
    return 0


def check_onnx() -> None:
    """Raises a SettingError where what writes and runs ONNX is not installed."""
    try:
        import onnx as onnx
        import onnxruntime as onnxruntime
        import onnxscript as onnxscript
    except ImportError as error:
        fix = "Install it: pip install 'moto_pl[onnx]'. Or export to a name that ends in .pt2, which needs torch alone."
        raise SettingError("out", f".onnx, for which {error.name} is not installed", fix) from None


def exported(step: PolicyStep) -> torch.export.ExportedProgram:
    """The step's graph, with the weights that it reads; the others are taken out of ``step``."""
    examples = tuple(part.example for part in step.inputs)
    with torch.no_grad(), warnings.catch_warnings(), without_operators():
        warnings.simplefilter("ignore")  # advice to those who write torch's passes
        whole = torch.export.export(step, examples)
        _leave_out(step, _unread(whole))
        return torch.export.export(step, examples)


def _unread(program: torch.export.ExportedProgram) -> set[str]:
    """Parameters and buffers that nothing in a graph reads: decoder, critics, priors."""
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    kinds = (InputKind.PARAMETER, InputKind.BUFFER)
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind in kinds]
    return {str(spec.target) for spec in specs if spec.arg.name not in read}


def _leave_out(module: nn.Module, names: set[str]) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, None)


def write_onnx(step: PolicyStep, metadata: dict[str, Any]) -> bytes:
    """The step as a file of ONNX, float32."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of what it does not do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # likewise
        names = {"input_names": metadata["inputs"], "output_names": metadata["outputs"]}
        program = torch.onnx.export(exported(step), (), dynamo=True, verbose=False, **names)
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content


def read_onnx(content: bytes) -> Run:
    """Runs a file of ONNX with onnxruntime, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [put.name for put in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def write_archive(step: PolicyStep, metadata: dict[str, Any]) -> bytes:
    """The step as an archive of torch.export."""
    file, extra = io.BytesIO(), {f"{METADATA}.json": json.dumps(metadata)}
    program = exported(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that share a storage
        torch.export.save(program, file, extra_files=extra)
    return file.getvalue()


def read_archive(content: bytes) -> Run:
    """Runs an archive of torch.export, written here."""
    module = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(*map(torch.from_numpy, inputs))]

    return run


#: By the end of a file's name: what writes it, and what runs it.
FORMS: dict[str, tuple[Callable[[PolicyStep, dict[str, Any]], bytes], Callable[[bytes], Run]]] = {
    ".onnx": (write_onnx, read_onnx),
    ".pt2": (write_archive, read_archive),
}
_KEY = Key(0, 0)


def compare(run: Run, step: PolicyStep, policy: Policy, steps: int) -> Compared:
    """Holds a file against the agent: both see the same frames and draws, and each goes on from its own state.

    Where they differ by more than ``TOLERANCE``, the step in double precision says whose rounding that is.

    Where a draw lies on the border of two classes, within rounding, each may take another one, and is right: the file
    then goes on from the agent's state.

    Args:
        run: the file.
        step: what it was made of.
        policy: the agent, with the key 0, 0.
        steps: to compare, in episodes of ``EPISODE_STEPS``.

    Raises:
        SettingError: they differ by more than ``TOLERANCE``.
    """
    rng = np.random.default_rng(0)
    state = [part.example.numpy() for part in step.state]
    largest, rounded, ties = 0.0, 0, 0
    for t in range(steps):
        first = t % EPISODE_STEPS == 0
        if first:
            policy.reset()
        observation = {part.name: _random(rng, part.example) for part in step.observation}
        inputs = [*observation.values(), np.array(first), *state, *step.draw(policy.key.fold(t))]
        outputs = run(inputs)
        found = dict(zip(step.outputs, outputs, strict=True))
        action, wanted = policy.act(observation), step.state_of(policy.state)
        state = [found[part.source] for part in step.state]
        difference = _apart([found["action"], *state], [action, *wanted])
        if difference <= TOLERANCE or _apart(outputs, step.exactly(inputs)) <= TOLERANCE:
            largest, rounded = max(largest, difference), rounded + (difference > TOLERANCE)
        elif step.tied(inputs) and ties < max(1, steps // 100):
            ties, state = ties + 1, wanted
        else:
            apart = f"a file that differs from the agent by {difference:.1e} in step {t}"
            raise SettingError("out", apart, "It was not written. Try the other format, and report this.")
    return Compared(steps, largest, rounded, ties)


def _apart(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The largest difference."""
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(left.astype(np.float64) - right).max()) for left, right in pairs)


def _random(rng: np.random.Generator, example: torch.Tensor) -> np.ndarray:
    """An array of an observation: large patches of colour, as scenes have, with noise on them; or normal numbers."""
    shape = tuple(example.shape)
    if example.dtype != torch.uint8:
        return rng.standard_normal(shape).astype(example.numpy().dtype)
    patches = rng.integers(0, 224, (4, 4, shape[2])).repeat(-(-shape[0] // 4), 0).repeat(-(-shape[1] // 4), 1)
    return (patches[: shape[0], : shape[1]] + rng.integers(0, 32, shape)).astype(np.uint8)
