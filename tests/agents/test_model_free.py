"""Frames, shifts, critics and acting: what the model-free agents share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pixel_agents import batch, moved_by, tiny

from moto_pl.agents import BC, CQL, IQL, SAC
from moto_pl.agents.bc import NormalConfig
from moto_pl.agents.cql import ConservatismConfig, conservative_gap
from moto_pl.agents.iql import AdvantageConfig, advantage_weight, expectile_loss
from moto_pl.agents.model_free import PixelConfig, TDConfig, td_loss
from moto_pl.agents.sac import EntropyConfig, temperature_loss
from moto_pl.errors import SettingError
from moto_pl.nn.gaussian import BoundedNormal, SquashedNormal
from moto_pl.nn.image import random_shift
from moto_pl.ops import Key

AGENTS = [BC, SAC, CQL, IQL]


def test_a_transition_is_two_stacks_of_frames() -> None:
    agent, rows = tiny(BC), batch()
    data = agent.transitions(rows, Key(0, 0))
    frames = rows["transitions"].image
    assert data.image.shape == data.next_image.shape == (5, 6, 64, 64)
    assert torch.equal(data.image, torch.cat((frames[:, 0], frames[:, 1]), 1))
    assert torch.equal(data.next_image, torch.cat((frames[:, 1], frames[:, 2]), 1))
    assert torch.equal(data.action, rows["transitions"].action[:, 2])
    assert torch.equal(data.reward, rows["transitions"].reward[:, 2])
    assert data.goes_on.tolist() == [1, 0, 1, 1, 1]


def test_the_sampler_reaches_an_episodes_first_steps() -> None:
    part = tiny(BC, frame_stack=3).parts()["transitions"]
    assert (part.length, part.history) == (4, 2)  # so that the last row may be the first step


@pytest.mark.parametrize("kind", AGENTS)
def test_acting_stacks_frames_and_begins_anew(kind: Any) -> None:
    agent = tiny(kind, frame_stack=3)
    frames = torch.arange(1, 5, dtype=torch.uint8)[:, None, None, None, None].expand(4, 2, 3, 64, 64).contiguous()
    state = agent.initial_state(2)
    seen = []
    for t, first in enumerate(([True, True], [False, False], [False, True], [False, False])):
        action, state = agent.act(frames[t], torch.tensor(first), state, "mode", Key(0, t))
        assert action.shape == (2, 2) and (action.abs() <= 1).all()
        seen.append(state[:, ::3, 0, 0].tolist())
    assert seen == [[[1, 1, 1]] * 2, [[1, 1, 2]] * 2, [[1, 2, 3], [3, 3, 3]], [[2, 3, 4], [3, 3, 4]]]
    sampled = [agent.act(frames[0], torch.ones(2, dtype=torch.bool), state, "sample", Key(0, k))[0] for k in (1, 1, 2)]
    assert torch.equal(sampled[0], sampled[1]) and not torch.equal(sampled[0], sampled[2])


def test_random_shift() -> None:
    image = torch.randint(0, 256, (40, 6, 9, 9), dtype=torch.uint8)
    shifted = random_shift(image, 2, Key(0, 3))
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge"))
    places = set()
    for before, after in zip(padded, shifted, strict=True):
        fits = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(before[:, y : y + 9, x : x + 9], after)
        ]  # all frames of a stack at one place
        assert fits
        places.add(fits[0])
    assert len(places) > 10
    assert torch.equal(shifted, random_shift(image, 2, Key(0, 3)))
    assert not torch.equal(shifted, random_shift(image, 2, Key(0, 4)))
    assert random_shift(image, 0, Key(0, 3)) is image


def test_both_observations_are_shifted_on_their_own() -> None:
    agent, rows = tiny(BC, shift=4), batch()
    data = agent.transitions(rows, Key(0, 0))
    frames = rows["transitions"].image
    assert not torch.equal(data.image, frames[:, :2].flatten(1, 2))
    # The frame that both hold lies at different places.
    assert not torch.equal(data.image[:, 3:], data.next_image[:, :3])


def test_targets_follow_slowly() -> None:
    agent = tiny(SAC)
    before = [p.clone() for p in agent.target.parameters()]
    assert not any(p.requires_grad for p in agent.target.parameters())
    with torch.no_grad():
        for p in agent.critic.parameters():
            p.add_(1)
    agent.after_step(1)
    for old, new in zip(before, agent.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)


def test_td_target_and_loss() -> None:
    agent, rows = tiny(SAC), batch()
    data = agent.transitions(rows, Key(0, 0))
    value = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    target = agent.td_target(data, value)
    reward = rows["transitions"].reward[:, -1].numpy()
    np.testing.assert_allclose(target.numpy(), reward + 0.9 * np.array([1, 0, 3, 4, 5]), rtol=1e-6)
    q = torch.tensor([[1.0, 0, 0, 0, 0], [2.0, 1, 1, 1, 1]])
    wanted = sum(np.mean((row - target.numpy()) ** 2) for row in q.numpy())
    assert td_loss(q, target).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_step_is_a_function_of_its_key(kind: Any) -> None:
    agent, rows = tiny(kind, shift=2), batch()
    first, second = (agent.losses(rows, Key(0, 7))[0] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", AGENTS)
def test_every_parameter_is_in_one_group(kind: Any) -> None:
    agent = tiny(kind)
    grouped = [p for group in agent.param_groups() for module in group.modules for p in module.parameters()]
    trainable = [p for p in agent.parameters() if p.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, trainable))


# Which parameters each loss moves.


_CRITIC = {"critic.encoder", "critic.bottleneck", "critic.critics"}
#: By preset and agent: what each loss has a gradient for.
MOVED: dict[tuple[Any, Any], dict[str, set[str]]] = {
    (BC, "paper"): {"actor/clone": {"encoder", "actor"}},
    (SAC, "paper"): {
        "critic/td": _CRITIC,
        "actor/value": {"actor", "actor.encoder"},
        "temperature": {"temperature"},
    },
    (SAC, "jaxrl2"): {"critic/td": _CRITIC, "actor/value": {"actor"}, "temperature": {"temperature"}},
    (CQL, "paper"): {
        "critic/td": _CRITIC,
        "critic/conservative": _CRITIC,
        "actor/value": {"actor", "actor.encoder"},
        "temperature": {"temperature"},
    },
    (CQL, "jaxrl2"): {
        "critic/td": _CRITIC,
        "critic/conservative": _CRITIC,
        "actor/value": {"actor"},
        "temperature": {"temperature"},
    },
    (IQL, "paper"): {
        "critic/td": _CRITIC,
        "value/expectile": {"value", "value.encoder"},
        "actor/clone": {"actor", "actor.encoder"},
    },
}


@pytest.mark.parametrize(("kind", "preset"), MOVED)
def test_what_each_loss_moves(kind: Any, preset: Any) -> None:
    agent = tiny(kind, preset=preset)
    losses, metrics = agent.losses(batch(), Key(0, 0))
    moved = MOVED[kind, preset]
    assert losses.keys() == moved.keys() and not losses.keys() & metrics.keys()
    assert {name: moved_by(agent, loss) for name, loss in losses.items()} == moved


def test_what_a_shared_encoder_and_a_learned_std_change() -> None:
    learned = NormalConfig(std="learned")
    iql = tiny(IQL, pixels={"share_encoder": True}, normal=learned)
    moved = {name: moved_by(iql, loss) for name, loss in iql.losses(batch(), Key(0, 0))[0].items()}
    assert moved == {"critic/td": _CRITIC, "value/expectile": {"value"}, "actor/clone": {"actor", "log_std"}}
    bc = tiny(BC, normal=learned)
    assert moved_by(bc, bc.losses(batch(), Key(0, 0))[0]["actor/clone"]) == {"encoder", "actor", "log_std"}


@pytest.mark.parametrize("kind", [SAC, CQL, IQL])
def test_a_policy_reads_its_own_encoder_or_the_critics(kind: Any) -> None:
    image = batch()["transitions"].image[:, :2].flatten(1, 2)
    for shared in (True, False):
        agent = tiny(kind, pixels={"share_encoder": shared})
        before = agent.policy(image).mode()
        with torch.no_grad():
            for p in agent.critic.encoder.parameters():
                p.mul_(1.5)
        assert torch.equal(agent.policy(image).mode(), before) is not shared
        # Features at hand are what the encoder would give: never another's.
        torch.testing.assert_close(agent.policy(image, agent.critic.encoder(image)).mode(), agent.policy(image).mode())


# Distributions and losses, against other ways to compute them.


def test_squashed_normal_density() -> None:
    raw = torch.tensor([[0.3, -0.4, -0.5, 0.2]], dtype=torch.float64)
    dist = SquashedNormal(raw)
    noise = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    action, log_prob = dist.sample(noise)
    normal = torch.distributions.Normal(raw[:, :2], raw[:, 2:].exp())
    reference = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1))
    torch.testing.assert_close(dist.mode(), torch.tanh(raw[:, :2]))
    far = SquashedNormal(torch.tensor([[30.0, -30, 0, 0]])).sample(torch.zeros(1, 2))
    assert torch.isfinite(far[1]).all() and (far[0].abs() <= 1).all()


def test_bounded_normal_density() -> None:
    raw, log_std = torch.tensor([[0.3, -2.0]], dtype=torch.float64), torch.tensor([-0.5, 0.2], dtype=torch.float64)
    dist, action = BoundedNormal(torch.tanh(raw), log_std), torch.tensor([[0.9, -1.0]], dtype=torch.float64)
    reference = torch.distributions.Normal(torch.tanh(raw), log_std.exp()).log_prob(action).sum(-1)
    torch.testing.assert_close(dist.log_prob(action), reference)
    assert (dist.sample(torch.full((1, 2), 9.0, dtype=torch.float64)) == 1).all()


def test_bc_is_the_likelihood_of_the_data() -> None:
    agent, rows = tiny(BC), batch()
    loss = agent.losses(rows, Key(0, 0))[0]["actor/clone"]
    image = rows["transitions"].image[:, :2].flatten(1, 2)
    mean = torch.tanh(agent.actor(agent.encoder(image))).detach().numpy()
    error = rows["transitions"].action[:, 2].numpy() - mean  # std 1 at first
    wanted = np.mean(np.sum(0.5 * error**2 + 0.5 * math.log(2 * math.pi), 1))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_sac_target_counts_the_entropy_where_asked() -> None:
    for backup in (True, False):
        agent = tiny(SAC, preset="jaxrl2", td={"target_value": "min"}, entropy=EntropyConfig(0.5, backup=backup))
        data = agent.transitions(batch(), Key(0, 0))
        key = Key(0, 5)
        dist = agent.policy(data.next_image)
        action, log_prob = dist.sample(agent.noise(data.action, key.fold(3)))
        q = agent.target(agent.target.encoder(data.next_image), action)
        wanted = torch.minimum(q[0], q[1]) - (0.5 * log_prob if backup else 0)
        torch.testing.assert_close(agent.next_value(data, key), wanted)


def test_sac_actor_loss() -> None:
    found = {}
    for actor_value in ("min", "mean"):
        agent, rows, key = tiny(SAC, entropy=EntropyConfig(0.5), actor_value=actor_value), batch(), Key(0, 5)
        found[actor_value] = agent.losses(rows, key)[0]["actor/value"]
        data = agent.transitions(rows, key)
        features = agent.critic.encoder(data.image)
        action, log_prob = agent.policy(data.image).sample(agent.noise(data.action, key.fold(2)))
        first, second = agent.critic(features, action)
        q = torch.minimum(first, second) if actor_value == "min" else (first + second) / 2
        torch.testing.assert_close(found[actor_value], (0.5 * log_prob - q).mean())
    assert found["min"] > found["mean"]


def test_the_temperature_rises_where_entropy_is_missing() -> None:
    for log_prob, sign in ((3.0, -1), (-3.0, 1)):
        log_temperature = torch.tensor(math.log(0.2), requires_grad=True)
        temperature_loss(log_temperature.exp(), torch.full((4,), log_prob), -1.0).backward()
        # d/d log(alpha) of alpha * (entropy - target) with entropy -log_prob.
        assert log_temperature.grad is not None
        assert log_temperature.grad.item() == pytest.approx(0.2 * (-log_prob + 1), rel=1e-5)
        assert math.copysign(1, log_temperature.grad.item()) == sign


def test_cql_gap_by_hand() -> None:
    q = np.array([[[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], [[0.0, 1.0], [2.0, 2.0], [1.0, -2.0]]])  # [2, n = 3, B = 2]
    density = np.log(np.array([[0.25, 0.25], [0.8, 0.1], [0.3, 2.0]]))
    data = np.array([[1.5, 0.5], [0.2, -0.3]])
    wanted = 0.0
    for critic in range(2):
        for b in range(2):
            mean = np.mean([np.exp(q[critic, i, b]) / np.exp(density[i, b]) for i in range(3)])
            wanted += (np.log(mean) - data[critic, b]) / 2
    found = conservative_gap(torch.from_numpy(q), torch.from_numpy(density), torch.from_numpy(data))
    assert found.item() == pytest.approx(wanted, rel=1e-9)


def test_cql_gap_estimates_an_integral() -> None:
    """For Q = c a it is ln of the integral of exp(c a) over [-1, 1], whatever the actions are drawn from."""
    c, generator = 1.5, torch.Generator().manual_seed(0)
    uniform = torch.rand(20000, 1, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(20000, 1, 1, generator=generator, dtype=torch.float64)
    action, log_prob = SquashedNormal(torch.tensor([0.2, -0.1], dtype=torch.float64)).sample(noise)
    actions = torch.cat((uniform, action[..., 0]))
    density = torch.cat((torch.full_like(uniform, -math.log(2)), log_prob))
    gap = conservative_gap(c * actions[None], density, torch.zeros(1, 1, dtype=torch.float64))
    assert gap.item() == pytest.approx(math.log(2 * math.sinh(c) / c), abs=0.02)


def test_cql_adds_its_term_to_sac() -> None:
    rows, key = batch(), Key(0, 5)
    sac = tiny(SAC).losses(rows, key)[0]
    for scale in (0.0, 5.0):
        losses, metrics = tiny(CQL, conservatism=ConservatismConfig(scale, 3)).losses(rows, key)
        assert torch.equal(losses["critic/td"], sac["critic/td"])
        torch.testing.assert_close(losses["critic/conservative"].detach(), scale * metrics["critic/gap"])


def test_expectile_loss_by_hand() -> None:
    error = torch.tensor([2.0, -1.0, 0.5])
    assert expectile_loss(error, 0.7).item() == pytest.approx((0.7 * 4 + 0.3 * 1 + 0.7 * 0.25) / 3)
    assert expectile_loss(error, 0.5).item() == pytest.approx(0.5 * error.square().mean().item())


def test_advantage_weights_grow_and_end() -> None:
    weights = advantage_weight(torch.tensor([-1.0, 0.0, 0.5, 9.0]), 3.0, 100.0)
    torch.testing.assert_close(weights, torch.tensor([math.exp(-3), 1.0, math.exp(1.5), 100.0]))


def test_iql_losses_by_hand() -> None:
    agent, rows, key = tiny(IQL, advantage=AdvantageConfig(expectile=0.8)), batch(), Key(0, 5)
    losses, _ = agent.losses(rows, key)
    data = agent.transitions(rows, key)
    with torch.no_grad():
        features = agent.critic.encoder(data.image)
        q = agent.target(agent.target.encoder(data.image), data.action).amin(0)
        value, next_value = (
            agent.value(agent.value.encoder(image)).squeeze(-1) for image in (data.image, data.next_image)
        )
        weight = torch.minimum(torch.exp(3.0 * (q - value)), torch.tensor(100.0))
        clone = -(weight * agent.policy(data.image).log_prob(data.action)).mean()
        y = data.reward + 0.9 * data.goes_on * next_value
        td = sum(((one - y) ** 2).mean() for one in agent.critic(features, data.action))
    torch.testing.assert_close(losses["actor/clone"].detach(), clone)
    torch.testing.assert_close(losses["critic/td"].detach(), td)
    torch.testing.assert_close(losses["value/expectile"].detach(), expectile_loss(q - value, 0.8))


# Bad input.


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: PixelConfig(frame_stack=0), "pixels.frame_stack"),
        (lambda: PixelConfig(shift=-1), "pixels.shift"),
        (lambda: PixelConfig(channels=()), "pixels.channels"),
        (lambda: TDConfig(batch_size=0), "td.batch_size"),
        (lambda: TDConfig(tau=0), "td.tau"),
        (lambda: TDConfig(gamma=1.1), "td.gamma"),
        (lambda: EntropyConfig(temperature=-0.1), "entropy.temperature"),
        (lambda: ConservatismConfig(scale=-1), "conservatism.scale"),
        (lambda: ConservatismConfig(actions=0), "conservatism.actions"),
        (lambda: AdvantageConfig(expectile=1.0), "advantage.expectile"),
        (lambda: AdvantageConfig(expectile=0.0), "advantage.expectile"),
        (lambda: AdvantageConfig(temperature=-1), "advantage.temperature"),
        (lambda: NormalConfig(std=0.0), "normal.std"),
        (lambda: NormalConfig(std=math.nan), "normal.std"),
        (lambda: BC(PixelConfig(share_encoder=True)), "pixels.share_encoder"),
        (lambda: BC(td=TDConfig(gamma=0.9)), "td.gamma"),
        (lambda: BC(td=TDConfig(tau=0.1)), "td.tau"),
        (lambda: BC(td=TDConfig(target_value="min")), "td.target_value"),
        (lambda: SAC(td=TDConfig(final_lr=0.1)), "td.final_lr"),
        (lambda: SAC(preset="mine"), "preset"),
    ],
)
def test_bad_settings_are_named(make: Any, setting: str) -> None:
    with pytest.raises(SettingError, match=f"^{setting}: found"):
        make()
