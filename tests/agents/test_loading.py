"""A policy from a checkpoint acts as its agent does, on whatever arrays it is given, and says what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moto_pl
from moto_pl.agents.base import Agent
from moto_pl.agents.loading import load_agent, load_policy
from moto_pl.envs import make as make_env
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.rollout.policy import ActMode, ArraySpec
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes
from runs import AGENTS
from small_agents import make, save

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64, 3), np.uint8)  # 5 steps of 3 environments


def by_hand(agent: Agent, frames: np.ndarray, mode: ActMode, seed: int) -> list[np.ndarray]:
    """What the agent's own methods give for [T, n, 64, 64, 3]: [T, n, A]."""
    state, actions = agent.initial_state(frames.shape[1]), []
    for t, frame in enumerate(frames):
        image = torch.from_numpy(frame.transpose(0, 3, 1, 2).copy())
        first = torch.full((len(frame),), t == 0)
        action, state = agent.act(image, first, state, mode, Key(seed, 0).fold(t))
        state = agent.executed(state, action)
        actions.append(action.numpy())
    return actions


@pytest.mark.parametrize("mode", ["mode", "sample"])
@pytest.mark.parametrize("name", AGENTS)
def test_it_acts_as_its_agent_does(name: str, mode: ActMode, tmp_path: Path) -> None:
    agent = make(name)
    policy = moto_pl.load_policy(save(agent, tmp_path / "a.ckpt"), mode=mode, seed=3)
    expected = by_hand(agent, FRAMES, mode, 3)
    found = [policy.act({"image": frame, "not looked at": None}) for frame in FRAMES]  # type: ignore[dict-item]
    assert all(isinstance(action, np.ndarray) and action.dtype == np.float32 for action in found)
    np.testing.assert_array_equal(found, expected)
    assert np.ptp(expected, 0).max() > 0  # it looks at what it is shown


@pytest.mark.parametrize("name", ["MOTO", "BC"])
def test_one_environment_without_a_batch_and_tensors(name: str, tmp_path: Path) -> None:
    path = save(make(name), tmp_path / "a.ckpt")
    expected = by_hand(make(name), FRAMES[:, :1], "mode", 0)
    policy, tensors = moto_pl.load_policy(path), moto_pl.load_policy(str(path))
    for frame, action in zip(FRAMES[:, 0], expected, strict=True):
        alone = policy.act(frame)
        assert alone.shape == (2,)
        np.testing.assert_array_equal(alone, action[0])
        seen = torch.from_numpy(frame)
        other = tensors.act({"image": seen})
        assert isinstance(other, torch.Tensor) and torch.equal(other, torch.from_numpy(action[0]))
    mirrored = FRAMES[0, 0][:, ::-1]  # negative strides
    mirrored.setflags(write=False)
    policy.reset(), tensors.reset()
    policy._calls = tensors._calls = 0
    np.testing.assert_array_equal(policy.act(mirrored), tensors.act(torch.from_numpy(mirrored.copy())).numpy())


@pytest.mark.parametrize("name", ["MOTO", "BC"])
def test_reset_begins_anew_where_it_is_asked_to(name: str, tmp_path: Path) -> None:
    path = save(make(name), tmp_path / "a.ckpt")
    frames = np.repeat(FRAMES[:, :1], 2, 1)  # two environments that see the same
    policy, unbroken = moto_pl.load_policy(path, seed=1), moto_pl.load_policy(path, seed=1)
    for frame in frames[:3]:
        np.testing.assert_array_equal(policy.act(frame), unbroken.act(frame))
    policy.reset(np.array([False, True]))
    image = torch.from_numpy(frames[3].transpose(0, 3, 1, 2).copy())
    state = policy.state
    begun, _ = policy.agent.act(image, torch.tensor([False, True]), state, "mode", policy.key.fold(3))
    found, other = policy.act(frames[3]), unbroken.act(frames[3])
    np.testing.assert_array_equal(found, begun.numpy())
    np.testing.assert_array_equal(found[0], other[0])
    assert not np.array_equal(found[1], other[1])
    with pytest.raises(SettingError, match=r"which: found bool \(3,\)"):
        policy.reset(np.ones(3, bool))
    policy.reset()
    assert policy.act(frames[0][:1]).shape == (1, 2)  # of another number


def test_what_was_executed_is_heard(tmp_path: Path) -> None:
    path = save(make("MOTO"), tmp_path / "a.ckpt")
    one, other = moto_pl.load_policy(path), moto_pl.load_policy(path)
    with pytest.raises(SettingError, match="action: found one before"):
        one.executed(np.zeros(2, np.float32))
    asked = one.act(FRAMES[0, 0])
    np.testing.assert_array_equal(asked, other.act(FRAMES[0, 0]))
    other.executed(asked)
    np.testing.assert_array_equal(one.act(FRAMES[1, 0]), other.act(FRAMES[1, 0]))
    with pytest.raises(SettingError, match=r"action: found shape \(3,\)"):
        other.executed(np.zeros(3, np.float32))
    other.executed(-np.ones(2, np.float32))
    assert not np.array_equal(one.act(FRAMES[2, 0]), other.act(FRAMES[2, 0]))


@pytest.mark.parametrize("name", ["MOTO", "SAC"])
def test_evaluation_acts_with_it(name: str, tmp_path: Path) -> None:
    """An episode of our own loop is the one of ten lines around a loaded policy."""
    path = save(make(name), tmp_path / "a.ckpt")
    options: dict[str, Any] = {"episode_steps": 6}
    with EnvPool("moto_pl/Reach-v0", options, 0) as pool:
        (episode,) = roll_episodes(pool, load_agent(path), [3], "mode", Key(5, 0))
    policy = moto_pl.load_policy(path, seed=5)
    env = make_env("moto_pl/Reach-v0", **options)
    observation, _ = env.reset(seed=3)
    for t in range(6):
        action = policy.act(observation)
        np.testing.assert_array_equal(action, episode.action[t])
        observation, *_ = env.step(action)


def test_the_averaged_weights_act(tmp_path: Path) -> None:
    agent, average = make("BC"), make("BC", seed=1)
    trained = {name: parameter for name, parameter in average.named_parameters() if parameter.requires_grad}
    path = save(agent, tmp_path / "a.ckpt", average=trained)
    np.testing.assert_array_equal(moto_pl.load_policy(path).act(FRAMES[0]), by_hand(average, FRAMES[:1], "mode", 0)[0])


def test_the_package_has_no_other_name() -> None:
    assert moto_pl.load_policy is load_policy  # imported when it is asked for; tests/envs looks at what that costs
    with pytest.raises(AttributeError, match="load_policies"):
        getattr(moto_pl, "load_policies")  # noqa: B009


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (FRAMES[0, 0].astype(np.float32), "'image' as float32 (64, 64, 3)"),
        (FRAMES[0, 0].transpose(2, 0, 1), "'image' as uint8 (3, 64, 64)"),
        (np.zeros((84, 84, 3), np.uint8), "'image' as uint8 (84, 84, 3)"),
        (np.zeros((0, 64, 64, 3), np.uint8), "(0, 64, 64, 3)"),
        (FRAMES, "(5, 3, 64, 64, 3)"),
        (FRAMES[0, 0].tolist(), "'image' as list"),
        ({"front": FRAMES[0, 0]}, "'front', and no 'image'"),
        ({}, "nothing, and no 'image'"),
        (FRAMES[0, :2], "2 at once, after 3"),
    ],
)
def test_an_observation_that_does_not_fit_is_one_line(observation: Any, said: str, tmp_path: Path) -> None:
    policy = moto_pl.load_policy(save(make("BC"), tmp_path / "a.ckpt"))
    before = policy.act(FRAMES[0])
    with pytest.raises(SettingError) as raised:
        policy.act(observation)
    assert raised.value.setting == "observation" and said in str(raised.value) and "\n" not in str(raised.value)
    assert policy.act(FRAMES[1]).shape == before.shape  # and it goes on


def test_several_arrays_are_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = moto_pl.load_policy(save(make("BC"), tmp_path / "a.ckpt"))
    two = {"image": ArraySpec((64, 64, 3), "uint8"), "state": ArraySpec((4,), "float32")}
    monkeypatch.setattr(Agent, "observes", two)
    state = np.zeros((3, 4), np.float32)
    for observation, said in (
        (FRAMES[0], "one uint8"),
        ({"image": FRAMES[0]}, "no 'state'"),
        ({"image": FRAMES[0], "state": state[:2]}, "'image' of 3, 'state' of 2"),
        ({"image": FRAMES[0], "state": state[0]}, "'image' of 3, 'state' of one"),
    ):
        with pytest.raises(SettingError, match=said):
            policy.act(observation)


def test_a_checkpoint_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = save(make("BC"), tmp_path / "a.ckpt")
    truncated = tmp_path / "truncated.ckpt"
    truncated.write_bytes(path.read_bytes()[:-2000])
    other = save(make("BC"), tmp_path / "other.ckpt", agent={"class_path": "os.system", "init_args": {}})
    unfit = save(make("SAC"), tmp_path / "unfit.ckpt", agent=make("BC").description())
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    for file in (truncated, other, unfit, tmp_path / "bare.ckpt", tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(SettingError) as raised:
            moto_pl.load_policy(file)
        assert raised.value.setting == "checkpoint" and "\n" not in str(raised.value), file
    for arguments, setting in (
        ({"mode": "best"}, "mode"),
        ({"device": "gpu"}, "device"),
        ({"device": "meta:x"}, "device"),
    ):
        with pytest.raises(SettingError) as raised:
            moto_pl.load_policy(path, **arguments)  # type: ignore[arg-type]
        assert raised.value.setting == setting
