"""Does the model order departures from the policy as the simulator does? What improves a policy with it relies on that.

A critic that is right about what the policy does may be wrong about everything else. So the policy is left for some
steps, each time in another direction, from the same moment of its own episodes; what came of it in the simulator is
compared with what the model expects of it, within the moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor

from moto_pl.agents.model_based import ModelBasedAgent
from moto_pl.analysis.episodes import RunEnvironment
from moto_pl.nn import States
from moto_pl.nn.actor_critic import QEnsemble, ValueCritic
from moto_pl.ops import Disagreement, Key
from moto_pl.replay.episode import Episode
from moto_pl.report.charts import COLOURS, METHOD_COLOURS, charts_style
from moto_pl.report.output import Finding
from moto_pl.report.statistics import Interval, bootstrap_interval, rank_correlation

from .counterfactual import Simulator, filtered, policy_from, simulator_of

_ROLL, _ACT, _TILT = range(1, 4)


class Tilt(NamedTuple):
    """How the policy is left: something is added to its actions and held.

    Attributes:
        std: of the Gaussian draw that is added to actions in [-1, 1].
        hold: steps for which it is added.
    """

    std: float = 0.3
    hold: int = 10

    def draw(self, count: int, size: int, number: int) -> np.ndarray:
        """What is added in each of ``count`` variants [V, A]; the first is the policy itself."""
        drawn = self.std * np.random.default_rng((_TILT, number)).standard_normal((count, size))
        drawn[0] = 0
        return drawn.astype(np.float32)

    def alter(self, added: np.ndarray, step: int, action: np.ndarray) -> np.ndarray:
        """What is done in place of the policy's ``action`` [A], ``step`` steps after the moment."""
        return np.clip(action + added, -1, 1) if step < self.hold else action


class Moment(NamedTuple):
    """The variants from one moment of one episode.

    Attributes:
        episode: which.
        step: when.
        true: discounted rewards that the simulator gave [V].
        earned: the same, not discounted [V].
        scores: what the model says of each variant [V], by name; more is better.
    """

    episode: int
    step: int
    true: np.ndarray
    earned: np.ndarray
    scores: dict[str, np.ndarray]


def _value(agent: ModelBasedAgent, states: States, key: Key) -> Tensor | None:
    """What the agent's critic says of its own policy in states [n, ...]: [n]; None where it is of another kind."""
    critic, features = agent.critic, states.features
    if isinstance(critic, QEnsemble):
        return critic.actor_value(features, agent.latent_action(features, "mode", key), "mean")
    return critic(features) if isinstance(critic, ValueCritic) else None


@torch.no_grad()
def imagined_scores(
    agent: ModelBasedAgent,
    start: States,
    added: np.ndarray,
    tilt: Tilt,
    steps: int,
    estimator: Disagreement,
    key: Key,
) -> dict[str, float]:
    """What the model says of the policy with ``added`` [A] to its first actions, from states [n, ...].

    Returns:
        ``rewards``: discounted, over all ``steps``; ``rewards and value``: over the horizon that the agent imagines,
        counted from the last tilted step, and what its critic says of the states there; ``disagreement``: less of it,
        over the tilted steps. Means over the n samples.
    """
    model, more, gamma = agent.world_model, torch.from_numpy(added).to(start.deter), float(agent.config.gamma)

    def act(step: int, states: States) -> Tensor:
        action = agent.latent_action(states.features, "mode", key.fold(_ACT).fold(step))
        return (action + more).clamp(-1, 1) if step < tilt.hold else action

    rolled = model.roll(start, act, steps, key.fold(_ROLL))
    after = rolled.states.map(lambda x: x[1:])  # [H, n, ...]
    reward = model.predict_reward(after).mean(1).double().cpu().numpy()  # [H]
    weights = gamma ** np.arange(steps)
    spread = model.disagreement(rolled.prior, after.stoch, estimator).mean(1)  # [H]
    found = {"rewards": float(weights @ reward)}
    near = min(steps, tilt.hold + int(agent.config.horizon))
    value = _value(agent, after.map(lambda x: x[near - 1]), key)
    if value is not None:
        found["rewards and value"] = float(weights[:near] @ reward[:near] + gamma**near * value.mean().item())
    return found | {"disagreement": -float(spread[: tilt.hold].mean())}


def moment(
    agent: ModelBasedAgent,
    episode: Episode,
    simulator: Simulator,
    at: tuple[int, int],
    variants: int,
    tilt: Tilt,
    steps: int,
    samples: int,
    estimator: Disagreement,
) -> Moment:
    """Goes on from a moment with each variant, in the simulator and in the model.

    Args:
        agent: whose policy, model and critic.
        episode: of the policy.
        simulator: of the episode's environment.
        at: the episode's number, and steps before the moment.
        variants: V, the policy itself among them.
        tilt: how the others leave it.
        steps: H, that are looked at from there.
        samples: rolls of each variant in the model.
        estimator: of disagreement.
    """
    number, step = at
    key = Key(0, number).fold(step)
    start = filtered(agent, episode, step, samples, key)  # [n, ...]
    gamma, true, earned, said = float(agent.config.gamma), [], [], []
    for added in tilt.draw(variants, episode.action.shape[1], 1000 * number + step):
        begin = simulator.restore(episode, step)
        act = policy_from(agent, episode, step, key, partial(tilt.alter, added))
        rewards = simulator.roll(act, begin, steps)
        true.append(gamma ** np.arange(steps) @ rewards)
        earned.append(rewards.sum())
        said.append(imagined_scores(agent, start, added, tilt, steps, estimator, key))
    scores = {name: np.array([of[name] for of in said]) for name in said[0]}
    return Moment(number, step, np.array(true), np.array(earned), scores)


def agreement(moments: Sequence[Moment], score: str) -> tuple[float, Interval, int]:
    """Spearman's correlation of a score with the truth, within each moment.

    Returns:
        The mean over moments; its interval over episodes; how many moments there were in which the simulator told
        variants apart. nan without any.
    """
    by_episode: dict[int, list[float]] = {}
    for one in moments:
        if np.ptp(one.true) > 0:
            rho = rank_correlation(one.true, one.scores[score])
            # A score that says the same of all variants knows nothing.
            by_episode.setdefault(one.episode, []).append(0.0 if np.isnan(rho) else rho)
    if not by_episode:
        return float("nan"), Interval(float("nan"), float("nan")), 0
    means = [float(np.mean(values)) for values in by_episode.values()]
    known = [value for values in by_episode.values() for value in values]
    return float(np.mean(known)), bootstrap_interval(means, resamples=1000), len(known)


def chosen(moments: Sequence[Moment], score: str) -> float:
    """Mean return of the variants that a score likes best."""
    return float(np.mean([one.earned[one.scores[score].argmax()] for one in moments]))


def find_ordering(
    agent: ModelBasedAgent,
    episodes: Sequence[Episode],
    env: RunEnvironment,
    at: Sequence[int] = (5, 20, 40),
    variants: int = 8,
    tilt: Tilt | None = None,
    steps: int = 60,
    samples: int = 16,
) -> Finding:
    """How the model orders departures from the policy, and what following it would earn.

    Args:
        agent: with a world model.
        episodes: of its own policy in its own environment.
        env: that environment.
        at: the moments, steps from an episode's beginning.
        variants: V, the policy itself among them, at least 2.
        tilt: how the others leave it.
        steps: H, that are looked at from each moment.
        samples: rolls of each variant in the model.

    Raises:
        SettingError: where the environment does not repeat an episode.
    """
    tilt = tilt or Tilt()
    estimator: Disagreement = getattr(agent, "disagreement", "log_prob")
    places = [(number, step) for number in range(len(episodes)) for step in at]
    with simulator_of(agent, env) as simulator:
        found = [
            moment(agent, episodes[place[0]], simulator, place, variants, tilt, steps, samples, estimator)
            for place in track(places, "orderings", transient=True)
        ]
    scores = list(found[0].scores)
    known = {score: agreement(found, score) for score in scores}
    own, best, mean = (float(np.mean([f(one.earned) for one in found])) for f in (lambda x: x[0], np.max, np.mean))
    ranked = "; ".join(
        f"{score} {rho:.2f} [{interval.low:.2f}, {interval.high:.2f}], which would earn {chosen(found, score):.1f}"
        for score, (rho, interval, _) in known.items()
    )
    caption = (
        f"{len(episodes)} episodes of the policy itself, left after {', '.join(map(str, at))} steps: {variants - 1} "
        f"draws of standard deviation {tilt.std:g} are added to {tilt.hold} actions. Return of the next {steps} steps "
        f"in the simulator: {own:.1f} of the policy itself, {mean:.1f} in the mean of the variants, {best:.1f} of the "
        f"best. Rank correlation of what the model says (mean of {samples} rolls) with the truth, within a moment, "
        f"over the {next(iter(known.values()))[2]} moments of {len(found)} where the simulator tells variants apart, "
        f"with 95 % over episodes, and the return of what it likes best: {ranked}."
    )
    summary: dict[str, Any] = {f"correlation_{score}": rho for score, (rho, *_) in known.items()}
    summary |= {f"chosen_{score}": chosen(found, score) for score in scores}
    summary |= {"own": own, "best": best, "mean": mean, "episodes": len(episodes)}
    figure = _figure(found, at, (own, mean, best))
    return Finding("ordering", "Does the model know what is better?", caption, figure, _rows(found), summary)


def _rows(found: Sequence[Moment]) -> list[dict[str, Any]]:
    """The numbers, a variant each."""
    return [
        {"episode": one.episode, "step": one.step, "variant": i, "true": float(true), "earned": float(one.earned[i])}
        | {name: float(values[i]) for name, values in one.scores.items()}
        for one in found
        for i, true in enumerate(one.true)
    ]


def _figure(found: Sequence[Moment], at: Sequence[int], returns: tuple[float, float, float]) -> Figure:
    scores = list(found[0].scores)
    with charts_style():
        figure = Figure(figsize=(10.0, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for row, score in enumerate(scores):
            colour = METHOD_COLOURS[row % len(METHOD_COLOURS)]
            for column, step in enumerate(at):
                rho, interval, _ = agreement([one for one in found if one.step == step], score)
                x = column + 0.15 * (row - (len(scores) - 1) / 2)
                left.plot([x, x], [interval.low, interval.high], color=colour, linewidth=2, alpha=0.5)
                left.plot([x], [rho], "o", color=colour, label=score if column == 0 else None)
            right.plot([chosen(found, score)], [row], "o", color=colour)
        left.axhline(0, color=COLOURS[5], linewidth=1)
        left.set_xticks(range(len(at)), [f"after {step}" for step in at])
        left.set_ylabel("rank correlation with the truth")
        left.legend(loc="best")
        for value, name, style in zip(returns, ("the policy", "any", "the best"), ("-", ":", "--"), strict=True):
            right.axvline(value, color=COLOURS[5], linestyle=style, linewidth=1, label=name)
        right.set_yticks(range(len(scores)), scores)
        right.set_xlabel("return of what it likes best")
        right.invert_yaxis()
        right.legend(loc="best")
    return figure
