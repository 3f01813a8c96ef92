"""``moto analyze``: what a checkpoint's model knows, and what it knows that it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from moto_pl.errors import SettingError
from moto_pl.files import check_can_write
from moto_pl.verbs import Verb


def bound(
    *,
    run: Path,
    disagreement: Literal["mean", "logit", "log_prob", "max_var"] = "mean",
    episodes: str,
    count: int = 10,
    horizon: int = 15,
    out: Path | None = None,
) -> int:
    """The bound on the performance gap along a run (paper, Fig. 6).

    Args:
        run: a run with snapshots.
        disagreement: the estimator of u.
        episodes: a dataset, by id or path; rollout: rolled by the last checkpoint's own policy.
        count: episodes at most.
        horizon: steps of a prediction.
        out: directory to write to; null is analysis/ in the run.
    """
    from moto_pl.agents.loading import load_agent
    from moto_pl.analysis.bound import find_bound

    _check(out, count=count, horizon=horizon)
    rolled, name = _episodes(episodes, count, horizon, run, load_agent(run / "checkpoints" / "last.ckpt"))
    return _write(find_bound(run, rolled, name, horizon, disagreement), out, run)


def calibration(*, ckpt: Path, episodes: str, count: int = 10, horizon: int = 15, out: Path | None = None) -> int:
    """Disagreement against true prediction errors.

    Args:
        ckpt: a checkpoint with a world model.
        episodes: a dataset, by id or path; rollout: rolled by the checkpoint's own policy.
        count: episodes at most.
        horizon: steps of a prediction.
        out: directory to write to; null is analysis/ in the run.
    """
    from moto_pl.agents.loading import load_agent
    from moto_pl.analysis.calibration import find_calibration
    from moto_pl.analysis.episodes import model_based

    _check(out, count=count, horizon=horizon)
    agent, run = model_based(load_agent(ckpt)), ckpt.resolve().parent.parent
    rolled, name = _episodes(episodes, count, horizon, run, agent)
    return _write(find_calibration(agent.world_model, rolled, name, sorted({1, horizon})), out, run)


def generalization(
    *, ckpt: Path, samples: int = 5, real: int = 5, episodes: str, count: int = 10, out: Path | None = None
) -> int:
    """Open-loop beyond what the data holds (paper, Fig. 5).

    Args:
        ckpt: a checkpoint with a world model.
        samples: rolls of each episode.
        real: episodes of the policy in its environment; 0: none.
        episodes: a dataset, by id or path; rollout: rolled by the checkpoint's own policy.
        count: episodes at most.
        out: directory to write to; null is analysis/ in the run.
    """
    from moto_pl.agents.loading import load_agent
    from moto_pl.analysis.episodes import model_based, roll_own
    from moto_pl.analysis.generalization import LEAST_CONTEXT, find_generalization

    _check(out, count=count, samples=samples, real=real)
    agent, run = model_based(load_agent(ckpt)), ckpt.resolve().parent.parent
    rolled, name = _episodes(episodes, count, LEAST_CONTEXT, run, agent)
    own = roll_own(agent, run, real) if real else []
    largest = _largest_reward(run, agent.loaded_step)
    finding = find_generalization(agent, rolled, own, name, _objects(run), largest, samples)
    return _write(finding, out, run)


def counterfactual(
    *,
    ckpt: Path,
    episodes: str,
    count: int = 10,
    context: int = 25,
    steps: int = 45,
    samples: int = 8,
    tolerance: float = 0.5,
    out: Path | None = None,
) -> int:
    """Rewards after other actions, in the model and in the simulator from the same moment.

    Args:
        ckpt: a checkpoint with a world model, in its run's directory.
        episodes: a dataset of the run's environment, by id or path; rollout: rolled by the checkpoint's own policy.
        count: episodes at most.
        context: steps of an episode that the model sees.
        steps: steps of a prediction.
        samples: rolls of each prediction.
        tolerance: further from the truth than this, a predicted reward is wrong.
        out: directory to write to; null is analysis/ in the run.
    """
    from moto_pl.agents.loading import load_agent
    from moto_pl.analysis.counterfactual import find_counterfactual
    from moto_pl.analysis.episodes import environment_of, model_based

    _check(out, count=count, context=context, steps=steps, samples=samples)
    if not tolerance > 0:
        raise SettingError("--tolerance", tolerance, "Give a number above 0.")
    agent, run = model_based(load_agent(ckpt)), ckpt.resolve().parent.parent
    env = environment_of(run)
    rolled, name = _episodes(episodes, count, context + steps - 1, run, agent)
    short = [episode.length for episode in rolled if episode.length < context + steps]
    if short:
        found = f"an episode of {short[0]} steps, for {context} of context and {steps} of prediction"
        raise SettingError("--steps", found, "Give fewer, or less --context.")
    finding = find_counterfactual(agent, rolled, name, env, context, steps, samples, tolerance)
    return _write(finding, out, run)


def ordering(
    *,
    ckpt: Path,
    count: int = 10,
    moments: Sequence[int] = (5, 20, 40),
    variants: int = 8,
    std: float = 0.3,
    hold: int = 10,
    steps: int = 60,
    samples: int = 16,
    out: Path | None = None,
) -> int:
    """Whether the model orders departures from the policy as the simulator does.

    Args:
        ckpt: a checkpoint with a world model, in its run's directory.
        count: episodes of its own policy.
        moments: steps after which the policy is left.
        variants: continuations from each moment, at least 2; the first is the policy's own.
        std: of what is added to the actions of the others.
        hold: steps for which it is added.
        steps: steps that are looked at from a moment.
        samples: rolls of each variant in the model.
        out: directory to write to; null is analysis/ in the run.
    """
    from moto_pl.agents.loading import load_agent
    from moto_pl.analysis.episodes import environment_of, model_based, roll_own
    from moto_pl.analysis.ordering import Tilt, find_ordering

    _check(out, count=count, hold=hold, steps=steps, samples=samples)
    if variants < 2:
        raise SettingError("--variants", variants, "Give at least 2, of which the first is the policy's own.")
    if not 0 < std < float("inf"):
        raise SettingError("--std", std, "Give a number above 0.")
    if hold > steps:
        raise SettingError("--hold", hold, f"Give at most --steps, {steps}.")
    if min(moments) < 0:
        raise SettingError("--moments", moments, "Give steps, 0 or more.")
    agent, run = model_based(load_agent(ckpt)), ckpt.resolve().parent.parent
    env = environment_of(run)
    rolled = roll_own(agent, run, count)
    short = min(episode.length for episode in rolled)
    if max(moments) >= short:
        raise SettingError("--moments", moments, f"An episode has {short} steps: give smaller ones.")
    finding = find_ordering(agent, rolled, env, moments, variants, Tilt(std, hold), steps, samples)
    return _write(finding, out, run)


VERBS = {
    "generalization": Verb(generalization),
    "bound": Verb(bound),
    "calibration": Verb(calibration),
    "counterfactual": Verb(counterfactual),
    "ordering": Verb(ordering),
}


def _objects(run: Path) -> tuple[str, ...]:
    """Names of the task's objects; of a task without objects, success."""
    from moto_pl.envs import task_objects
    from moto_pl.report.records import read_run

    record = read_run(run)
    env, options = record.setting("data", "env"), record.setting("data", "env_options")
    return (task_objects(env, options or {}) if env else ()) or ("success",)


def _largest_reward(run: Path, step: int) -> float | None:
    """Of what the run had learned from by a gradient step; None where its replay is not there.

    A checkpoint of the offline phase has seen the dataset alone, whatever was collected after it.
    """
    from moto_pl.replay import EpisodeStore
    from moto_pl.report.records import read_run

    if not (run / "replay").is_dir():
        return None
    store = EpisodeStore(run / "replay")
    store.refresh(len(list((run / "replay").glob("*.safetensors"))))
    record = read_run(run)
    seen = len(store)
    if record.offline_steps is not None and step <= record.offline_steps:
        known = record.dataset.get("episodes")
        seen = min(seen, known) if isinstance(known, int) else seen
    return max((float(store[i].reward.max()) for i in range(seen)), default=None)


def _check(out: Path | None, **numbers: int) -> None:
    if out is not None:
        check_can_write("--out", out)
    for name, value in numbers.items():
        least = 0 if name == "real" else 1
        if value < least:
            raise SettingError(f"--{name}", value, f"Give at least {least}.")


def _episodes(episodes: str, count: int, steps: int, run: Path, agent: Any) -> tuple[list[Any], str]:
    """At most ``count`` episodes of more than ``steps`` steps, and what they are called."""
    from moto_pl.analysis.episodes import load_episodes, roll_own

    if episodes == "rollout":
        return roll_own(agent, run, count), "the policy itself"
    return load_episodes(episodes, count, steps + 1, agent), episodes


def _write(finding: Any, out: Path | None, run: Path) -> int:
    from moto_pl.report.output import DIRECTORY, write_finding

    paths = write_finding(finding, out or run / DIRECTORY)
    print(finding.caption)
    print("\n".join(str(path) for path in paths))
    return 0
