"""Injects faults into whole runs, and counts what is lost: ``make soak``, and in short form among the tests.

Each injection takes a run of the debug configuration, brings a fault upon it, and starts it again with the same
command. It has survived if the run then ends bit for bit where the unbroken one ends, and nothing is lost if every
episode that was there before the fault is there after it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import power
import warm
from power_scenarios import check_run
from runs import assert_same_end, command, environment, fault, final, fit, start


@dataclass
class Bench:
    """What injections share: a dataset, and the unbroken runs that they are held against."""

    root: Path
    dataset: Path
    calls: int = 0  # writes in an unbroken run
    seconds: float = 0.0  # and the processor time that it takes, whatever else the machine does
    share: float = 1.0  # of the operations after which the power is cut to look at the disk

    @property
    def data(self) -> tuple[str, ...]:
        return ("--data.dataset", str(self.dataset), "--data.build_missing", "false")

    def unbroken(self, name: str = "one", *args: str) -> Path:
        run = self.root / f"unbroken_{name}"
        if not run.exists():
            count = ("--trainer.callbacks+=faults.AtWrite", f"--trainer.callbacks.count={self.root / 'calls'}")
            done = fit(run, *self.data, *args, *(count if name == "one" else ()))
            assert done.returncode == 0, done.stderr
            if name == "one":
                calls, seconds = (self.root / "calls").read_text().split()
                self.calls, self.seconds = int(calls), float(seconds)
        return run

    @cached_property
    def recording(self) -> power.Recording:
        """All that an unbroken run asks of the disk."""
        below = self.root / "recorded"
        below.mkdir()
        noted = ("--trainer.callbacks+=faults.Acknowledge", f"--trainer.callbacks.directory={below.name}")
        words = command(below / "run", *self.data, *noted)
        return power.record(words, [below], self.root / "strace.log", environment())[0]


@dataclass
class Injection:
    """What came of one fault: ``problem`` is empty where the run survived and lost nothing."""

    saw: str
    survived: bool = True
    lost: bool = False
    problem: str = ""


def stored(run: Path) -> dict[str, bytes]:
    """The episodes on disk."""
    return {path.name: path.read_bytes() for path in (run / "replay").glob("*.safetensors")}


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What the user saw last."""
    lines = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("moto:")), lines[-1] if lines else "")


def go_on(bench: Bench, run: Path, saw: str, *args: str, name: str = "one") -> Injection:
    """Starts the run again and compares where it ends."""
    before = stored(run)
    done = fit(run, *bench.data, *args)
    after = stored(run)
    lost = any(name not in after for name in before)
    if done.returncode != 0:
        return Injection(saw, survived=False, lost=lost, problem=f"it did not go on: {last_line(done)}")
    try:
        assert_same_end(bench.unbroken(name, *args), run)
    except AssertionError as error:
        return Injection(saw, survived=False, lost=lost, problem=f"it ended elsewhere: {str(error)[:200]}")
    return Injection(saw, lost=lost, problem="episodes are gone" if lost else "")


def killed_at_random(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """SIGKILL from outside, at any moment of the run's life."""
    bench.unbroken()
    seconds = rng.uniform(0.2, 1.0) * bench.seconds
    kill_after(start(run, *bench.data), seconds)
    return go_on(bench, run, f"killed after {seconds:.1f} s of processor time")


def killed_in_a_write(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """SIGKILL between two of the calls by which episodes, checkpoints and records are written."""
    bench.unbroken()
    call = rng.randint(1, bench.calls)
    args = ("--trainer.callbacks+=faults.AtWrite", f"--trainer.callbacks.call={call}")
    fit(run, *bench.data, *args)
    return go_on(bench, run, f"killed at write {call} of {bench.calls}")


def killed_again_and_again(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """SIGKILL at any moment of the run's life, and of those of the runs that go on from there."""
    bench.unbroken()
    stood, gone = kill(bench, run, rng, 5)
    result = go_on(bench, run, f"killed {stood.total()} times")
    return Injection(result.saw, result.survived, True, f"gone: {gone}") if gone else result


def kill(
    bench: Bench, run: Path, rng: random.Random, most: int, longest: float = 1.1
) -> tuple[Counter[str], list[str]]:
    """Starts a run and kills it, up to ``most`` times or until it ends by itself.

    Args:
        bench: has been through an unbroken run.
        run: the directory.
        rng: of the moments.
        most: kills.
        longest: how late a process is killed at most, in lives of an unbroken one.

    Returns:
        How often it was killed by where it stood, and the episodes that were there before a kill and not after it.
    """
    stood: Counter[str] = Counter()
    gone: list[str] = []
    while stood.total() < most:
        before = stored(run)
        if not kill_after(start(run, *bench.data), rng.uniform(0.02, longest) * bench.seconds):
            break
        after = stored(run)
        gone += [name for name in before if before[name] != after.get(name)]
        last = run / "checkpoints/last.ckpt"
        stood[f"step {final(run)['global_step']}" if last.exists() else "no checkpoint yet"] += 1
    return stood, gone


def kill_after(process: warm.Process | subprocess.Popen[bytes], seconds: float) -> bool:
    """SIGKILL for a process once it has spent so much processor time; False where it ends before."""
    ticks = os.sysconf("SC_CLK_TCK")
    while process.poll() is None:
        try:
            spent = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue  # it has just ended
        if sum(map(int, spent)) / ticks >= seconds:
            process.kill()
            return process.wait() == -signal.SIGKILL
        time.sleep(random.uniform(0.0, 0.03))
    return False


def power_cut(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """The disk as a power cut may leave it: what was acknowledged is there, and the run goes on."""
    bench.unbroken()
    count = len(bench.recording.operations)
    picked = [
        (how, state)
        for policy in power.POLICIES[1:]
        for how, state in power.states(bench.recording, (policy,), 1, 8 / count, rng.randrange(10**6))
    ]
    how, state = rng.choice(picked)
    state.write(run.parent)
    try:
        check_run(run.parent, state.acknowledged)
    except Exception as error:
        return Injection(how, survived=False, lost=True, problem=f"{how}: {type(error).__name__}: {error}")
    return go_on(bench, run, how)


def every_power_cut(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """All disks that power cuts may leave, looked at and not gone on with."""
    problems, count = [], 0
    for how, state in power.states(bench.recording, share=bench.share, seed=rng.randrange(10**6)):
        state.write(run.parent, bench.root / "pool")
        count += 1
        try:
            check_run(run.parent, state.acknowledged)
        except Exception as error:
            problems.append(f"{how}: {type(error).__name__}: {error}")
    saw = f"{count} different disks, each whole as far as it was acknowledged"
    return Injection(saw, not problems, bool(problems), "\n".join(problems[:5]))


def full_disk(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """ENOSPC from one of those calls."""
    bench.unbroken()
    call = rng.randint(1, bench.calls)
    args = ("--trainer.callbacks+=faults.AtWrite", f"--trainer.callbacks.call={call}")
    done = fit(run, *bench.data, *args, "--trainer.callbacks.action=full")
    return go_on(bench, run, last_line(done))


def _environment(bench: Bench, run: Path, kind: str) -> Injection:
    bench.unbroken()
    marker = run.with_suffix(".marker")
    options = f'{{"fault": "{kind}", "marker": "{marker}"}}'
    env = ("--data.env", "faulty_env:FaultyReach-v0", "--data.env_options", options)
    workers = ("--data.env_workers", "1", "--data.worker_timeout_s", "5")
    done = fit(run, *bench.data, *env, *workers)
    if not marker.exists():
        return Injection(last_line(done), survived=False, problem=f"nothing happened: {last_line(done)}")
    if done.returncode != 0:
        return Injection(last_line(done), survived=False, problem=last_line(done))
    return _same(bench, run, "nothing: the worker is replaced, and its episode rolled again")


def _same(bench: Bench, run: Path, saw: str) -> Injection:
    try:
        assert_same_end(bench.unbroken(), run)
    except AssertionError as error:
        return Injection(saw, survived=False, problem=f"it ended elsewhere: {str(error)[:200]}")
    return Injection(saw)


def worker_dies(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """An environment worker's process ends in the middle of an episode."""
    return _environment(bench, run, "die")


def worker_hangs(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """An environment worker stops answering."""
    return _environment(bench, run, "hang")


def renderer_fails(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """The environment raises."""
    bench.unbroken()
    marker = run.with_suffix(".marker")
    options = f'{{"fault": "raise", "marker": "{marker}"}}'
    env = ("--data.env", "faulty_env:FaultyReach-v0", "--data.env_options", options)
    done = fit(run, *bench.data, *env)
    return go_on(bench, run, last_line(done), *env)


def _half_done(bench: Bench, run: Path) -> None:
    done = fit(run, *bench.data, *fault(33))
    assert done.returncode != 0 and final(run)["global_step"] == 30


def _damaged_episode(bench: Bench, run: Path, rng: random.Random, damage: Callable[[bytes], bytes]) -> Injection:
    """The user is told which file it is, and goes on when it is back."""
    _half_done(bench, run)
    path = rng.choice(sorted((run / "replay").glob("*.safetensors"))[:12])
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    done = fit(run, *bench.data)
    if done.returncode == 0 or path.name not in last_line(done):
        return Injection(last_line(done), survived=False, problem=f"{path.name} was not named")
    path.write_bytes(whole)
    return go_on(bench, run, last_line(done))


def truncated_episode(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """An episode's file has lost its end."""
    return _damaged_episode(bench, run, rng, lambda data: data[: rng.randint(0, len(data) - 1)])


def flipped_episode(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """One bit of an episode's file has changed."""

    def flip(data: bytes) -> bytes:
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]

    return _damaged_episode(bench, run, rng, flip)


def truncated_checkpoint(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """The last checkpoint has lost its end: the one before it serves, and that is said."""
    _half_done(bench, run)
    path = run / "checkpoints/last.ckpt"
    whole = path.read_bytes()
    path.write_bytes(whole[: rng.randint(0, len(whole) - 1)])
    done = fit(run, *bench.data)
    if "falling back to an older checkpoint" not in done.stderr:
        return Injection(last_line(done), survived=False, problem="the fall-back was not announced")
    return _same(bench, run, "Falling back to an older checkpoint.")


def not_a_number(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """A loss is NaN: the run stops with its batch saved, and goes on from the last checkpoint."""
    step = rng.randrange(1, 40)
    nan = ("--trainer.callbacks+=faults.NaNAt", f"--trainer.callbacks.steps=[{step}]")
    done = fit(run, *bench.data, *nan)
    if done.returncode != 2 or not list((run / "nonfinite").glob("*.pt")):
        return Injection(last_line(done), survived=False, problem="it did not stop, or saved no batch")
    return go_on(bench, run, last_line(done))


def clock_backwards(bench: Bench, run: Path, rng: random.Random) -> Injection:
    """The clocks jump back by a day and run backwards."""
    clock = ("--trainer.callbacks+=faults.ClockBack", f"--trainer.callbacks.step={rng.randrange(1, 40)}")
    done = fit(run, *bench.data, *clock)
    if done.returncode != 0:
        return Injection(last_line(done), survived=False, problem=last_line(done))
    return _same(bench, run, "nothing")


def rank_fails(bench: Bench, run: Path, rng: random.Random, ranks: int = 2, signal_name: str = "SIGKILL") -> Injection:
    """One of several processes is killed, crashes or hangs: all end with a line, and the same command goes on."""
    several = ("--trainer.devices", str(ranks), "--trainer.strategy", "ddp", "--data.num_envs", str(ranks))
    patience = ("--peer_timeout_s", "60")  # within it the others have to start, on a busy machine too
    step, rank = rng.randrange(11, 40), rng.randrange(ranks)
    done = fit(run, *bench.data, *several, *patience, *fault(step, signal_name=signal_name, rank=rank), timeout=300)
    saw = last_line(done)
    if done.returncode == 0 or f"{ranks} processes in all, of which rank {rank} " not in saw:
        return Injection(saw, survived=False, problem=f"rank {rank} was not named: {saw}")
    return go_on(bench, run, saw, *several, *patience, name=f"on {ranks}")


#: Each fault, and its injections in a soak.
FAULTS: dict[str, tuple[Callable[[Bench, Path, random.Random], Injection], int]] = {
    "SIGKILL at a random moment": (killed_at_random, 20),
    "SIGKILL inside a write": (killed_in_a_write, 20),
    "SIGKILL again and again": (killed_again_and_again, 4),
    "power cut": (power_cut, 10),
    "power cut at every operation": (every_power_cut, 1),
    "disk full": (full_disk, 10),
    "environment worker dies": (worker_dies, 2),
    "environment worker hangs": (worker_hangs, 2),
    "renderer fails": (renderer_fails, 2),
    "episode file truncated": (truncated_episode, 5),
    "episode file bit-flipped": (flipped_episode, 5),
    "checkpoint truncated": (truncated_checkpoint, 5),
    "NaN in a loss": (not_a_number, 5),
    "clock runs backwards": (clock_backwards, 2),
    "one of two ranks killed": (rank_fails, 4),
    "one of four ranks killed": (partial(rank_fails, ranks=4), 2),
    "one of four ranks crashes": (partial(rank_fails, ranks=4, signal_name="SIGSEGV"), 2),
    "one of four ranks hangs": (partial(rank_fails, ranks=4, signal_name="SIGSTOP"), 2),
}


def inject(name: str, bench: Bench, seed: int) -> Injection:
    """One injection, in a directory of its own."""
    with tempfile.TemporaryDirectory(dir=bench.root) as directory:
        return FAULTS[name][0](bench, Path(directory) / "run", random.Random(f"{name} {seed}"))


def main() -> int:
    """Runs the whole suite and prints its table; fails if a run did not survive, or lost anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="share of each fault's injections")
    parser.add_argument("--only", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    options = parser.parse_args()
    os.environ["MOTO_TESTS_COLD"] = "1"  # as a user's runs start
    from moto_pl.datasets.builders import build

    table = Table(title="Faults injected into whole runs")
    for column in ("fault", "injections", "survived", "lost", "what the user sees"):
        table.add_column(column, justify="left" if column in ("fault", "what the user sees") else "right")
    console, problems = Console(width=160), []
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), Path(directory) / "reach")
        build("reach", output=str(bench.dataset), workers=1)
        for name, results in _results(options.only, options.share, options.seed, bench, console):
            survived, lost = sum(r.survived for r in results), sum(r.lost for r in results)
            table.add_row(name, str(len(results)), str(survived), str(lost), results[0].saw[:90])
            problems += [f"{name}: {result.problem}" for result in results if result.problem]
    console.print(table)
    for problem in problems:
        console.print(problem)
    return 1 if problems else 0


def _results(
    names: list[str], share: float, seed: int, bench: Bench, console: Console
) -> Iterator[tuple[str, list[Injection]]]:
    for name in names:
        count = max(1, round(share * FAULTS[name][1]))
        yield name, [inject(name, bench, seed + i) for i in track(range(count), name, console=console)]


if __name__ == "__main__":
    sys.exit(main())
