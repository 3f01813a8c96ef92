import dataclasses
import math
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_moto import KEY, LATENTS, TINY, TINY_MODEL, batches, make, moved, sequences
from torch import Tensor, nn

from moto_pl.agents import MOTO
from moto_pl.agents.settings import BatchConfig, BehaviourConfig, OptimConfig
from moto_pl.envs.reach import ReachEnv
from moto_pl.errors import SettingError
from moto_pl.nn import WorldModelConfig
from moto_pl.ops import Key, Share
from moto_pl.replay.sampler import SequenceBatch

CRITICS = pytest.mark.parametrize("critic", ["q_ensemble", "v"])


# Which loss trains which component.


@CRITICS
@LATENTS
def test_each_loss_moves_its_component_alone(critic: str, latent: str) -> None:
    # The advantage filter asks the critics: their gradient must not leak into cloning.
    rules = ["none", "advantage"] if critic == "q_ensemble" else ["none"]
    for rule in rules:
        agent = make({"latent": latent, "discount_head": True}, critic=critic, clone_filter=rule)
        losses, metrics = agent.losses(batches(), KEY)
        assert all(loss.isfinite() and loss.requires_grad for loss in losses.values())
        assert not any(metric.requires_grad for metric in metrics.values())
        components = {"model": agent.world_model, "critic": agent.critic.online, "actor": agent.actor}
        names = {
            "model/image",
            "model/reward",
            "model/kl",
            "model/discount",
            "critic/model",
            "actor/value",
            "actor/entropy_bonus",
            "actor/clone",
        }
        assert losses.keys() == names | ({"critic/real"} if critic == "q_ensemble" else set())
        for name, loss in losses.items():
            agent.zero_grad(set_to_none=True)
            loss.backward(retain_graph=True)
            for component, module in components.items():
                assert moved(module) == name.startswith(component), (name, component)
            assert all(p.grad is None for p in agent.critic.target.parameters())


@CRITICS
def test_every_trainable_parameter_is_in_one_group_and_learns(critic: str) -> None:
    agent = make({"discount_head": True, "kl_member": "all"}, critic=critic)
    losses, _ = agent.losses(batches(), KEY)
    torch.stack(list(losses.values())).sum().backward()
    groups = [
        p for group in agent.param_groups() for module in group.modules for p in module.parameters() if p.requires_grad
    ]
    trainable = [p for p in agent.parameters() if p.requires_grad]
    assert len(groups) == len(trainable) and {id(p) for p in groups} == {id(p) for p in trainable}
    # With min over the critics every critic is still trained, by its own loss.
    assert all(p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any() for p in trainable)
    optimizer = agent.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable)
    assert [group["name"] for group in optimizer.param_groups] == ["model", "actor", "critic"]


@CRITICS
@pytest.mark.parametrize("components", ["all", "model", "behaviour"])
def test_every_loss_has_a_scale(critic: str, components: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make({"discount_head": True}, critic=critic)
    losses, _ = agent.losses_of(components, batches(), KEY)
    scales = agent.scales(components)
    assert losses.keys() == scales.keys()
    # What they are multiplied with is what the configuration says.
    doubled = {name: 2 * scale for name, scale in scales.items()}
    monkeypatch.setattr(agent, "scales", lambda _: doubled)
    for name, loss in agent.losses_of(components, batches(), KEY)[0].items():
        assert torch.equal(loss, 2 * losses[name]), name
    monkeypatch.setattr(agent, "scales", lambda _: {**scales, "actor/forgotten": 1.0})
    with pytest.raises(AssertionError, match="actor/forgotten"):
        agent.losses_of(components, batches(), KEY)


# Start states.


def test_starts_are_posterior_states_with_the_transition_that_led_there() -> None:
    agent = make({"latent": "gaussian"})  # no two states have the same sample
    batch = sequences(3, 5)
    states = agent.world_model.observe(batch, KEY.fold(1)).states
    starts = agent.draw_starts(batch, KEY)
    assert len(starts.valid) == 15 and not any(x.requires_grad for x in (*starts.states, *starts.previous))
    seen = set()
    for row in range(15):
        ((t, b),) = [
            (t, b) for t in range(5) for b in range(3) if torch.allclose(starts.states.stoch[row], states.stoch[t, b])
        ]
        seen.add((t, b))
        torch.testing.assert_close(starts.states.deter[row], states.deter[t, b])
        assert starts.valid[row].item() == (t > 0 and not batch.is_first[b, t])
        if t > 0:
            torch.testing.assert_close(starts.previous.deter[row], states.deter[t - 1, b])
            torch.testing.assert_close(starts.previous.stoch[row], states.stoch[t - 1, b])
            assert torch.equal(starts.action[row], batch.action[b, t])
            assert starts.reward[row] == batch.reward[b, t]
    assert len(seen) == 15


def test_pairs_across_a_reset_are_masked() -> None:
    agent, batch = make(), sequences(2, 4)
    batch.is_first[1, 2] = True
    valid = agent.draw_starts(batch, KEY).valid.reshape(4, 2)  # all rows are taken, in time-first order
    assert valid.T.tolist() == [[0, 1, 1, 1], [0, 1, 0, 1]]


@CRITICS
@pytest.mark.parametrize("head", [False, True])
def test_nothing_is_learned_beyond_an_end(critic: str, head: bool) -> None:
    agent, batch = make({"discount_head": head}, critic=critic, clone_scale=0.0), batches()
    del batch["clone"]
    ended = torch.ones_like(batch["agent"].is_terminal)
    losses, _ = agent.losses({**batch, "agent": batch["agent"]._replace(is_terminal=ended)}, KEY)
    assert losses["critic/model"].item() == losses["actor/value"].item() == 0
    if critic == "q_ensemble":  # the last transition is learned from, with its reward alone
        starts = agent.draw_starts(batch["agent"]._replace(is_terminal=ended), KEY)
        q = agent.critic(starts.previous.features, starts.action)
        expected = (0.5 * (q - starts.reward).square() * starts.valid).sum() / (3 * starts.valid.sum())
        torch.testing.assert_close(losses["critic/real"], expected)


def test_the_discount_head_is_there_where_demonstrations_end_early() -> None:
    for terminates in (False, True):
        agent = MOTO(dataclasses.replace(TINY_MODEL, discount_head="auto"), TINY)
        agent.action_size, agent.terminates = 2, terminates
        assert agent.description()["init_args"]["world_model"]["discount_head"] == "auto"
        agent.build(2)
        assert (agent.world_model.discount is not None) == terminates
        assert agent.description()["init_args"]["world_model"]["discount_head"] is terminates
        assert ("model/discount" in agent.losses(batches(), KEY)[0]) == terminates


@pytest.mark.parametrize("decided", [False, True])
def test_a_checkpoint_decides_about_the_discount_head(decided: bool) -> None:
    """Whatever the data at hand says, as for an evaluation, which reads none."""
    saved = make({"discount_head": decided})
    other = MOTO(dataclasses.replace(TINY_MODEL, discount_head="auto"), TINY, ops="reference")
    other.action_size, other.terminates = 2, not decided
    other.build(2)
    other.on_load_checkpoint({"agent": saved.description(), "global_step": 3})
    other.load_state_dict(saved.state_dict())
    assert other.description() == saved.description()
    told = make({"discount_head": not decided})
    with pytest.raises(SettingError, match="discount_head"):
        told.on_load_checkpoint({"agent": saved.description(), "global_step": 3})


def test_real_loss_without_any_predecessor_is_zero() -> None:
    agent = make()
    batch = batches()
    batch["agent"] = sequences(4, 1)
    losses, _ = agent.losses(batch, KEY)
    assert losses["critic/real"].item() == 0
    assert all(loss.isfinite() for loss in losses.values())


def test_imagine_rows_are_drawn_without_replacement() -> None:
    agent, batch = make({"latent": "gaussian"}, imagine_rows=6), sequences(3, 5)
    counts = np.zeros(15)
    for offset in range(150):
        key = Key(0, offset)
        everything = agent.world_model.observe(batch, key.fold(1)).states.features.reshape(15, -1)
        found = agent.draw_starts(batch, key).states.features
        assert found.shape == (6, 6 + 3)
        rows = (found[:, None] - everything).abs().sum(-1).argmin(1).tolist()
        assert len(set(rows)) == 6
        counts[rows] += 1
    # Each row is expected 60 times, with a standard deviation of 6.
    assert counts.min() > 35 and counts.max() < 85
    assert len(make(imagine_rows=99).draw_starts(batch, KEY).valid) == 15


# The rest of the agent.


@CRITICS
def test_targets_are_copied_every_few_steps(critic: str) -> None:
    agent = make(critic=critic)
    for step in range(1, 11):
        with torch.no_grad():
            for p in agent.critic.online.parameters():
                p.add_(1)
        agent.after_step(step)
        same = [
            torch.equal(a, b)
            for a, b in zip(agent.critic.online.parameters(), agent.critic.target.parameters(), strict=True)
        ]
        assert all(same) if step in (5, 10) else not any(same)


def test_losses_are_a_function_of_the_key() -> None:
    agent = make()
    first, again, other = (agent.losses(batches(), key)[0] for key in (KEY, KEY, Key(3, 9)))
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert not torch.equal(value, other[name])


def test_step_keys_of_steps_and_accumulated_batches_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make()
    monkeypatch.setattr(MOTO, "trainer", SimpleNamespace(accumulate_grad_batches=2))
    keys, shares = set(), set()
    for step in range(50):
        for rank in range(4):
            monkeypatch.setattr(MOTO, "global_step", step)
            monkeypatch.setattr(MOTO, "share", Share(rank, rank + 1, 4))
            found = {agent.step_key(batch_idx).fold(purpose) for batch_idx in (0, 1) for purpose in range(6)}
            keys |= {key.common for key in found}  # ranks draw together
            shares |= {key.share for key in found}
    assert len(keys) == 50 * 2 * 6 and len(shares) == 4


@LATENTS
@pytest.mark.parametrize("mode", ["sample", "mode"])
def test_act(latent: str, mode: str) -> None:
    agent = make({"latent": latent})
    frames = sequences(3, 3).image
    first, later = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)

    def roll(key_offset: int = 0) -> Iterator[Tensor]:
        state = agent.initial_state(3)
        for t in range(3):
            action, state = agent.act(frames[:, t], first if t == 0 else later, state, mode, Key(5, key_offset + t))
            assert torch.equal(state.action, action)  # it is the action that leads to the next frame
            yield action

    ours, again = list(roll()), list(roll())
    for a, b in zip(ours, again, strict=True):
        assert a.shape == (3, 2) and a.dtype == torch.float32 and not a.requires_grad
        assert a.abs().max() <= 1 and torch.equal(a, b)
    assert not torch.equal(ours[0], ours[1])
    if mode == "sample":
        assert not torch.equal(ours[0], next(roll(100)))


def test_the_greedy_action_is_the_mode_or_the_mean() -> None:
    """A draw is neither; a distribution without such a mean is refused."""
    agents = {greedy: make(greedy=greedy) for greedy in ("mode", "mean")}
    features = torch.randn(50, agents["mode"].world_model.feature_size, generator=torch.Generator().manual_seed(0))
    found = {greedy: agent.latent_action(features, "mode", KEY) for greedy, agent in agents.items()}
    dist = agents["mode"].actor.dist(features)
    assert torch.equal(found["mode"], dist.mode()) and torch.equal(found["mean"], dist.expected())
    draws = torch.stack([agents["mean"].latent_action(features, "sample", Key(1, i)) for i in range(4000)])
    torch.testing.assert_close(draws.mean(0), found["mean"], atol=0.06, rtol=0)
    assert (found["mean"].abs() < found["mode"].abs()).all()
    with pytest.raises(SettingError, match=r"behaviour\.greedy: found mean with action: tanh_normal"):
        make(greedy="mean", action="tanh_normal")


def test_act_filters_and_asks_the_actor() -> None:
    agent = make({"latent": "gaussian"})
    frames, key = sequences(2, 2).image, Key(5, 0)
    start = agent.initial_state(2)
    action, state = agent.act(frames[:, 0], torch.ones(2, dtype=torch.bool), start, "mode", key)
    torch.testing.assert_close(action, torch.tanh(agent.actor.net(state.states.features)[:, :2]))
    # A new episode forgets the old one, in its environment alone.
    fresh, _ = agent.act(frames[:, 1], torch.ones(2, dtype=torch.bool), start, "mode", key)
    mixed, _ = agent.act(frames[:, 1], torch.tensor([True, False]), state, "mode", key)
    torch.testing.assert_close(mixed[0], fresh[0])
    assert not torch.isclose(mixed[1], fresh[1]).any()


def test_parts() -> None:
    sizes = BatchConfig(2, 3, 4, 5, 6, 7)
    agent = MOTO(TINY_MODEL, dataclasses.replace(TINY, clone_filter="return", clone_top=0.3, clone_least=8), sizes)
    parts = agent.parts()
    assert list(parts) == ["model", "agent", "clone"]
    assert [(p.size, p.length, p.filter) for p in parts.values()] == [(2, 3, "none"), (4, 5, "none"), (6, 7, "return")]
    assert (parts["clone"].top, parts["clone"].least) == (0.3, 8)
    assert "clone" not in MOTO(TINY_MODEL, dataclasses.replace(TINY, clone_scale=0.0)).parts()


@CRITICS
def test_bfloat16_is_close_and_trains_the_same_parameters(critic: str) -> None:
    agent = make({"latent": "gaussian", "discount_head": True, "kl_member": "all"}, critic=critic)
    full, _ = agent.losses(batches(), KEY)
    torch.stack(list(full.values())).sum().backward()
    learned = {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}
    agent.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, _ = agent.losses(batches(), KEY)
    torch.stack(list(half.values())).sum().backward()
    for name, value in full.items():
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.05), name
    for name, p in agent.named_parameters():
        assert (p.grad is not None) == (name in learned), name
        if p.grad is not None:
            cosine = torch.cosine_similarity(p.grad.flatten(), learned[name].flatten(), dim=0).item()
            assert cosine > 0.8, (name, cosine)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"horizon": 1}, "horizon"),
        ({"horizon": 0, "critic": "v"}, "horizon"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.1}, "gamma"),
        ({"lambda_": 1.1}, "lambda_"),
        ({"clone_top": 0.0}, "clone_top"),
        ({"clone_least": 0}, "clone_least"),
        ({"critics": 0}, "critics"),
        ({"target_every": 0}, "target_every"),
        ({"clone_filter": "advantage", "critic": "v"}, "clone_filter"),
    ],
)
def test_bad_settings(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(SettingError, match=f"behaviour.{setting}"):
        BehaviourConfig(**settings)


def test_max_var_needs_gaussian_latents() -> None:
    with pytest.raises(SettingError, match="behaviour.disagreement"):
        MOTO(TINY_MODEL, dataclasses.replace(TINY, disagreement="max_var"))
    make({"latent": "gaussian"}, disagreement="max_var").losses(batches(), KEY)


# Learning.


def demonstrations(count: int) -> SequenceBatch:
    """Whole scripted episodes of the reaching task as one batch [count, T + 1]."""
    env = ReachEnv(episode_steps=15)
    images, actions, rewards = [], [], []
    for seed in range(count):
        observation, _ = env.reset(seed=seed)
        images.append([observation["image"]])
        actions.append([np.zeros(2, np.float32)])
        rewards.append([0.0])
        for _ in range(15):
            action = 0.7 * env.scripted_action()  # inside the range: at its edge the mean saturates
            observation, reward, *_ = env.step(action)
            images[-1].append(observation["image"])
            actions[-1].append(action)
            rewards[-1].append(reward)
    image = torch.from_numpy(np.array(images)).permute(0, 1, 4, 2, 3).contiguous()
    is_first = torch.zeros(image.shape[:2], dtype=torch.bool)
    is_first[:, 0] = True
    return SequenceBatch(
        image, torch.from_numpy(np.array(actions)), torch.tensor(rewards), is_first, torch.zeros_like(is_first)
    )


@pytest.mark.slow
@LATENTS
def test_a_tiny_agent_learns_a_few_episodes_by_heart(latent: str) -> None:
    agent = MOTO(
        WorldModelConfig(
            latent=latent,
            deter=64,
            hidden=64,
            stoch=8,
            classes=8,
            ensemble=3,
            encoder_channels=(8, 16, 32, 64),
            decoder_channels=(32, 16, 8),
            mlp_layers=0,
            head_layers=1,
            head_units=64,
            reward_scale=50.0,
            kl_scale=0.1,
        ),
        BehaviourConfig(
            horizon=3,
            critics=2,
            critic_layers=1,
            critic_units=32,
            actor_layers=2,
            actor_units=64,
            imagine_rows=8,
            clone_scale=10.0,
            clone_filter="none",
        ),
        optim=OptimConfig(model_lr=2e-3, actor_lr=2e-3, critic_lr=2e-3),
    )
    agent.action_size = 2
    torch.manual_seed(0)
    agent.build(2)
    data = demonstrations(4)
    optimizer = agent.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    history = []
    for step in range(200):
        losses, _ = agent.losses({"model": data, "agent": data, "clone": data}, Key(0, step))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        for group in agent.param_groups():
            nn.utils.clip_grad_norm_([p for m in group.modules for p in m.parameters() if p.requires_grad], group.clip)
        optimizer.step()
        agent.after_step(step + 1)
        history.append({name: loss.item() for name, loss in losses.items()})
    with torch.no_grad():
        states = agent.world_model.observe(data, Key(1, 0)).states
        reward = agent.world_model.predict_reward(states).T
        action = agent.actor.dist(states.features[:-1]).mode().transpose(0, 1)
    wanted = data.action[:, 1:]
    reward_error = (reward - data.reward).square().mean() / data.reward.var(correction=0)
    action_error = (action - wanted).square().mean() / (wanted - wanted.mean((0, 1))).square().mean()
    assert all(math.isfinite(value) for losses in history for value in losses.values())
    assert history[-1]["model/image"] < history[0]["model/image"] / 20
    # Shares of what the mean reward and the mean action would miss.
    assert reward_error < 0.2
    assert action_error < 0.35


@pytest.mark.parametrize(("ensemble", "scale", "said"), [(1, 3.0, True), (1, 0.0, False), (2, 3.0, False)])
def test_a_penalty_that_has_no_effect_is_said(ensemble: int, scale: float, said: bool) -> None:
    agent = make({"ensemble": ensemble}, disagreement_scale=scale)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        agent.on_fit_start()
    assert any("has no effect" in str(warning.message) for warning in heard) == said
    losses, metrics = agent.losses(batches(), KEY)
    assert (metrics["imagined/penalty"].item() < 1e-5) == (ensemble == 1 or scale == 0)
