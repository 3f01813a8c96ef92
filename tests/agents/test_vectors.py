"""Agents that see state vectors beside frames: stacks, acting, what a checkpoint says, and that they help to learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import build, expert, fill, mean_return, mixed, train
from pixel_agents import batch, tiny

from moto_pl.agents import BC, COMBO, CQL, IQL, LOMPO, MOTO, SAC, Agent, DreamerV2
from moto_pl.agents.description import check_same_agent, observation_of, plain
from moto_pl.agents.loading import load_agent
from moto_pl.agents.model_free import PixelConfig, TDConfig
from moto_pl.agents.settings import LatentModelConfig
from moto_pl.envs.observation import Observation, ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.nn import WorldModelConfig
from moto_pl.nn.image import Stacked
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes

HAND = Observation(("image",), {"hand": 2}, (0.25, -0.5), (0.5, 2.0))
SIZES: dict[str, Any] = {
    **{"deter": 8, "hidden": 8, "stoch": 2, "ensemble": 2, "encoder_channels": (2, 2, 2, 2)},
    **{"decoder_channels": (2, 2, 2), "mlp_layers": 0, "head_layers": 1, "head_units": 8},
}


def model_based(kind: Any, observation: Observation = HAND) -> Agent:
    latent = kind in (LOMPO, COMBO)
    config = LatentModelConfig(**SIZES) if latent else WorldModelConfig(classes=4, **SIZES)
    agent: Agent = kind(config)
    agent.observation = observation
    return build(agent)


def make(kind: Any, observation: Observation = HAND) -> Agent:
    return tiny(kind, observation=observation) if kind in (BC, SAC, CQL, IQL) else model_based(kind, observation)


ALL = [MOTO, DreamerV2, LOMPO, COMBO, BC, SAC, CQL, IQL]


def test_a_transition_stacks_vectors_as_it_stacks_frames() -> None:
    rows = batch(vector=2)
    data, vector = tiny(BC, observation=HAND).transitions(rows, Key(0, 0)), rows["transitions"].vector
    assert isinstance(data.image, Stacked) and isinstance(data.next_image, Stacked) and vector is not None
    assert torch.equal(data.image.vector, torch.cat((vector[:, 0], vector[:, 1]), 1))
    assert torch.equal(data.next_image.vector, torch.cat((vector[:, 1], vector[:, 2]), 1))
    assert torch.equal(data.image.image, tiny(BC).transitions(batch(), Key(0, 0)).image)


def test_an_encoder_normalises_each_vector_of_the_stack() -> None:
    agent = tiny(BC, observation=HAND, pixels={"vector_layers": 0})
    data = agent.transitions(batch(vector=2), Key(0, 0))
    assert isinstance(data.image, Stacked)
    found = agent.encoder(data.image)[:, -4:]
    expected = (data.image.vector - torch.tensor(HAND.mean * 2)) / torch.tensor(HAND.std * 2)
    torch.testing.assert_close(found, expected)
    assert torch.equal(agent.encoder(data.image)[:, :-4], tiny(BC).encoder(data.image.image))


@pytest.mark.parametrize("kind", [BC, SAC, CQL, IQL])
def test_every_network_of_a_model_free_agent_reads_the_vectors(kind: Any) -> None:
    agent = tiny(kind, observation=HAND)
    losses, _ = agent.losses(batch(vector=2), Key(0, 0))
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    read = [name for name, p in agent.named_parameters() if ".vectors.mlp." in name and p.requires_grad]
    assert len(read) >= 4
    for name in read:
        grad = agent.get_parameter(name).grad
        assert grad is not None and grad.abs().sum() > 0, name
    covered = {id(p) for group in agent.param_groups() for module in group.modules for p in module.parameters()}
    assert {id(agent.get_parameter(name)) for name in read} <= covered


@pytest.mark.parametrize("kind", ALL)
def test_acting_depends_on_the_vectors(kind: Any) -> None:
    agent = make(kind)
    image, first = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.ones(2, dtype=torch.bool)
    vectors = [torch.tensor([[x, 0.0], [3.0, 0.0]]) for x in (-9.0, 9.0)]
    (one, state), (other, _) = (agent.act(image, first, agent.initial_state(2), "mode", Key(0, 1), v) for v in vectors)
    assert not torch.equal(one[0], other[0]) and torch.allclose(one[1], other[1], atol=1e-6)
    again, _ = agent.act(image, ~first, state, "mode", Key(0, 2), vectors[0])
    assert again.shape == (2, 2)


@pytest.mark.parametrize("kind", [BC, SAC, CQL, IQL])
def test_acting_stacks_vectors_and_begins_anew(kind: Any) -> None:
    agent = tiny(kind, observation=HAND, frame_stack=2)
    state: Any = agent.initial_state(2)
    seen = []
    for t, first in enumerate(([True, True], [False, True], [False, False])):
        image = torch.full((2, 3, 64, 64), t, dtype=torch.uint8)
        vector = torch.tensor([[t, 10.0 + t]] * 2)
        _, state = agent.act(image, torch.tensor(first), state, "mode", Key(0, t), vector)
        seen.append((state.image[:, ::3, 0, 0].tolist(), state.vector[:, ::2].tolist()))
        assert torch.equal(state.vector[:, 1::2], 10 + state.vector[:, ::2])
    assert [image for image, _ in seen] == [[[0, 0]] * 2, [[0, 1], [1, 1]], [[1, 2]] * 2]
    assert all(image == vector for image, vector in seen)


@pytest.mark.parametrize("kind", [MOTO, BC, SAC])
def test_what_it_learns_from_is_what_it_acts_on(kind: Any) -> None:
    """An episode that it rolled, seen as a batch: the features of its steps are those that it acted on."""
    wanted = ObservationConfig(state=("hand",))
    agent = make(kind)
    told: list[torch.Tensor] = []
    act = agent.act

    def listening(image: Any, is_first: Any, state: Any, mode: Any, key: Any, vector: Any) -> Any:
        told.append(vector)
        return act(image, is_first, state, mode, key, vector)

    agent.act = listening  # type: ignore[method-assign]
    with EnvPool("moto_pl/Reach-v0", {"episode_steps": 4}, 0, wanted=wanted) as pool:
        (episode,) = roll_episodes(pool, agent, [3], "sample", Key(0, 1))
    assert episode.vector is not None and episode.vector.shape == (5, 2)
    assert np.array_equal(torch.cat(told).numpy(), episode.vector[:-1])


@pytest.mark.parametrize("kind", ALL)
def test_a_checkpoint_says_what_was_seen(kind: Any, tmp_path: Path) -> None:
    agent = make(kind)
    saved = {"state_dict": agent.state_dict(), "agent": agent.description(), "average": {}, "global_step": 7}
    torch.save(saved, tmp_path / "a.ckpt")
    loaded = load_agent(tmp_path / "a.ckpt")
    assert loaded.observation == HAND and loaded.state_dict().keys() == agent.state_dict().keys()
    assert any("vector" in name for name in agent.state_dict())
    check_same_agent(agent.description(), loaded.description())


def test_a_checkpoint_of_before_is_one_of_the_image_alone() -> None:
    agent = make(MOTO, Observation())
    before = {name: value for name, value in agent.description().items() if name != "observation"}
    for name in ("vector_layers", "vector_units", "vector_scale"):
        del before["init_args"]["world_model"][name]
    assert observation_of(before) == Observation()
    check_same_agent(before, agent.description())
    with pytest.raises(
        SettingError, match=r"data\.observation: found image, hand \[2\], where .* sees image\. Restore"
    ):
        check_same_agent(before, make(MOTO).description())


def test_statistics_come_from_the_checkpoint() -> None:
    """A run that is evaluated elsewhere has no demonstrations to take them from."""
    agent = make(MOTO, Observation.of(HAND.config, HAND.state))
    agent.adopt({"observation": plain(HAND)})
    assert agent.observation == HAND
    agent.adopt({"observation": plain(Observation())})
    assert agent.observation == HAND


@pytest.mark.parametrize("wrong", [{"mean": [0.0]}, {"state": {"hand": "x"}}, {"cameras": None}, {"std": [0.0, 1.0]}])
def test_a_checkpoint_that_says_nothing_sensible(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="ckpt_path: found a checkpoint with"):
        observation_of({"observation": {**plain(HAND), **wrong}})


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_vectors_an_agent_needs_fewer_steps(seed: int, tmp_path: Path) -> None:
    """The goal stays where it is, so that the hand's position says what to do; pixels take longer to say the same."""
    episodes = mixed(100 * seed, 20, expert, hand=True)
    rows = np.concatenate([episode.vector for episode in episodes if episode.vector is not None])
    known = Observation(("image",), {"hand": 2}, tuple(rows.mean(0).tolist()), tuple(rows.std(0).tolist()))

    def learned(name: str, observation: Observation, seen: list[Episode], steps: int) -> float:
        agent = BC(PixelConfig(1, 4, (8, 16, 16, 16), units=64), TDConfig(batch_size=32, lr=1e-3))
        agent.observation = observation
        train(build(agent, seed), fill(tmp_path / name, seen), steps)
        return mean_return(agent, 10)

    frames = learned("frames", Observation(), [replace(episode, vector=None) for episode in episodes], 120)
    assert learned("vectors", known, episodes, 30) > frames + 0.4  # a quarter of the steps; standing still: 6.5
