"""Small trainings on the reaching task, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from moto_pl.agents import Agent
from moto_pl.data.collect import EVALUATION_SEEDS, roll_episodes
from moto_pl.envs.reach import ReachEnv
from moto_pl.envs.workers import EnvPool
from moto_pl.ops import Key
from moto_pl.replay import EpisodeSet, EpisodeStore, SequenceSampler
from moto_pl.replay.episode import Episode

STEPS = 20


def scripted(seed: int, act: Callable[[np.ndarray, np.random.Generator, int], np.ndarray]) -> Episode:
    """An episode of ``act(scripted action, generator, step)``."""
    env, rng = ReachEnv(episode_steps=STEPS), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    images, actions, rewards = [observation["image"]], [], []
    for t in range(STEPS):
        action = np.clip(act(env.scripted_action(), rng, t), -1, 1).astype(np.float32)
        observation, reward, *_ = env.step(action)
        images.append(observation["image"])
        actions.append(action)
        rewards.append(reward)
    reward = np.array(rewards, np.float32)
    return Episode(np.stack(images), np.stack(actions), reward, False, True, reward > 0, {}, {"seed": seed})


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


def train(agent: Agent, store: EpisodeStore, steps: int, updates_per_episode: int = 0) -> None:
    """Takes gradient steps; with ``updates_per_episode``, an episode is collected before each so many."""
    groups = [
        {"params": [p for module in group.modules for p in module.parameters()], "lr": group.lr}
        for group in agent.param_groups()
    ]
    optimizer = torch.optim.AdamW(groups, eps=agent.adam_eps, weight_decay=agent.weight_decay)
    pool = EnvPool("moto_pl/Reach-v0", {"episode_steps": STEPS}, 0, 60)
    sets: dict[str, EpisodeSet] = {}
    for step in range(steps):
        if updates_per_episode and step % updates_per_episode == 0:
            for episode in roll_episodes(pool, agent, [1000 + step], "sample", Key(0, step)):
                store.append(episode)
            sets = {}
        batch = {}
        for name, part in agent.parts().items():
            if name not in sets:
                sets[name] = EpisodeSet([(i, store[i].num_rows) for i in range(len(store))], part.length)
            sampler = SequenceSampler(store, 0, name)
            batch[name] = sampler.sample(step, 0, 1, part.size, part.length, sets[name], part.history)
        losses, _ = agent.losses(batch, Key(0, step))
        optimizer.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()
        agent.after_step(step + 1)
    pool.close()


def mean_return(agent: Agent, episodes: int = 20) -> float:
    """Of the policy's mode on the evaluation seeds."""
    pool = EnvPool("moto_pl/Reach-v0", {"episode_steps": STEPS}, 0, 60)
    rolled = [roll_episodes(pool, agent, [EVALUATION_SEEDS + i], "mode", Key(0, i))[0] for i in range(episodes)]
    pool.close()
    return float(np.mean([episode.total_reward for episode in rolled]))
