"""LOMPO and COMBO: the latent replay, their terms, and what each loss moves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Normal

from moto_pl.agents import COMBO, LOMPO
from moto_pl.agents.combo import LatentConservatismConfig, soft_gap
from moto_pl.agents.latent_replay import (
    LatentBatchConfig,
    LatentBehaviourConfig,
    LatentModelConfig,
    LatentReplay,
    LatentReplayAgent,
    LatentTransitions,
)
from moto_pl.agents.lompo import PenaltyConfig
from moto_pl.errors import SettingError
from moto_pl.ops import Key, priors
from moto_pl.replay.sampler import SequenceBatch

AGENTS = (LOMPO, COMBO)


def tiny(kind: type[LatentReplayAgent] = LOMPO, **settings: Any) -> LatentReplayAgent:
    sizes = {"deter": 8, "hidden": 8, "stoch": 3, "ensemble": 2, "mlp_units": 8, "free_nats": 0.0}
    model = LatentModelConfig(**sizes, encoder_channels=(2, 2, 2, 2), decoder_channels=(2, 2, 2))
    behaviour = LatentBehaviourConfig(horizon=3, imagine_rows=4, critic_units=8, actor_units=8, tau=0.25)
    agent = kind(model, behaviour, LatentBatchConfig(2, 5, 6, 2), **settings)
    agent.action_size = 2
    torch.manual_seed(0)
    agent.build(2)
    return agent


def rows(size: int = 2, length: int = 5) -> SequenceBatch:
    """Random sequences; the second ends its episode."""
    generator = torch.Generator().manual_seed(1)
    shape = (size, length)
    first, terminal = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    first[0, 0] = terminal[1, -1] = True
    image = torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8, generator=generator)
    action = torch.rand(*shape, 2, generator=generator) * 2 - 1
    return SequenceBatch(image, action, torch.rand(shape, generator=generator), first, terminal)


def refreshed(kind: type[LatentReplayAgent] = LOMPO, **settings: Any) -> tuple[LatentReplayAgent, LatentReplay]:
    agent = tiny(kind, **settings)
    agent.refresh_replay(rows(), Key(0, 0))
    assert agent.replay is not None
    return agent, agent.replay


def test_real_half_holds_the_data() -> None:
    agent, (real, _) = refreshed()
    batch = rows()
    # Time comes first: step t of both sequences, then step t + 1.
    order = [(b, t) for t in range(4) for b in range(2)]
    assert len(real.reward) == 8
    for n, (b, t) in enumerate(order):
        assert torch.equal(real.action[n], batch.action[b, t + 1])
        assert real.reward[n] == batch.reward[b, t + 1]
        assert real.goes_on[n] == (0 if (b, t) == (1, 3) else 1)
        if t < 3:
            assert torch.equal(real.next_state[n], real.state[n + 2])
    assert len({tuple(state.tolist()) for state in real.state}) == 8


def test_a_pair_across_two_episodes_is_left_out() -> None:
    agent, batch = tiny(), rows()
    batch.is_first[0, 2] = True
    agent.refresh_replay(batch, Key(0, 0))
    assert agent.replay is not None and len(agent.replay.real.reward) == 7
    assert batch.reward[0, 2] not in agent.replay.real.reward


def test_imagined_half_follows_policy_and_model() -> None:
    agent, (real, imagined) = refreshed(penalty=PenaltyConfig(scale=2.0))
    model = agent.world_model
    assert len(imagined.reward) == 3 * 4
    assert torch.equal(imagined.next_state[:-4], imagined.state[4:])
    starts = torch.cat((real.state, real.next_state))
    for start in imagined.state[:4]:
        assert (starts == start).all(-1).any()
    with torch.no_grad():
        torch.testing.assert_close(imagined.action, torch.tanh(agent.actor(imagined.state)))
        deter, stoch = imagined.next_state.split((8, 3), -1)
        params = priors(deter, model.rssm.prior())  # [2, 12, 6]
        mean, raw = params.chunk(2, -1)
        log_prob = Normal(mean, 2 * torch.sigmoid(raw / 2) + 0.1).log_prob(stoch).sum(-1)
        spread = (log_prob[0] - log_prob[1]).abs() / 2  # population std of two
        expected = model.reward(imagined.next_state).squeeze(-1) - 2.0 * spread
    torch.testing.assert_close(imagined.reward, expected, rtol=1e-4, atol=1e-5)


def test_combo_takes_rewards_as_predicted() -> None:
    agent, (_, imagined) = refreshed(COMBO)
    with torch.no_grad():
        torch.testing.assert_close(imagined.reward, agent.world_model.reward(imagined.next_state).squeeze(-1))


def test_half_of_a_batch_is_real(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, (real, imagined) = refreshed(COMBO)
    seen: list[LatentTransitions] = []
    original = agent.conservative_losses

    def spy(data: LatentTransitions, q_real: torch.Tensor, key: Key) -> Any:
        seen.append(data)
        torch.testing.assert_close(q_real, agent.critic(data.state[:3], data.action[:3]))
        return original(data, q_real, key)

    monkeypatch.setattr(agent, "conservative_losses", spy)
    agent.losses({"model": rows()}, Key(0, 1))
    assert len(seen[0].reward) == 6
    for reward in seen[0].reward[:3]:
        assert reward in real.reward
    for reward in seen[0].reward[3:]:
        assert reward in imagined.reward


def test_temporal_difference_by_hand() -> None:
    agent, _ = refreshed()
    one = LatentTransitions(
        torch.rand(1, 11), torch.rand(1, 2), torch.tensor([2.0]), torch.tensor([0.5]), torch.rand(1, 11)
    )
    # Two rows, both of the same transition.
    losses, _ = agent.behaviour_losses(LatentReplay(one, one), 2, Key(0, 0))
    for parameter in agent.critic.target.parameters():
        parameter.data += 0.1  # the targets are not the critics
    losses, _ = agent.behaviour_losses(LatentReplay(one, one), 2, Key(0, 0))
    with torch.no_grad():
        after = torch.cat((one.next_state, torch.tanh(agent.actor(one.next_state))), -1)
        y = 2.0 + 0.99 * 0.5 * agent.critic.target(after).squeeze(-1).min()
        now = agent.critic.online(torch.cat((one.state, one.action), -1)).flatten()
        torch.testing.assert_close(losses["critic/td"], (now[0] - y) ** 2 + (now[1] - y) ** 2)
        own = torch.cat((one.state, torch.tanh(agent.actor(one.state))), -1)
        torch.testing.assert_close(losses["actor/value"], -agent.critic.online(own).min())


def test_combos_gap_by_hand() -> None:
    # Two critics, two actions, one state; two real transitions.
    q = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]])
    real = torch.tensor([[1.0, 2.0], [5.0, 7.0]])
    expected = (math.log(math.e + math.e**3) - 1.5) + (math.log(2) - 6.0)
    assert soft_gap(q, real).item() == pytest.approx(expected, rel=1e-6)


def test_combos_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = refreshed(COMBO, conservatism=LatentConservatismConfig(scale=3.0, actions=4))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("moto_pl.agents.combo.soft_gap", lambda q, real: seen.append(q) or q.sum())
    critic = agent.critic.forward
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(agent.critic, "forward", lambda s, a: asked.append(a) or critic(s, a))
    losses, _ = agent.losses({"model": rows()}, Key(0, 1))
    proposals = asked[-1]
    assert proposals.shape == (5, 6, 2) and seen[0].shape == (2, 5, 6)
    assert proposals[:4].min() < -0.5 and proposals[:4].max() > 0.5 and not proposals.requires_grad
    assert losses["critic/conservative"] == 3 * seen[0].sum()


@pytest.mark.parametrize("kind", AGENTS)
def test_what_each_loss_moves(kind: type[LatentReplayAgent]) -> None:
    agent, _ = refreshed(kind)
    losses, _ = agent.losses({"model": rows()}, Key(0, 1))
    assert ("critic/conservative" in losses) == (kind is COMBO)
    for name, loss in losses.items():
        agent.zero_grad()
        loss.backward(retain_graph=True)
        moved = {n.split(".")[0] for n, p in agent.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved == {{"model": "world_model"}.get(name.split("/")[0], name.split("/")[0])}, name


def test_targets_follow_slowly() -> None:
    agent = tiny()
    before = agent.critic.target.kernels[0].clone()
    agent.critic.online.kernels[0].data += 1
    agent.after_step(1)
    torch.testing.assert_close(agent.critic.target.kernels[0], before + 0.25)


def test_it_collects_with_noise_and_is_evaluated_without() -> None:
    agent = tiny()
    image, first = rows().image[:, 0], torch.ones(2, dtype=torch.bool)
    mode = [agent.act(image, first, agent.initial_state(2), "mode", Key(0, 5))[0] for _ in range(2)]
    sampled, state = agent.act(image, first, agent.initial_state(2), "sample", Key(0, 5))
    assert torch.equal(*mode) and not torch.equal(mode[0], sampled) and torch.equal(state.action, sampled)
    noise = []
    for i in range(100):
        action, state = agent.act(image, first, agent.initial_state(2), "sample", Key(0, 5).fold(i))
        clean = agent.policy(state.states.features).detach()  # the latent is drawn too
        noise.append((action - clean)[(clean.abs() < 0.4)])
    assert 0.15 < torch.cat(noise).std() < 0.25


def test_replay_is_in_the_checkpoint() -> None:
    agent, replay = refreshed()
    agent._replay_round = 7
    checkpoint: dict[str, Any] = {"global_step": 3}
    agent.on_save_checkpoint(checkpoint)
    other = tiny()
    other.on_load_checkpoint(checkpoint)
    assert other._replay_round == 7 and other.replay is not None
    for left, right in zip(other.replay, replay, strict=True):
        for a, b in zip(left, right, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: LatentModelConfig(latent="categorical"), "world_model.latent"),
        (lambda: LatentModelConfig(ensemble=0), "world_model.ensemble"),
        (lambda: LatentBehaviourConfig(horizon=0), "behaviour.horizon"),
        (lambda: LatentBehaviourConfig(tau=0), "behaviour.tau"),
        (lambda: LatentBehaviourConfig(noise=-0.1), "behaviour.noise"),
        (lambda: LatentBatchConfig(agent_size=1), "batch.agent_size"),
        (lambda: LatentBatchConfig(model_length=1), "batch.model_length"),
        (lambda: PenaltyConfig(scale=-1), "penalty.scale"),
        (lambda: LatentConservatismConfig(scale=-1), "conservatism.scale"),
    ],
)
def test_bad_settings(make: Any, setting: str) -> None:
    with pytest.raises(SettingError, match=f"^{setting}: "):
        make()
