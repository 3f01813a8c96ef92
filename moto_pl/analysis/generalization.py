"""Does the model go on where its data ended? Open-loop from the last but one object to the end (MOTO, A.1, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor, nn

from moto_pl.agents.model_based import ModelBasedAgent
from moto_pl.envs.observation import cameras_beside
from moto_pl.errors import SettingError
from moto_pl.nn import WorldModel
from moto_pl.nn.image import to_uint8
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import SequenceBatch, episode_batch
from moto_pl.report.charts import COLOURS, METHOD_COLOURS, charts_style
from moto_pl.report.output import Finding

FRAMES = 6  # moments that are shown of an episode
LEAST_CONTEXT = 5


class OpenLoop(NamedTuple):
    """An episode of T steps, predicted from its first ``context`` frames.

    Attributes:
        context: frames that were seen.
        true_reward: [T].
        reward: predicted [samples, T]; the first ``context - 1`` are of states that saw their frames.
        image: uint8 [T + 1, H, W, 3 * M], the first sample's; the first ``context`` are reconstructions.
        final: features of the last state [samples, F].
    """

    context: int
    true_reward: np.ndarray
    reward: np.ndarray
    image: np.ndarray
    final: Tensor


def completed(episode: Episode) -> np.ndarray:
    """Which objects had ever been in place by each step: bool [T, objects]; a task without objects has one."""
    now = np.asarray(episode.extras.get("completed", episode.success), bool).reshape(episode.length, -1)
    return np.maximum.accumulate(now, 0)


def context_of(episode: Episode) -> int | None:
    """Frames until the last but one object was in place, at least five; None where not all ever were."""
    done = completed(episode).sum(1)
    objects = completed(episode).shape[1]
    if done[-1] < objects:
        return None
    before = int(np.argmax(done >= objects - 1)) + 2  # step t leads to frame t + 1, and frames are counted from 1
    return min(max(LEAST_CONTEXT, before), episode.length)


@torch.no_grad()
def open_loop(model: WorldModel, episode: Episode, context: int, samples: int, key: Key) -> OpenLoop:
    """Filters ``context`` frames, then rolls the episode's own actions to its end, ``samples`` times."""
    batch = episode_batch(episode, next(model.parameters()).device)
    many = batch.map(lambda part: part.expand(samples, *part.shape[1:]))
    states = model.predict(many, context, key)  # [T + 1, samples, ...]
    reward = model.predict_reward(states)[1:].T  # [samples, T]
    image = to_uint8(model.decoder(states.features[:, 0]).float()).permute(0, 2, 3, 1)
    final = states.map(lambda x: x[-1]).features
    return OpenLoop(context, episode.reward, reward.cpu().numpy(), image.cpu().numpy(), final)


class Probe(NamedTuple):
    """A linear reading of latent states: which objects are in place.

    Attributes:
        weight: [objects, F + 1], the constant last.
        accuracy: share of right answers on held-out episodes, of each object [objects].
        majority: what always giving the commoner answer scores there [objects].
    """

    weight: Tensor
    accuracy: np.ndarray
    majority: np.ndarray

    def __call__(self, features: Tensor) -> Tensor:
        """[..., F] -> [..., objects], true where an object is read as in place."""
        return _with_constant(features) @ self.weight.T > 0


def train_probe(model: WorldModel, episodes: Sequence[Episode], key: Key, steps: int = 100) -> Probe:
    """Logistic regression on posterior states; every third episode is held out.

    Raises:
        SettingError: with fewer than three episodes.
    """
    if len(episodes) < 3:
        raise SettingError("--count", len(episodes), "Give at least 3 episodes: every third is held out.")
    device = next(model.parameters()).device
    features, labels = [], []
    with torch.no_grad():
        for number, episode in enumerate(episodes):
            states = model.observe(episode_batch(episode, device), key.fold(number)).states
            features.append(_with_constant(states.features[1:, 0]))
            now = np.asarray(episode.extras.get("completed", episode.success), np.float32)
            labels.append(torch.from_numpy(now.reshape(episode.length, -1)).to(device))
    held_out = [number % 3 == 2 for number in range(len(episodes))]

    def part(tables: list[Tensor], held: bool) -> Tensor:
        return torch.cat([table for table, is_held in zip(tables, held_out, strict=True) if is_held == held])

    x, y = part(features, False), part(labels, False)
    weight = torch.zeros(y.shape[1], x.shape[1], device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(x @ weight.T, y) + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    truth = part(labels, True) > 0.5
    right = (part(features, True) @ weight.T > 0) == truth
    rate = truth.float().mean(0)
    numbers = (right.float().mean(0), torch.maximum(rate, 1 - rate))
    return Probe(weight.detach(), *(number.detach().cpu().numpy() for number in numbers))


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat((features, torch.ones_like(features[..., :1])), -1)


@torch.no_grad()
def imagined_rewards(
    agent: ModelBasedAgent, episodes: Sequence[Episode], steps: int, samples: int, key: Key
) -> np.ndarray:
    """The policy rolled in its own model from the episodes' first frames: rewards predicted [episodes * samples, H]."""
    model = agent.world_model
    device = next(model.parameters()).device
    first = [episode_batch(e, device).map(lambda part: part[:, :1]) for e in episodes for _ in range(samples)]
    batch = SequenceBatch.join(first)
    states = model.predict(batch, 1, key, lambda _, now: agent.latent_action(now.features, "mode", key), steps)
    return model.predict_reward(states.map(lambda x: x[1:])).T.cpu().numpy()


def find_generalization(
    agent: ModelBasedAgent,
    episodes: Sequence[Episode],
    own: Sequence[Episode],
    data: str,
    objects: Sequence[str],
    trained_on: float | None,
    samples: int = 5,
) -> Finding:
    """Both halves of the paper's figure 5, and what a probe reads in the predicted ends.

    Args:
        agent: with a world model.
        episodes: labelled; those that complete all objects are predicted, all train the probe.
        own: episodes of the agent's policy in its environment; may be none.
        data: what ``episodes`` are called in the caption.
        objects: names of the task's objects; of a task without any, one.
        trained_on: the largest reward in the data that the agent was trained on; None where unknown.
        samples: rolls of each episode.

    Raises:
        SettingError: where no episode completes all objects.
    """
    model, key = agent.world_model, Key(0, 0)
    whole = [(episode, context) for episode in episodes if (context := context_of(episode)) is not None]
    if not whole:
        fix = "Give a dataset with episodes that do."
        raise SettingError("--episodes", f"{data}, in which no episode completes all of the task's objects", fix)
    probe = train_probe(model, episodes, key.fold(1))
    found = [
        open_loop(model, episode, context, samples, key.fold(2, i))
        for i, (episode, context) in enumerate(track(whole, "open-loop predictions", transient=True))
    ]
    steps = max(episode.length for episode, _ in whole)
    imagined = imagined_rewards(agent, [episode for episode, _ in whole], steps, samples, key.fold(3))
    rows: list[dict[str, Any]] = []
    for number, ((episode, _), result) in enumerate(zip(whole, found, strict=True)):
        shown = probe(result.final).float().mean(0).cpu().numpy()  # share of the samples
        row: dict[str, object] = {"episode": number, "context": result.context, "steps": episode.length}
        row |= {"final_true_reward": float(episode.reward[-1])}
        row |= {"final_predicted_reward": float(result.reward[:, -1].mean())}
        row |= {"spread": float(result.reward[:, -1].std())}
        row |= {f"{name} shown": float(share) for name, share in zip(objects, shown, strict=True)}
        rows.append(row)
    final = float(np.mean([result.reward[:, -1].mean() for result in found]))
    real = "not rolled in reality"
    if own:
        returned = np.mean([episode.total_reward for episode in own])
        real = f"{np.mean([e.reward[-1] for e in own]):.2f}, return {returned:.1f}, in {len(own)} real episodes"
    ends = torch.cat([probe(result.final) for result in found]).float().mean(0).tolist()
    read = "; ".join(
        f"{name} in {share:.0%} of the rolls (right on held-out episodes at {a:.2f}; the commoner answer at {m:.2f})"
        for name, share, a, m in zip(objects, ends, *probe[1:], strict=True)
    )
    largest = "" if trained_on is None else f" The largest reward that it was trained on is {trained_on:g}."
    truth = np.mean([episode.reward[-1] for episode, _ in whole])
    caption = (
        f"Model and policy after {agent.loaded_step:,} gradient steps. "
        f"Above: frames of an episode ({data}), what the model makes of its actions once it has seen the frames up to "
        "the last but one object, and their difference. Below, left: true rewards (dashed) and predicted ones (mean of "
        f"{samples} rolls, band: one standard deviation; the upright line is where the frames end) of {len(found)} "
        f"such episodes, eight at most drawn. The mean final predicted reward is {final:.2f}, the true one {truth:.2f}."
        f"{largest} The paper finds, at the end of pre-training, 3.63 on the kitchen's partial task, from data whose "
        "largest is 3. Below, right: final rewards that the model predicts of its policy, rolled in it from the same "
        f"first frames for {steps} steps: {imagined[:, -1].mean():.2f} on average (paper: 3.52); the same policy's "
        f"final reward: {real}. A linear probe of the latent state reads as in place at the predicted ends: {read}."
    )
    summary = {
        "final_predicted_reward": final,
        "imagined_final_reward": float(imagined[:, -1].mean()),
        "episodes": len(found),
        "probe_accuracy": float(probe.accuracy.mean()),
    }
    figure = _figure(whole[0][0], found, imagined)
    return Finding("generalization", "Does the model go on where its data ended?", caption, figure, rows, summary)


def _figure(shown: Episode, found: Sequence[OpenLoop], imagined: np.ndarray) -> Figure:
    first = found[0]
    moments = np.unique(
        np.concatenate(
            ([0, first.context - 1], np.linspace(first.context, shown.length, FRAMES - 2).round().astype(int))
        )
    )
    with charts_style():
        figure = Figure(figsize=(8.6, 7.6), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(1.25, 1))
        above, below = parts
        grid = above.subplots(3, len(moments), squeeze=False)
        for column, moment in enumerate(moments):
            truth, predicted = (cameras_beside(of.image[moment]) for of in (shown, first))
            error = np.abs(truth.astype(int) - predicted.astype(int)).astype(np.uint8)
            for row, (name, image) in enumerate((("truth", truth), ("model", predicted), ("error", error))):
                axes = grid[row, column]
                axes.imshow(image)
                axes.set_xticks([])
                axes.set_yticks([])
                if column == 0:
                    axes.set_ylabel(name)
            seen = moment < first.context
            grid[0, column].set_title(f"step {moment}{', seen' if seen else ''}", fontsize=9)
        left, right = below.subplots(1, 2, width_ratios=(1.6, 1))
        for number, result in enumerate(found[:8]):
            colour = METHOD_COLOURS[number % len(METHOD_COLOURS)]
            steps = np.arange(1, len(result.true_reward) + 1)
            mean, spread = result.reward.mean(0), result.reward.std(0)
            left.plot(steps, result.true_reward, "--", color=colour, linewidth=1)
            left.plot(steps, mean, color=colour)
            left.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
            left.axvline(result.context, color=colour, linewidth=0.8, alpha=0.5)
        left.set_xlabel("step")
        left.set_ylabel("reward")
        right.hist(imagined[:, -1], bins=12, color=COLOURS[0])
        right.set_xlabel("final predicted reward, policy in the model")
        right.set_ylabel("rolls")
    return figure
