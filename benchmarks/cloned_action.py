"""How near a policy's action is to that of the script which it was cloned from: ``python -m benchmarks.cloned_action``.

The script plays episodes that no policy was trained on, with noise in its actions, and says in each state what it would
do without. The policy filters the same frames and actions, and its likeliest action is compared with that: a finer
instrument than success, of which twenty episodes tell 0.4 from 0.6 at best. *Early*: the first steps, in which the hand
has to find out where the object is. An action's correlation is what the policy knows of it; its error has noise in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import moto_pl.envs  # noqa: F401  registers the environments
from moto_pl.agents.loading import load_agent
from moto_pl.agents.model_based import ModelBasedAgent
from moto_pl.envs import metaworld_id
from moto_pl.envs.rendering import select_backend
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import episode_batch
from moto_pl.rollout.play import play

EARLY = 12
_FIRST_SEED = 8_000_000


def main() -> None:
    """Prints a line for each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="of MOTO on a MetaWorld task")
    parser.add_argument("--task", default="drawer-open")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--noise", type=float, default=0.5, help="in the script's actions, as the demonstrations have")
    args = parser.parse_args()
    episodes = scripted(args.task, args.episodes, args.noise)
    table = Table("checkpoint", "error early", "until success", "after", "correlation early: x, y, z", "until success")
    for path in args.checkpoints:
        agent = load_agent(path)
        if not isinstance(agent, ModelBasedAgent):
            parser.error(f"{path}: found {type(agent).__name__}. Give a checkpoint of an agent with a world model.")
        found = compare(agent, episodes)
        cells = [f"{found[part]:.3f}" for part in ("early", "before", "after")]
        cells += [", ".join(f"{x:.2f}" for x in found[part]) for part in ("early_r", "before_r")]
        table.add_row(str(path), *cells)
    Console().print(table)


def scripted(task: str, count: int, noise: float) -> list[tuple[Episode, np.ndarray]]:
    """Episodes of the script with noise, and what it would have done in each of their states: [T, A]."""
    select_backend()
    env = gym.make(metaworld_id(task), render_quality="fast")
    found = []
    for index in track(range(count), "the script", transient=True):
        rng, own = np.random.default_rng((6, index)), []

        def act(step: int, seen: Any, rng: np.random.Generator = rng, own: list[np.ndarray] = own) -> np.ndarray:
            own.append(env.unwrapped.scripted_action())  # type: ignore[attr-defined]
            return np.clip(own[-1] + noise * rng.standard_normal(len(own[-1])), -1, 1).astype(np.float32)

        episode = play(env, _FIRST_SEED + index, act)
        found.append((episode, np.stack(own)[: episode.length]))
    env.close()
    return found


@torch.no_grad()
def compare(agent: ModelBasedAgent, episodes: list[tuple[Episode, np.ndarray]]) -> dict[str, Any]:
    """Mean errors, and the correlation of each of the hand's three numbers, early and until success."""
    cloned, own, early, before = [], [], [], []
    with agent.acting_weights():
        for index, (episode, script) in enumerate(episodes):
            batch = episode_batch(episode, agent.device)
            features = agent.world_model.observe(batch, Key(1, index)).states.features[:-1, 0]  # [T, F]
            cloned.append(agent.latent_action(features, "mode", Key(1, index)))
            own.append(torch.from_numpy(script))
            early.append(torch.arange(len(script)) < EARLY)
            before.append(torch.from_numpy(np.maximum.accumulate(episode.success)).logical_not())
    mode, script = torch.cat(cloned), torch.cat(own)  # [N, A]
    masks = {"early": torch.cat(early), "before": torch.cat(before)}
    masks["after"] = ~masks["before"]
    error = (mode - script).abs().mean(-1)
    found: dict[str, Any] = {name: float(error[mask].mean()) for name, mask in masks.items()}
    for name in ("early", "before"):
        found[f"{name}_r"] = [_correlation(mode[masks[name], k], script[masks[name], k]) for k in range(3)]
    return found


def _correlation(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((x, y)))[0, 1])


if __name__ == "__main__":
    main()
