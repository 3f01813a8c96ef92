"""MOTO: its losses are what loops over single numbers come to."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_moto import KEY, LATENTS, batches, make, moved, sequences
from torch import Tensor, nn

from moto_pl.agents import MOTO
from moto_pl.agents.model_based import Starts
from moto_pl.ops import Imagined, Key, Stream, integers, uniform

# The losses against loops over single numbers.


def critic_value(net: nn.Module, n: int, x: Tensor) -> Tensor:
    """One critic on one vector."""
    for i, (kernel, bias) in enumerate(zip(net.kernels, net.biases, strict=True)):
        x = (nn.functional.elu(x) if i else x) @ kernel[n] + bias[n, 0]
    return x[0]


def state_value(net: nn.Module, x: Tensor) -> Tensor:
    first, last = net.linears
    return (nn.functional.elu(x @ first.weight.T + first.bias) @ last.weight.T + last.bias)[0]


def expected_q(agent: MOTO, starts: Starts, rollout: Imagined, drawn: int) -> tuple[float, float, Tensor]:
    """The critics' two losses as numbers, and the actor's loss with gradient, one element at a time."""
    config, critic, wm = agent.config, agent.critic, agent.world_model
    horizon, rows = config.horizon, rollout.deter.shape[1]
    lam, gamma = config.lambda_, config.gamma

    def s(i: int, b: int) -> Tensor:
        return torch.cat((rollout.deter[i, b], rollout.stoch[i, b]))

    def goes_on(x: Tensor) -> float:
        return 1.0 if wm.discount is None else wm.discount(x).sigmoid().item()

    model_loss, real_loss, valid, actor = 0.0, 0.0, 0.0, torch.zeros(())
    for b in range(rows):
        states = [s(i, b) for i in range(horizon)]
        inputs = [torch.cat((states[i], rollout.action[i, b])) for i in range(horizon)]
        rewards: list[Any] = [None]
        rewards += [
            wm.reward(states[i])[0] - config.disagreement_scale * rollout.disagreement[i - 1, b]
            for i in range(1, horizon)
        ]
        discount = [gamma * goes_on(x) for x in states]
        weight = [starts.goes_on[b].item()]  # nothing is earned after an episode's end
        for i in range(1, horizon):
            weight.append(weight[-1] * discount[i])

        def returns(q: list[Any], rewards: list[Any] = rewards, discount: list[float] = discount) -> list[Any]:
            g = [q[horizon - 1]]
            for i in range(horizon - 2, -1, -1):
                g.insert(0, rewards[i + 1] + discount[i + 1] * ((1 - lam) * q[i + 1] + lam * g[0]))
            return g

        target_q = [critic_value(critic.target, drawn, x).item() for x in inputs]
        target = [g if isinstance(g, float) else g.item() for g in returns(target_q)]
        for n in range(config.critics):
            for i in range(horizon - 1):
                error = critic_value(critic.online, n, inputs[i]).item() - target[i]
                model_loss += weight[i] * 0.5 * error**2 / (config.critics * (horizon - 1) * rows)
        if starts.valid[b]:
            valid += 1
            ahead = gamma * starts.goes_on[b].item()  # what the data says, not what the model predicts
            y = starts.reward[b].item() + ahead * ((1 - lam) * target_q[0] + lam * target[0])
            before = torch.cat((starts.previous.deter[b], starts.previous.stoch[b], starts.action[b]))
            for n in range(config.critics):
                real_loss += 0.5 * (critic_value(critic.online, n, before).item() - y) ** 2 / config.critics
        values = [torch.stack([critic_value(critic.online, n, x) for n in range(config.critics)]) for x in inputs]
        q = [{"min": v.min(), "mean": v.mean(), "max": v.max()}[config.actor_value] for v in values]
        for i, g in enumerate(returns(q)):
            gain = (1 - lam) * q[i] + lam * g + config.entropy_scale * rollout.entropy[i, b]
            actor = actor - weight[i] * gain / (horizon * rows)
    return model_loss, real_loss / valid, actor


@pytest.mark.parametrize("actor_value", ["min", "mean", "max"])
@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
@pytest.mark.parametrize("horizon", [2, 4])
def test_q_losses_against_loops(actor_value: str, latent: str, horizon: int) -> None:
    agent = make(
        {"latent": latent, "discount_head": latent == "gaussian"},
        actor_value=actor_value,
        horizon=horizon,
        clone_scale=0.0,
    )
    batch = {name: part for name, part in batches().items() if name != "clone"}
    starts = agent.draw_starts(batch["agent"], KEY)
    rollout = agent.imagine(starts.states, KEY)
    assert len(rollout.deter) == horizon and 0 < starts.valid.sum() < len(starts.valid)
    assert starts.goes_on.sum() == len(starts.goes_on) - 1
    drawn = int(integers(KEY.fold(5), Stream.TARGET, 3, (1,)))
    model_loss, real_loss, actor_loss = expected_q(agent, starts, rollout, drawn)
    losses, _ = agent.losses(batch, KEY)
    assert losses["critic/model"].item() == pytest.approx(model_loss, rel=1e-4)
    assert losses["critic/real"].item() == pytest.approx(real_loss, rel=1e-4)
    ours_actor = losses["actor/value"] + losses["actor/entropy_bonus"]
    assert ours_actor.item() == pytest.approx(actor_loss.item(), rel=1e-4)
    weights = list(agent.actor.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(ours_actor, weights), torch.autograd.grad(actor_loss, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    other = expected_q(agent, starts, rollout, (drawn + 1) % 3)[0]
    assert losses["critic/model"].item() != pytest.approx(other, rel=1e-3)


def test_every_target_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(imagine_rows=2, clone_scale=0.0)
    batch = batches()
    starts = agent.draw_starts(batch["agent"], KEY)
    rollout = agent.imagine(starts.states, KEY)
    candidates = [expected_q(agent, starts, rollout, n)[0] for n in range(3)]
    # The rollout is held; the key of the targets' draw alone is another.
    monkeypatch.setattr(agent, "draw_starts", lambda *_: starts)
    monkeypatch.setattr(agent, "imagine", lambda *_: rollout)
    seen = set()
    for offset in range(20):
        losses, _ = agent.losses_of("behaviour", batch, Key(0, offset))
        distance = [abs(losses["critic/model"].item() - value) for value in candidates]
        assert min(distance) < 1e-4 * max(candidates)
        seen.add(int(np.argmin(distance)))
    assert seen == {0, 1, 2}


@LATENTS
def test_v_losses_against_loops(latent: str) -> None:
    agent = make({"latent": latent, "discount_head": latent == "gaussian"}, critic="v", horizon=3, clone_scale=0.0)
    config, wm = agent.config, agent.world_model
    batch = {name: part for name, part in batches().items() if name != "clone"}
    starts = agent.draw_starts(batch["agent"], KEY)
    rollout = agent.imagine(starts.states, KEY)
    assert len(rollout.deter) == 3 + 1 and starts.goes_on.sum() == len(starts.goes_on) - 1
    rows = rollout.deter.shape[1]
    critic_loss, actor = 0.0, torch.zeros(())
    for b in range(rows):
        states = [torch.cat((rollout.deter[i, b], rollout.stoch[i, b])) for i in range(4)]
        goes_on = [1.0 if wm.discount is None else wm.discount(x).sigmoid().item() for x in states]
        value = [state_value(agent.critic.target, x) for x in states]
        running, returns = value[3], []
        for i in (2, 1, 0):
            reward = wm.reward(states[i + 1])[0] - config.disagreement_scale * rollout.disagreement[i, b]
            mixed = (1 - config.lambda_) * value[i + 1] + config.lambda_ * running
            running = reward + config.gamma * goes_on[i + 1] * mixed
            returns.insert(0, running)
        weight = starts.goes_on[b].item()
        for i in range(3):
            error = state_value(agent.critic.online, states[i]).item() - returns[i].item()
            critic_loss += weight * 0.5 * error**2 / (3 * rows)
            actor = actor - weight * (returns[i] + config.entropy_scale * rollout.entropy[i, b]) / (3 * rows)
            weight *= config.gamma * goes_on[i + 1]
    losses, _ = agent.losses(batch, KEY)
    assert losses["critic/model"].item() == pytest.approx(critic_loss, rel=1e-4)
    ours_actor = losses["actor/value"] + losses["actor/entropy_bonus"]
    assert ours_actor.item() == pytest.approx(actor.item(), rel=1e-4)
    weights = list(agent.actor.parameters())
    for ours, theirs in zip(torch.autograd.grad(ours_actor, weights), torch.autograd.grad(actor, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


# Cloning.


@LATENTS
@pytest.mark.parametrize("action", ["trunc_normal", "tanh_normal"])
def test_clone_loss_against_loops(latent: str, action: str) -> None:
    agent = make({"latent": latent}, action=action)
    batch = sequences(seed=3)
    states = agent.world_model.observe(batch, KEY.fold(2)).states
    total = 0.0
    for b in range(3):
        for t in range(4):
            dist = agent.actor.dist(torch.cat((states.deter[t, b], states.stoch[t, b])))
            total += dist.log_prob(batch.action[b, t + 1]).item() / 12  # the action taken in state t led to row t + 1
    loss, _ = agent._clone_loss(batch, KEY)
    assert loss.item() == pytest.approx(-total, rel=1e-4)
    assert agent.losses(batches(), KEY)[0]["actor/clone"].item() == pytest.approx(2 * loss.item(), rel=1e-6)


def test_advantage_filter_against_loops() -> None:
    agent = make(clone_filter="advantage")
    config, batch = agent.config, sequences(4, 6, seed=3)
    batch.is_terminal[0, 3] = True  # a value behind an end counts for nothing
    states = agent.world_model.observe(batch, KEY.fold(2)).states
    features = states.features[:-1].detach()
    found = agent._advantage_mask(batch, features, KEY)
    assert found.shape == (5, 4) and 0 < found.sum() < 20 and not found.requires_grad
    noise = uniform(KEY.fold(2), Stream.ACTION, (5, 4, 2))
    for b in range(4):
        q = []
        for t in range(5):
            action = agent.actor.dist(features[t, b]).sample(noise[t, b])
            x = torch.cat((features[t, b], action))
            q.append(sum(critic_value(agent.critic.online, n, x).item() for n in range(3)) / 3)
        running = q[4]
        assert found[4, b] == 0
        for t in (3, 2, 1, 0):
            goes_on = 1 - float(batch.is_terminal[b, t + 1])
            mixed = (1 - config.lambda_) * q[t + 1] + config.lambda_ * running
            running = batch.reward[b, t + 1].item() + config.gamma * goes_on * mixed
            assert found[t, b].item() == (running >= q[t])
    # What is cloned is the mean over the kept steps.
    log_prob = agent.actor.dist(features).log_prob(batch.action.transpose(0, 1)[1:])
    loss, metrics = agent._clone_loss(batch, KEY)
    assert loss.item() == pytest.approx(-log_prob[found.bool()].mean().item(), rel=1e-4)
    assert metrics["actor/clone_share"].item() == pytest.approx(found.mean().item())


def test_advantage_filter_that_keeps_nothing() -> None:
    agent, batch = make(clone_filter="advantage"), sequences(seed=3)
    loss, _ = agent._clone_loss(batch._replace(reward=batch.reward - 1000), KEY)
    assert loss.item() == 0
    loss.backward()
    assert not moved(agent.actor)
    _, metrics = agent._clone_loss(batch._replace(reward=batch.reward + 1000), KEY)
    assert metrics["actor/clone_share"].item() == pytest.approx(3 / 4)  # all but the last step
