"""Small trainings on the reaching task, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from moto_pl.agents import Agent, BatchPart
from moto_pl.agents.base import RunFacts
from moto_pl.agents.latent_replay import LatentReplayAgent
from moto_pl.envs.reach import ReachEnv
from moto_pl.ops import Key
from moto_pl.replay import EpisodeSet, EpisodeStore, SequenceSampler
from moto_pl.replay.episode import Episode
from moto_pl.replay.latents import whole_episodes
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import EVALUATION_SEEDS, roll_episodes
from moto_pl.schedule import Schedule

STEPS = 20
#: A hand anywhere, a goal in the middle, paid by how near it is: what can be learned from pixels in a minute.
OPTIONS: dict[str, Any] = {"episode_steps": STEPS, "goal": "centre", "reward": "dense", "hand_radius": 0.3}
REPLAY_EVERY = 25  # gradient steps between LOMPO's and COMBO's replays
_ID = "moto_pl/Reach-v0"

Act = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def expert(action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Straight to the goal."""
    return action


def aimless(action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Anywhere."""
    return rng.uniform(-1, 1, 2)


def unsure(action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """To the goal or from it, decided at each step."""
    return action if rng.random() < 0.5 else -action


def scripted(seed: int, act: Act, noise: float = 0.0) -> Episode:
    """An episode of ``act(scripted action, generator)``, with noise on each action."""
    env, rng = ReachEnv(**OPTIONS), np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    images, actions, rewards, successes = [observation["image"]], [], [], []
    for _ in range(STEPS):
        wanted = act(env.scripted_action(), rng) + noise * rng.standard_normal(2)
        actions.append(np.clip(wanted, -1, 1).astype(np.float32))
        observation, reward, _, _, info = env.step(actions[-1])
        images.append(observation["image"])
        rewards.append(reward)
        successes.append(info["success"])
    reward, success = np.array(rewards, np.float32), np.array(successes)
    return Episode(np.stack(images), np.stack(actions), reward, False, True, success, {}, {"seed": seed})


def mixed(first: int, episodes: int, *acts: Act, noise: float = 0.3) -> list[Episode]:
    """Episodes that take turns at these ways to act."""
    return [scripted(first + i, acts[i % len(acts)], noise) for i in range(episodes)]


def returns(episodes: list[Episode]) -> np.ndarray:
    """Of each episode."""
    return np.array([episode.total_reward for episode in episodes])


def fill(root: Path, episodes: list[Episode]) -> EpisodeStore:
    """A store that holds them."""
    store = EpisodeStore(root)
    for episode in episodes:
        store.append(episode)
    return store


def build(agent: Agent) -> Agent:
    """Its networks, from seed 0."""
    agent.action_size = 2
    torch.manual_seed(0)
    agent.build(2)
    return agent


def train(
    agent: Agent, store: EpisodeStore, steps: int, updates_per_episode: int = 0, model_steps: int = 0, begin: int = 0
) -> None:
    """Takes gradient steps ``begin`` to ``steps``.

    Args:
        agent: what learns.
        store: what from, and where to.
        steps: the last one.
        updates_per_episode: collects an episode before each so many steps; 0 collects none.
        model_steps: steps, from 0, in which the world model learns alone, as with ``data.pretrain: model_first``: what
            an actor makes of a model that knows nothing yet has to be unlearned. The rest train everything.
        begin: the first one.
    """
    schedule = Schedule(0, steps, 1, 1, 1, "model_first" if model_steps else "joint", model_steps)
    trainer: Any = SimpleNamespace(world_size=1)
    agent._trainer = trainer
    agent.meet(RunFacts(2, False, schedule))
    made: Any = agent.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made  # the learning rates stay as they are
    pool = EnvPool(_ID, OPTIONS, 0, 60)
    sets: dict[str, EpisodeSet] = {}
    encoded = 0
    for step in range(begin, steps):
        if updates_per_episode and step % updates_per_episode == 0:
            for episode in roll_episodes(pool, agent, [1000 + step], "sample", Key(0, step)):
                store.append(episode)
            sets = {}
        parts, trains = agent.parts(), schedule.trains(step)
        if isinstance(agent, LatentReplayAgent) and trains != "model" and step % REPLAY_EVERY == 0:
            part = replace(parts["model"], size=agent.batch.replay_size)
            sequences = _draw(store, "replay", part, step, sets)
            if agent.config.replay == "fresh":
                agent.refresh_replay(sequences, Key(1, step))
            else:
                agent.extend_replay(whole_episodes(store, encoded, 800), sequences, Key(1, step))
                encoded = len(store)
        batch = {name: _draw(store, name, part, step, sets) for name, part in parts.items()}
        losses, _ = agent.losses_of(trains, batch, Key(0, step))
        optimizer.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()
        if trains != "model":
            agent.after_step(schedule.steps_of("behaviour", step + 1))
    pool.close()


def _draw(store: EpisodeStore, name: str, part: BatchPart, step: int, sets: dict[str, EpisodeSet]) -> SequenceBatch:
    if name not in sets:
        sets[name] = EpisodeSet([(i, store[i].num_rows) for i in range(len(store))], part.length)
    return SequenceSampler(store, 0, name).sample(step, 0, 1, part.size, part.length, sets[name], part.history)


def mean_return(agent: Agent, episodes: int = 20) -> float:
    """Of the policy's mode on the evaluation seeds."""
    pool = EnvPool(_ID, OPTIONS, 0, 60)
    rolled = [roll_episodes(pool, agent, [EVALUATION_SEEDS + i], "mode", Key(0, i))[0] for i in range(episodes)]
    pool.close()
    return float(returns(rolled).mean())
