"""Datasets of kitchen states as others publish them, recorded here from the simulator as it is shipped."""

from __future__ import annotations

import struct
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage


def record_states(episodes: int = 2, steps: int = 8, seed: int = 0, noise: float = 0.01) -> list[dict[str, np.ndarray]]:
    """Episodes of FrankaKitchen-v1: its observations [T + 1, 59], positions, velocities, controls and actions."""
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    env = gym.make(
        "FrankaKitchen-v1",
        disable_env_checker=True,
        remove_task_when_completed=False,
        terminate_on_tasks_completed=False,
        robot_noise_ratio=noise,
        object_noise_ratio=noise / 20,
    )
    data = env.unwrapped.data  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    recorded = []
    for index in range(episodes):
        observation = env.reset(seed=seed + index)[0]["observation"]
        rows: dict[str, list[np.ndarray]] = {"observation": [], "position": [], "velocity": [], "control": []}
        actions = []
        for step in range(steps + 1):
            rows["observation"].append(observation)
            rows["position"].append(data.qpos.copy())
            rows["velocity"].append(data.qvel.copy())
            action = rng.uniform(-0.6, 0.6, 9)
            if step < steps:
                actions.append(action)
                observation = env.step(action)[0]["observation"]
            rows["control"].append(data.ctrl.copy())  # what this step asked for; the last row repeats
        recorded.append({**{key: np.stack(value) for key, value in rows.items()}, "action": np.stack(actions)})
    env.close()
    return recorded


def with_in_place(episode: dict[str, np.ndarray], name: str, step: int) -> dict[str, np.ndarray]:
    """The episode with an object put into place from ``step`` on, whatever the arm did."""
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env

    changed = {key: value.copy() for key, value in episode.items()}
    at, goal = kitchen_env.OBS_ELEMENT_INDICES[name], kitchen_env.OBS_ELEMENT_GOALS[name]
    changed["position"][step:, at] = goal
    changed["observation"][step:, at + 9] = goal  # after the robot's nine velocities
    return changed


def write_minari(path: Path, episodes: list[dict[str, np.ndarray]], dataset_id: str, flat: bool = False) -> Path:
    """Minari's own layout of D4RL/kitchen/*-v2, or with ``flat`` the 60 numbers of the first D4RL."""
    box = spaces.Box(-np.inf, np.inf, (60 if flat else 59,), np.float64)
    space = box if flat else spaces.Dict({"observation": box})
    path.mkdir(parents=True)
    storage = MinariStorage.new(path / "data", observation_space=space, action_space=spaces.Box(-1.0, 1.0, (9,)))
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        for index, episode in enumerate(episodes):
            steps = len(episode["action"])
            group = file.create_group(f"episode_{index}")
            group.attrs.update({"id": index, "total_steps": steps})
            if flat:
                group["observations"] = np.concatenate([episode["position"], np.zeros_like(episode["position"])], 1)
            else:
                group["observations/observation"] = episode["observation"]
            group["actions"] = episode["action"]
            group["rewards"] = np.full(steps, 9.0)  # of another task: must not be taken over
            group["terminations"] = np.zeros(steps, bool)
            group["truncations"] = np.arange(steps) == steps - 1
    total = sum(len(episode["action"]) for episode in episodes)
    storage.update_metadata({"dataset_id": dataset_id, "total_episodes": len(episodes), "total_steps": total})
    return path


def write_sequences(path: Path, episodes: list[dict[str, np.ndarray]]) -> Path:
    """States, actions and mask as three arrays, time first, padded with zeros."""
    path.mkdir(parents=True)
    longest = max(len(episode["position"]) for episode in episodes)
    states = np.zeros((longest, len(episodes), 60))
    actions = np.zeros((longest, len(episodes), 9))
    mask = np.zeros((longest, len(episodes)))
    for index, episode in enumerate(episodes):
        length = len(episode["position"])
        states[:length, index, :30] = episode["position"]
        actions[: length - 1, index] = episode["action"]
        mask[:length, index] = 1
    for name, array in (("observations", states), ("actions", actions)):
        np.save(path / f"{name}_seq.npy", array)
    np.save(path / "existence_mask.npy", mask)
    return path


def write_log(path: Path, episode: dict[str, np.ndarray]) -> Path:
    """A MuJoCo log with a record at each simulation step; those between the environment's steps repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(episode["position"])
    control = episode["control"]
    record = np.concatenate(
        [np.arange(count)[:, None] * 0.08, episode["position"], episode["velocity"], control], axis=1
    )
    name = b"kitchen"
    header = struct.pack("<7i", 30, 29, control.shape[1], 0, 0, 0, len(name)) + name
    path.write_bytes(header + np.repeat(record, 40, axis=0)[: 40 * (count - 1) + 1].astype("<f4").tobytes())
    return path
