"""Runs of the debug configuration in processes of their own, for the tests of resume, distribution and faults."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import warm
from moto_pl.evaluations import read_evaluations

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def environment() -> dict[str, str]:
    """One thread, no GPU, and the tests' own modules within reach."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
        "CUDA_VISIBLE_DEVICES": "",
    }


#: Settings beside the debug configuration's: small model-free agents, and for all what a resume must not lose: learning
#: rates that fall (those of a model-free policy do by its preset) and averaged weights.
_PIXELS = {"pixels.channels": "[4,4,4,4]", "pixels.units": "16", "td.batch_size": "8"}
_MOTO = {"optim.final_lr": "0.1", "optim.ema_decay": "0.9"}
_LATENT = {
    **{"world_model.deter": "32", "world_model.hidden": "32", "world_model.stoch": "4", "world_model.ensemble": "3"},
    **{"world_model.encoder_channels": "[4,8,16,32]", "world_model.decoder_channels": "[16,8,4]"},
    **{"world_model.mlp_layers": "0", "world_model.head_layers": "1", "world_model.head_units": "32"},
    **{"behaviour.imagine_rows": "16", "behaviour.tau": "0.1", "batch.model_size": "4", "batch.model_length": "8"},
    **{"batch.agent_size": "16", "batch.replay_size": "4"},
}
AGENTS: dict[str, dict[str, str]] = {
    "MOTO": _MOTO,
    "DreamerV2": _MOTO,
    **{name: {**_LATENT, **_MOTO} for name in ("LOMPO", "COMBO")},
    **{name: {**_PIXELS, "td.ema_decay": "0.9"} for name in ("BC", "SAC", "CQL", "IQL")},
}


def small(agent: str) -> list[str]:
    """Settings that make an agent cheap, its sequences' lengths left out."""
    sizes = {name: value for name, value in AGENTS[agent].items() if not name.endswith("_length")}
    return [word for name, value in sizes.items() for word in (f"--model.init_args.{name}", value)]


def command(run: Path, *args: str, agent: str = "MOTO") -> list[str]:
    """``moto fit`` of the debug configuration, with one environment in its process."""
    return [sys.executable, "-m", *_words(run, args, agent)]


def _words(run: Path, args: tuple[str, ...], agent: str) -> list[str]:
    settings = [word for name, value in AGENTS[agent].items() for word in (f"--model.init_args.{name}", value)]
    return [
        *("moto_pl.cli", "fit", "--config", str(ROOT / "configs/debug.yaml")),
        *("--trainer.default_root_dir", str(run), "--data.env_workers", "0", "--data.eval_episodes", "1"),
        *("--video_episodes", "0", "--evaluate_untrained", "false", "--data.value_steps", "0"),
        *("--trainer.log_every_n_steps", "10"),  # the debug configuration's 1 takes a quarter of a step
        *(() if agent == "MOTO" else ("--model", f"moto_pl.agents.{agent}")),
        *(*settings, *args),
    ]


def start(run: Path, *args: str) -> warm.Process | subprocess.Popen[bytes]:
    """Begins a run whose output nobody reads."""
    return warm.start(_words(run, args, "MOTO"), environment())


def fit(
    run: Path, *args: str, timeout: float = 600, agent: str = "MOTO", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, to its end; tests/warm.py says how it starts."""
    return warm.run(_words(run, args, agent), environment() | dict(env or {}), timeout)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fit_ranks(
    run: Path, *args: str, processes: int = 2, timeout: float = 600, agent: str = "MOTO"
) -> subprocess.CompletedProcess[str]:
    """A run of several processes to its end, as :func:`ranks` starts them."""
    words = _words(run, ("--trainer.devices", str(processes), "--trainer.strategy", "ddp", *args), agent)
    return ranks(words, processes, timeout)


def ranks(words: Sequence[str], processes: int, timeout: float) -> subprocess.CompletedProcess[str]:
    """``python -m`` of these words to its end, as often as there are processes.

    Returns:
        The status of the first rank that failed, and what all of them have said.
    """
    done = each_rank([words] * processes, timeout)
    status = next((one.returncode for one in done if one.returncode != 0), 0)
    stdout, stderr = ("".join(getattr(one, name) for one in done) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(list(words), status, stdout, stderr)


def each_rank(
    words: Sequence[Sequence[str]], timeout: float, machines: int = 1
) -> list[subprocess.CompletedProcess[str]]:
    """``python -m`` of each rank's words to its end, started as torchrun starts it on so many machines.

    None has to import what it needs, as a second process has that the first one starts.
    """
    local = len(words) // machines
    common = {"WORLD_SIZE": len(words), "LOCAL_WORLD_SIZE": local, "MASTER_PORT": free_port()}
    torchrun = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests", "TORCHELASTIC_USE_AGENT_STORE": "False"}

    def rank(number: int) -> subprocess.CompletedProcess[str]:
        place = {"RANK": number, "LOCAL_RANK": number % local, "GROUP_RANK": number // local}
        own = {name: str(value) for name, value in {**common, **place}.items()}
        return warm.run(words[number], environment() | torchrun | own, timeout)

    warm.server(environment())  # begun without the variables that only these have
    with ThreadPoolExecutor(len(words)) as pool:
        return list(pool.map(rank, range(len(words))))


def cold_fit(run: Path, *args: str, timeout: float = 600, agent: str = "MOTO") -> subprocess.CompletedProcess[str]:
    """A run in an interpreter of its own, to its end."""
    return subprocess.run(
        command(run, *args, agent=agent), env=environment(), capture_output=True, text=True, timeout=timeout
    )


#: For the environment of a run that is killed: its order of hashes is not that of the unbroken one, nor of the one that
#: goes on, both of which have one by chance. An exact resume must not hang on it.
OTHER_HASHES = {"PYTHONHASHSEED": "1"}


def fault(step: int, point: str = "batch_end", signal_name: str = "SIGKILL", rank: int = 0) -> tuple[str, ...]:
    """Arguments that make a run send itself a signal."""
    return (
        "--trainer.callbacks+=faults.FaultAt",
        f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.point={point}",
        f"--trainer.callbacks.signal_name={signal_name}",
        f"--trainer.callbacks.rank={rank}",
    )


def final(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_same_weights(left: Path, right: Path) -> None:
    """The last checkpoints' weights are the same to the bit."""
    a, b = final(left)["state_dict"], final(right)["state_dict"]
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_same_end(
    left: Path, right: Path, episodes: int = 14, evaluated: bool = True, evaluated_at: tuple[int, ...] = (20, 40)
) -> None:
    """Weights, optimizer state, evaluations and replay are the same to the bit.

    By default there are ten demonstrations and four rounds. ``evaluated``: both directories have the evaluations, which
    were after the gradient steps ``evaluated_at``, the last of them the run's last.
    """
    assert_same_weights(left, right)
    a, b = final(left), final(right)
    assert a["global_step"] == b["global_step"] == evaluated_at[-1]
    assert a["average"].keys() == b["average"].keys() and len(a["average"]) > 0
    for name in a["average"]:
        assert torch.equal(a["average"][name], b["average"][name]), name
    assert a.get("latent_replay") == b.get("latent_replay")  # checksums of all that was encoded and imagined
    states = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 0
    for index in states[0]:
        for name, value in states[0][index].items():
            assert torch.equal(value, states[1][index][name]), (index, name)
    if evaluated:
        _assert_same_evaluations(left, right, evaluated_at)
    files = sorted(path.name for path in (left / "replay").glob("*.safetensors"))
    assert len(files) == episodes
    for name in files:
        assert (left / "replay" / name).read_bytes() == (right / "replay" / name).read_bytes(), name


def _assert_same_evaluations(left: Path, right: Path, at: tuple[int, ...]) -> None:
    evaluations = [[record for record in read_evaluations(run) if record["step"] > 0] for run in (left, right)]
    assert evaluations[0] == evaluations[1] and tuple(record["step"] for record in evaluations[0]) == at


def assert_killed_ends_as_unbroken(root: Path, *args: str, agent: str, episodes: int) -> None:
    """A run that is killed after 33 steps and started again ends bit for bit as one that is not."""
    unbroken = fit(root / "unbroken", *args, agent=agent)
    assert unbroken.returncode == 0, unbroken.stderr
    assert fit(root / "run", *args, *fault(33), agent=agent, env=OTHER_HASHES).returncode == -9
    resumed = fit(root / "run", *args, agent=agent)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(root / "unbroken", root / "run", episodes=episodes)
