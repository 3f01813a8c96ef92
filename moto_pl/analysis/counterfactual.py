"""What would have happened with other actions: the model's answer against the simulator's, from the same moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import track
from scipy.stats import rankdata
from torch import Tensor

from moto_pl.agents.model_based import ModelBasedAgent
from moto_pl.analysis.episodes import RunEnvironment
from moto_pl.envs import make
from moto_pl.envs.actions import ActionScale, repeated, scaled
from moto_pl.envs.observation import IMAGE_ALONE, ObservationConfig, Seen, env_arguments, seen
from moto_pl.errors import SettingError
from moto_pl.nn import States
from moto_pl.nn.world_model import Act, replayed
from moto_pl.ops import Disagreement, Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import episode_batch
from moto_pl.report.charts import COLOURS, METHOD_COLOURS, charts_style
from moto_pl.report.output import Finding
from moto_pl.report.statistics import Interval, bootstrap_interval
from moto_pl.rollout.play import Played, Script, play_on, recorded
from moto_pl.rollout.policy import Policy

#: What is done from the moment on: the episode's own actions; none; uniform ones; its own with their signs turned; what
#: the policy does, which sees real frames in the simulator and latent states in the model.
KINDS = ("recorded", "zero", "uniform", "reversed", "policy")
#: Steps at the end over which predicted and true reward are compared.
LAST = 5
#: Largest mean difference, in grey levels, between a frame that was recorded and the same frame drawn again.
FRAME_TOLERANCE = 4.0


@dataclass(frozen=True)
class Branch:
    """One episode left at one moment with one kind of actions.

    Attributes:
        predicted: rewards that the model expects, mean over its samples [H].
        true: rewards that the simulator gave [H].
        disagreement: by estimator, u of each step, mean over the samples [H].
    """

    predicted: np.ndarray
    true: np.ndarray
    disagreement: dict[Disagreement, np.ndarray]


#: What is done in place of the policy's action [A], in a step counted from the moment.
Alter = Callable[[int, np.ndarray], np.ndarray]


class Simulator:
    """An environment that is taken back to a moment of a recorded episode, by its seed and its actions.

    Args:
        env_id: as for :func:`moto_pl.envs.make`.
        options: the environment's arguments.
        wanted: what of its observations is seen.
        scale: what actions in [-1, 1] stand for; None: they span its Box.
        image_size: of the images, to which others' are resized; None leaves it to the environment.
        action_repeat: its steps for each action.
    """

    def __init__(
        self,
        env_id: str,
        options: Mapping[str, Any],
        wanted: ObservationConfig = IMAGE_ALONE,
        scale: ActionScale | None = None,
        image_size: int | None = None,
        action_repeat: int = 1,
    ) -> None:
        self.name, self.wanted, self._image_size = env_id, wanted, image_size
        env = make(env_id, **env_arguments(env_id, options, wanted, image_size))
        self.env = scaled(repeated(env, action_repeat), scale)

    def restore(self, episode: Episode, step: int) -> Seen:
        """Goes to where ``episode`` was after ``step`` steps; returns what is seen there.

        Raises:
            SettingError: where that is another place than the recorded one: another environment, or other settings.
        """
        if not isinstance(episode.info.get("seed"), int):
            fix = "Give episodes that were recorded here, with the seed that they began with."
            raise SettingError("--episodes", "an episode without a seed", fix)
        observation, _ = self.env.reset(seed=int(episode.info["seed"]))
        now = seen(observation, self.wanted, self._image_size)
        for played in self._play_on(recorded(episode.action[:step]), now):
            now = played.seen
        frame = now.image
        error = (
            np.abs(frame.astype(float) - episode.image[step]).mean() if frame.shape == episode.image[0].shape else 255
        )
        if error > FRAME_TOLERANCE:
            raise SettingError(
                "--episodes",
                f"an episode that {self.name} does not repeat (its frame {step} is {error:.0f} grey levels away)",
                "Give episodes of the run's own environment, recorded with its settings (data.env, data.env_options).",
            )
        return now

    def roll(self, act: Script, begin: Seen, steps: int) -> np.ndarray:
        """Rewards [H] of what ``act`` does from what is seen on; a terminated episode earns nothing more."""
        rewards = np.zeros(steps)
        for i, played in enumerate(islice(self._play_on(act, begin), steps)):
            rewards[i] = played.reward
            if played.terminated:
                break
        return rewards

    def _play_on(self, script: Script, begin: Seen) -> Iterator[Played]:
        return play_on(self.env, begin, script, self.wanted, self._image_size)

    def close(self) -> None:
        """Frees the simulator."""
        self.env.close()


@contextmanager
def simulator_of(agent: ModelBasedAgent, env: RunEnvironment) -> Iterator[Simulator]:
    """An agent's environment, which shows what the agent sees and takes its actions; freed at the end."""
    of = agent.observation
    simulator = Simulator(env.env, env.options, of.config, agent.action_scale, of.image_size, env.action_repeat)
    try:
        yield simulator
    finally:
        simulator.close()


def taken(kind: str, recorded: np.ndarray, seed: int) -> np.ndarray | None:
    """The actions [H, A] of a kind in place of the ``recorded`` ones; None for the policy's."""
    if kind == "policy":
        return None
    uniform = np.random.default_rng(seed).uniform(-1, 1, recorded.shape).astype(np.float32)
    return {"recorded": recorded, "zero": np.zeros_like(recorded), "uniform": uniform, "reversed": -recorded}[kind]


@torch.no_grad()
def imagine(
    agent: ModelBasedAgent,
    start: States,
    actions: np.ndarray | None,
    steps: int,
    kinds: Sequence[Disagreement],
    key: Key,
) -> tuple[np.ndarray, dict[Disagreement, np.ndarray]]:
    """Rolls the model from ``start`` [n, ...]; rewards and disagreements [H], means over the n samples."""
    model = agent.world_model

    def policy(step: int, states: States) -> Tensor:
        return agent.latent_action(states.features, "mode", key.fold(step))

    act: Act = policy
    if actions is not None:
        fixed = torch.from_numpy(actions).to(start.deter)  # [H, A]
        act = replayed(fixed.unsqueeze(1).expand(-1, len(start.deter), -1))
    rolled = model.roll(start, act, steps, key)
    after = rolled.states.map(lambda x: x[1:])  # [H, n, ...]
    spread = {kind: model.disagreement(rolled.prior, after.stoch, kind).mean(1).cpu().numpy() for kind in kinds}
    return model.predict_reward(after).mean(1).cpu().numpy(), spread


@torch.no_grad()
def branches(
    agent: ModelBasedAgent,
    episode: Episode,
    simulator: Simulator,
    context: int,
    steps: int,
    estimators: Sequence[Disagreement],
    samples: int,
    number: int,
) -> dict[str, Branch]:
    """Leaves an episode after ``context`` steps, with each kind of actions, in the model and in the simulator."""
    key = Key(0, number)
    start = filtered(agent, episode, context, samples, key)  # [n, ...]
    own = episode.action[context : context + steps]
    found = {}
    for kind in KINDS:
        actions = taken(kind, own, number)
        predicted, spread = imagine(agent, start, actions, steps, estimators, key.fold(1))
        begin = simulator.restore(episode, context)
        act = policy_from(agent, episode, context, key.fold(2)) if actions is None else recorded(actions)
        found[kind] = Branch(predicted, simulator.roll(act, begin, steps), spread)
    return found


@torch.no_grad()
def filtered(agent: ModelBasedAgent, episode: Episode, context: int, samples: int, key: Key) -> States:
    """Draws of the latent state [n, ...] after ``context`` steps of an episode, whose frames have been seen."""
    whole = episode_batch(episode, agent.device)
    known = whole.map(lambda part: part[:, : context + 1].expand(samples, *part[:, : context + 1].shape[1:]))
    return agent.world_model.observe(known, key).states.map(lambda x: x[-1])


def policy_from(agent: ModelBasedAgent, episode: Episode, context: int, key: Key, alter: Alter | None = None) -> Script:
    """The policy as it acts, its filter brought up to the episode's moment.

    Args:
        agent: acts.
        episode: what its filter sees.
        context: steps before the moment.
        key: names the draws.
        alter: says what is done in place of what the policy would do.
    """
    policy = Policy(agent, "mode", key)

    def act(now: Seen) -> np.ndarray:
        vector = None if now.vector is None else now.vector[None]
        return policy.act_seen(Seen(now.image[None], vector))[0].cpu().numpy()

    def altered(step: int, now: Seen) -> np.ndarray:
        action = act(now)
        if alter is not None:
            action = alter(step, action)
            policy.executed(action)
        return action

    for step in range(context):
        act(Seen(episode.image[step], None if episode.vector is None else episode.vector[step]))
        policy.executed(episode.action[step])
    return altered


def auroc(score: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve of ``score`` [n] as a sign of ``wrong`` bool [n]; nan where all are of one kind."""
    positive, negative = int(wrong.sum()), int((~wrong).sum())
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[wrong].sum() - positive * (positive + 1) / 2) / (positive * negative))


def estimator_auroc(
    found: Sequence[Mapping[str, Branch]], estimator: Disagreement, tolerance: float, resamples: int = 1000
) -> tuple[float, Interval]:
    """How well an estimator tells wrong predictions from right ones, with an interval over episodes.

    A step's prediction rests on all steps before it: its score is the mean of u up to there. It is wrong where it is
    further than ``tolerance`` from the truth.

    Returns:
        The chance that a wrong prediction has a higher score than a right one (0.5 knows nothing), and its interval.
    """
    scores, wrongs = [], []  # an episode each
    for episode in found:
        parts = list(episode.values())
        steps = np.arange(1, len(parts[0].true) + 1)
        scores.append(np.concatenate([part.disagreement[estimator].cumsum() / steps for part in parts]))
        wrongs.append(np.concatenate([np.abs(part.predicted - part.true) > tolerance for part in parts]))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples if len(found) > 1 else 0):
        rows = rng.integers(len(found), size=len(found))
        drawn.append(auroc(np.concatenate([scores[i] for i in rows]), np.concatenate([wrongs[i] for i in rows])))
    known = [value for value in drawn if np.isfinite(value)]
    low, high = np.quantile(known, (0.025, 0.975)) if known else (np.nan, np.nan)
    return auroc(np.concatenate(scores), np.concatenate(wrongs)), Interval(float(low), float(high))


def last_error(found: Sequence[Mapping[str, Branch]], kind: str) -> np.ndarray:
    """Mean of ``|predicted - true|`` over the last steps, an episode each [n]."""
    return np.array([np.abs(episode[kind].predicted - episode[kind].true)[-LAST:].mean() for episode in found])


def find_counterfactual(
    agent: ModelBasedAgent,
    episodes: Sequence[Episode],
    data: str,
    env: RunEnvironment,
    context: int = 25,
    steps: int = 45,
    samples: int = 8,
    tolerance: float = 0.5,
) -> Finding:
    """Predicted against true rewards after every kind of actions, and which estimator knows where they differ.

    Args:
        agent: with a world model.
        episodes: held out, each of ``context + steps`` steps or more.
        data: what they are called in the caption.
        env: the environment that they were recorded in.
        context: steps of an episode that the model sees.
        steps: H, steps of a prediction.
        samples: rolls of each prediction.
        tolerance: further from the truth than this, a predicted reward is wrong.

    Raises:
        SettingError: where the environment does not repeat an episode.
    """
    gaussian = agent.world_model.config.latent == "gaussian"
    estimators: list[Disagreement] = [
        kind for kind in get_args(Disagreement) if kind != ("logit" if gaussian else "max_var")
    ]
    with simulator_of(agent, env) as simulator:
        found = [
            branches(agent, episode, simulator, context, steps, estimators, samples, number)
            for number, episode in enumerate(track(episodes, "counterfactuals", transient=True))
        ]
    known = {estimator: estimator_auroc(found, estimator, tolerance) for estimator in estimators}
    errors = {kind: last_error(found, kind) for kind in KINDS}
    said = "; ".join(
        f"{kind} {np.mean([e[kind].predicted[-LAST:].mean() for e in found]):.2f} for "
        f"{np.mean([e[kind].true[-LAST:].mean() for e in found]):.2f} (off by {errors[kind].mean():.2f})"
        for kind in KINDS
    )
    ranked = "; ".join(
        f"{name} {value:.2f} [{interval.low:.2f}, {interval.high:.2f}]" for name, (value, interval) in known.items()
    )
    caption = (
        f"{len(found)} episodes of {data}, left after {context} steps with other actions: rewards that the model "
        f"expects (mean of {samples} rolls) and rewards of the simulator, restored to the same moment. Bands: 95 % "
        f"over episodes. Over the last {LAST} of {steps} steps, predicted for true: {said}. Chance that a prediction "
        f"which is off by more than {tolerance:g} has more disagreement than one which is not (AUROC; 0.5 knows "
        f"nothing; intervals over episodes): {ranked}."
    )
    summary: dict[str, Any] = {f"error_{kind}": float(error.mean()) for kind, error in errors.items()}
    summary |= {f"auroc_{name}": value for name, (value, _) in known.items()} | {"episodes": len(found)}
    figure = _figure(found, known, errors)
    return Finding("counterfactual", "Does the model know what actions do?", caption, figure, _rows(found), summary)


def _rows(found: Sequence[Mapping[str, Branch]]) -> list[dict[str, Any]]:
    """The numbers, a step of a branch each."""
    rows = []
    for number, episode in enumerate(found):
        for kind, branch in episode.items():
            for step, (predicted, true) in enumerate(zip(branch.predicted, branch.true, strict=True)):
                row = {"episode": number, "actions": kind, "step": step + 1}
                row |= {"predicted": float(predicted), "true": float(true)}
                rows.append(row | {f"u_{name}": float(u[step]) for name, u in branch.disagreement.items()})
    return rows


def _figure(
    found: Sequence[Mapping[str, Branch]],
    known: Mapping[Disagreement, tuple[float, Interval]],
    errors: Mapping[str, np.ndarray],
) -> Figure:
    with charts_style():
        figure = Figure(figsize=(10.0, 5.6), layout="constrained")
        grid = figure.add_gridspec(2, 2 * len(KINDS))
        first = None
        for column, kind in enumerate(KINDS):
            axes = figure.add_subplot(grid[0, 2 * column : 2 * column + 2], sharey=first)
            first = first or axes
            for name, colour, style in (("true", COLOURS[1], "--"), ("predicted", COLOURS[0], "-")):
                table = np.stack([getattr(episode[kind], name) for episode in found])  # [episodes, H]
                bands = [bootstrap_interval(values, resamples=1000) for values in table.T]
                steps = np.arange(1, table.shape[1] + 1)
                axes.plot(steps, table.mean(0), style, color=colour, label=name)
                axes.fill_between(
                    steps, [b.low for b in bands], [b.high for b in bands], color=colour, alpha=0.15, linewidth=0
                )
            axes.set_title(f"{kind} actions", fontsize=10)
            axes.set_xlabel("steps ahead")
            if column == 0:
                axes.set_ylabel("reward")
                axes.legend(loc="best")
        _dots(
            figure.add_subplot(grid[1, : len(KINDS)]),
            {kind: (float(e.mean()), bootstrap_interval(e, resamples=1000)) for kind, e in errors.items()},
            f"|predicted - true|, last {LAST} steps",
        )
        right = figure.add_subplot(grid[1, len(KINDS) :])
        _dots(right, {str(name): of for name, of in known.items()}, "AUROC of disagreement")
        right.axvline(0.5, color=COLOURS[5], linewidth=1)
    return figure


def _dots(axes: Any, figures: Mapping[str, tuple[float, Interval]], label: str) -> None:
    for row, (value, interval) in enumerate(figures.values()):
        colour = METHOD_COLOURS[row % len(METHOD_COLOURS)]
        axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=2, alpha=0.5)
        axes.plot([value], [row], "o", color=colour)
    axes.set_yticks(range(len(figures)), list(figures))
    axes.invert_yaxis()
    axes.set_xlabel(label)
