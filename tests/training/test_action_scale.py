"""Datasets whose actions are not in [-1, 1]: scaled on the way in, and back on the way to the environment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from minari.serialization import serialize_space
from test_datamodule import StraightLine, fake_trainer

from moto_pl.agents import BC
from moto_pl.agents.description import scale_of
from moto_pl.analysis.episodes import load_episodes
from moto_pl.callbacks.collect import CollectEpisodes
from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeStore
from moto_pl.training.datamodule import OfflineToOnlineDataModule
from moto_pl.training.ingest import MARKER, action_scale

WIDE = "misbehaving:moto_pl_test/Wide-v0"
SCALE = ActionScale((-2.0, 0.0), (6.0, 0.5))


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasets") / "reach"
    return build("reach", output=str(path), episodes=4, noise=0.3).path


def wide(reach: Path, path: Path, bounded: bool = True) -> Path:
    """The same episodes in the numbers of the wide environment."""
    shutil.copytree(reach, path)
    low, high = (np.array(bound, np.float32) for bound in (SCALE.low, SCALE.high))
    space = gym.spaces.Box(low, high) if bounded else gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    metadata = path / "data/metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "action_space": serialize_space(space)}))
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        for group in file.values():
            group["actions"][:] = SCALE.to_environment(group["actions"][:])
    return path


def make(root: Path, dataset: Path, env: str = WIDE, **options: Any) -> tuple[OfflineToOnlineDataModule, BC]:
    settings = {"offline_steps": 2, "offline_round_steps": 2, "online_steps": 2, "updates_per_episode": 1}
    data = OfflineToOnlineDataModule(env, str(dataset), env_workers=0, **settings, **options)  # type: ignore[arg-type]
    trainer = data.trainer = fake_trainer(root, StraightLine())
    trainer.datamodule, trainer.callbacks = data, data.callbacks()
    data.prepare_data()
    data.setup("fit")
    agent = BC()
    (collect,) = (c for c in trainer.callbacks if isinstance(c, CollectEpisodes))
    try:
        collect.setup(trainer, agent, "fit")
    finally:
        collect.teardown(trainer, agent, "fit")
    agent.configure_model()
    return data, agent


def test_actions_are_scaled_to_their_box(reach: Path, tmp_path: Path) -> None:
    data, agent = make(tmp_path / "run", wide(reach, tmp_path / "wide"))
    plain = open_dataset(reach)
    for i in range(4):
        np.testing.assert_allclose(data.store[i].action, plain[i].action, atol=1e-6)
    assert agent.action_scale == SCALE == data.demonstrated_scale
    assert scale_of(json.loads(json.dumps(agent.description()))) == SCALE


def test_what_is_in_minus_one_to_one_stays_to_the_bit(reach: Path, tmp_path: Path) -> None:
    data, agent = make(tmp_path / "run", reach, "moto_pl/Reach-v0")
    assert np.array_equal(data.store[2].action, open_dataset(reach)[2].action)
    assert agent.action_scale is None and agent.description()["action_scale"] is None
    assert set(json.loads((tmp_path / "run/replay" / MARKER).read_text())) == {
        *("dataset", "val_episodes", "fingerprint", "episodes", "longest")
    }


def test_percentiles_of_a_box_without_bounds(reach: Path, tmp_path: Path) -> None:
    source = wide(reach, tmp_path / "wide", bounded=False)
    with h5py.File(source / "data/main_data.hdf5", "a") as file:
        file["episode_1/actions"][4, 0] = 1e4  # an odd one
        own = np.concatenate([file[f"episode_{i}/actions"][:] for i in range(4)])
    data, agent = make(tmp_path / "run", source, action_scale="percentile", env_options={"bounded": False})
    expected = np.percentile(own.astype(float), (1, 99), axis=0)
    found = data.demonstrated_scale
    assert found is not None and agent.action_scale == found
    np.testing.assert_allclose((found.low, found.high), expected)
    assert data.store[1].action[4, 0] == 1.0 and np.abs(data.store[1].action).max() <= 1
    inside = data.store[0].action
    np.testing.assert_allclose(found.to_environment(inside), np.clip(own[: len(inside)], *expected), atol=1e-5)


def test_what_does_not_fit_is_a_line(reach: Path, tmp_path: Path) -> None:
    source, free = wide(reach, tmp_path / "wide"), wide(reach, tmp_path / "free", bounded=False)
    other = r"data\.action_scale: found bounds: \[-1, 1\] of moto_pl/Reach-v0, and \[-2, 0\] to \[6, 0\.5\] of"
    with pytest.raises(SettingError, match=other):
        make(tmp_path / "a", source, "moto_pl/Reach-v0")
    with pytest.raises(SettingError, match=r"found bounds: \[-2, 0\] to .* of .*Wide-v0, and \[-1, 1\]"):
        make(tmp_path / "b", reach)
    with pytest.raises(SettingError, match=r"the action .* in their Box .*data\.action_scale: percentile"):
        make(tmp_path / "c", free)
    assert not (tmp_path / "c/replay/000000.safetensors").exists()
    with pytest.raises(SettingError, match=r"data\.action_scale: found percentile. Name the dataset"):
        OfflineToOnlineDataModule(WIDE, offline_steps=0, action_scale="percentile")
    make(tmp_path / "d", source)
    with pytest.raises(SettingError, match=r"data\.dataset: .*another trainer.default_root_dir"):
        make(tmp_path / "d", source, action_scale="percentile")


def test_a_scale_that_cannot_be_read(reach: Path, tmp_path: Path) -> None:
    make(tmp_path, reach, "moto_pl/Reach-v0")
    marker = tmp_path / "replay" / MARKER
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "action_scale": {"low": [2.0], "high": [1.0]}}))
    with pytest.raises(SettingError, match=r"dataset\.json: found a damaged file"):
        action_scale(tmp_path / "replay")
    assert len(EpisodeStore(tmp_path / "replay")) == 4


def test_analyses_read_a_dataset_as_the_agent_sees_it(reach: Path, tmp_path: Path) -> None:
    source = wide(reach, tmp_path / "wide")
    agent = BC()
    agent.action_scale = ActionScale((-1.0, 0.0), (2.0, 0.5))
    found, plain = load_episodes(str(source), 1, agent=agent)[0], open_dataset(reach)[0]
    own = SCALE.to_environment(plain.action)
    np.testing.assert_allclose(found.action, np.clip(agent.action_scale.to_policy(own), -1, 1), atol=1e-6)
    assert found.vector is None and np.abs(found.action[:, 0]).max() == 1
    hand = build("reach", output=str(tmp_path / "hand"), episodes=1, observe=["image", "hand"]).path
    agent = BC()
    agent.observation = Observation(("image",), {"hand": 2}, (0.0, 0.0), (1.0, 1.0))
    (episode,) = load_episodes(str(hand), 1, agent=agent)
    assert episode.vector is not None and episode.vector.shape == (episode.length + 1, 2)
