"""A resumed process holds all that the unbroken one holds, also what nobody thought of (tests/audit.py); every agent.

And a run that was stopped, stopped again and killed ends bit for bit where the unbroken one ends.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import audit
import moto_pl.agents
from moto_pl.agents import Agent
from runs import AGENTS, assert_same_end, fit

#: In the middle of an offline round, and of two online ones; a step after each resume, and later.
STEPS = [13, 27, 33]
STOPS = ((12, "SIGTERM"), (26, "SIGTERM"))
KILL = (36, "SIGKILL")


def test_all_agents_are_here() -> None:
    exported = [getattr(moto_pl.agents, name) for name in moto_pl.agents.__all__]
    assert {kind.__name__ for kind in exported if issubclass(kind, Agent) and kind is not Agent} == set(AGENTS)


def walked(
    agent: str, dataset: Path, root: Path, *args: str, stops: tuple[tuple[int, str], ...] = STOPS
) -> list[tuple[dict[str, str], dict[str, str]]]:
    """What the unbroken process and the resumed ones hold as each of the steps begins.

    All have one directory in turn, so that not even their paths differ; the unbroken one's is then ``unbroken_run``.
    """
    data = ("--data.dataset", str(dataset), "--data.build_missing", "false")
    at = ("--trainer.callbacks+=audit.AuditAt", f"--trainer.callbacks.steps={STEPS}")
    words = (*data, *at, f"--trainer.callbacks.path={root / 'found'}", *args)

    def walk(stop: tuple[int, str] | None, resumes: bool) -> None:
        step, name = stop or ("", "")
        done = fit(root / "run", *words, agent=agent, env={"AUDIT_STOP": f"{step} {name}"})
        status = {"": 0, "SIGTERM": 128 + signal.SIGTERM, "SIGKILL": -signal.SIGKILL}[name]
        assert done.returncode == status, done.stderr[-3000:]
        assert name == "SIGKILL" or ("resuming" in done.stdout) == resumes  # what it said may be gone with it

    walk(None, resumes=False)
    (root / "run").rename(root / "unbroken_run")
    (root / "found").rename(root / "unbroken")
    for number, stop in enumerate((*stops, None)):
        walk(stop, resumes=number > 0)
    return [
        (
            json.loads((root / "unbroken" / f"{step}.json").read_text()),
            json.loads((root / "found" / f"{step}.json").read_text()),
        )
        for step in STEPS
    ]


def told(pairs: list[tuple[dict[str, str], dict[str, str]]]) -> list[str]:
    """The differences, as lines."""
    return [
        f"step {step}: {path}: {left.get(path)} unbroken, {right.get(path)} resumed"
        for step, (left, right) in zip(STEPS, pairs, strict=True)
        for path in audit.differences(left, right)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_a_resumed_process_holds_what_the_unbroken_one_holds(agent: str, reach_dataset: Path, tmp_path: Path) -> None:
    pairs = walked(agent, reach_dataset, tmp_path, stops=(*STOPS, KILL))
    assert_same_end(tmp_path / "unbroken_run", tmp_path / "run")
    assert not told(pairs), "\n".join(told(pairs)[:30])
    held = {path for left, right in pairs for path in {*left, *right} if left.get(path) != right.get(path)}
    unused = [pattern for pattern in audit.MAY_DIFFER if not any(audit.covers(pattern, path) for path in held)]
    # MOTO alone is asked. Its clone filter has opened every file in both, but perhaps for the newest: that hangs on how
    # far the loader's thread has come.
    assert agent != "MOTO" or set(unused) <= {r"data\.store\._views"}, "they do not differ"
    for left, _ in pairs:
        looked_at = (
            *("agent._modules", "agent.average.weights", "optimizers[0].state", "data.store._known[3]", "data._sets"),
            *(
                "trainer.fit_loop.epoch_loop.batch_progress",
                "random[0]",
                "random[2]",
                "callbacks['RunCheckpoint'].best",
            ),
            *(
                "batch[",
                "moto_pl.",
                "callbacks['FiniteGuard'].skipped",
                "callbacks['CollectEpisodes'].collected_episodes",
            ),
        )
        for beginning in looked_at:
            assert any(path.startswith(beginning) for path in left), beginning


@pytest.mark.slow
def test_a_field_that_is_forgotten_fails_it(reach_dataset: Path, tmp_path: Path) -> None:
    planted = ("--model", "audit.ForgetfulMOTO", "--trainer.callbacks+=audit.ForgetfulCallback")
    pairs = walked("MOTO", reach_dataset, tmp_path, *planted, stops=STOPS[:1])
    found = {line.split(": ")[1] for line in told(pairs)}
    forgotten = {f"{place}.forgotten" for place in ("agent", "data", "callbacks['ForgetfulCallback']")}
    assert found == {*forgotten, "audit.ForgetfulCallback.noted['steps']"}


class Thing:
    def __init__(self) -> None:
        self.number, self.parts, self.more = 1, [{"a": 2.0}], {"x", "y"}


@pytest.mark.parametrize(
    "change",
    [
        lambda thing: setattr(thing, "number", 2),
        lambda thing: thing.parts[0].update(a=2.5),
        lambda thing: thing.parts.append(3),
        lambda thing: setattr(thing, "new", None),
        lambda thing: thing.more.add("z"),
        lambda thing: setattr(thing, "parts", thing),
    ],
)
def test_every_change_of_an_object_is_seen(change: Callable[[Thing], None]) -> None:
    one, other = Thing(), Thing()
    assert audit.Audit().walk({"": one}) == audit.Audit().walk({"": other})
    change(other)
    assert audit.Audit().walk({"": one}) != audit.Audit().walk({"": other})
