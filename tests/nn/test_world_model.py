import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical, kl_divergence

from moto_pl.errors import SettingError
from moto_pl.nn import RSSM, States, WorldModel, WorldModelConfig
from moto_pl.nn.actor_critic import Actor
from moto_pl.ops import Key, LatentSpec, Stream, draw_noise, imagine, integers, kl, observe, priors, sample, transition
from moto_pl.ops.extension import available
from moto_pl.replay.sampler import SequenceBatch
from tiny_model import TINY_MODEL

KEY = Key(3, 8)
BOTH = pytest.mark.parametrize("latent", ["categorical", "gaussian"])


def make(**changes: object) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(dataclasses.replace(TINY_MODEL, **changes), 2)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in (*model.rssm.parameters(), *model.reward.parameters()):
            p.add_(0.3 * torch.randn_like(p))  # far enough from each other to tell terms apart
    return model


def sequences(size: int = 3, length: int = 5) -> SequenceBatch:
    generator = torch.Generator().manual_seed(1)
    is_first = torch.zeros(size, length, dtype=torch.bool)
    is_first[0, 0] = is_first[2, 2 % length] = True
    is_terminal = torch.zeros(size, length, dtype=torch.bool)
    is_terminal[1, -1] = True
    return SequenceBatch(
        torch.randint(0, 256, (size, length, 3, 64, 64), generator=generator, dtype=torch.uint8),
        2 * torch.rand(size, length, 2, generator=generator) - 1,
        torch.randn(size, length, generator=generator),
        is_first,
        is_terminal,
    )


def distribution(model: WorldModel, params: Tensor) -> torch.distributions.Distribution:
    size = model.config.stoch
    if model.config.latent == "gaussian":
        return Independent(Normal(params[..., :size], 2 * torch.sigmoid(params[..., size:] / 2) + 0.1), 1)
    return Independent(OneHotCategorical(logits=params.unflatten(-1, (size, -1))), 1)


def member_kls(model: WorldModel, batch: SequenceBatch) -> np.ndarray:
    """KL(q || p_k) of each member, step and row: [K, T, B]."""
    with torch.no_grad():
        post = model.observe(batch, KEY)
        heads = [distribution(model, p) for p in model.rssm.priors(post.states.deter)]
        return np.stack([kl_divergence(distribution(model, post.params), head).numpy() for head in heads])


@BOTH
@pytest.mark.parametrize("kl_member", ["sampled", "all"])
@pytest.mark.parametrize("free_nats", [0.0, 1.5, 1e4])
def test_loss_by_hand(latent: str, kl_member: str, free_nats: float) -> None:
    model = make(
        latent=latent,
        kl_member=kl_member,
        free_nats=free_nats,
        discount_head=True,
        image_scale=0.5,
        reward_scale=3.0,
        discount_scale=7.0,
        kl_scale=2.0,
    )
    batch = sequences()
    (losses, metrics), post = model.loss(batch, KEY), model.observe(batch, KEY)
    image = reward = discount = 0.0
    for b in range(3):
        for t in range(5):
            s = torch.cat((post.states.deter[t, b], post.states.stoch[t, b]))
            target = batch.image[b, t].double() / 255 - 0.5
            image += 0.5 * (model.decoder(s.unsqueeze(0))[0].double() - target).square().sum().item() / 15
            reward += 0.5 * (model.reward(s)[0].item() - batch.reward[b, t].item()) ** 2 / 15
            goes_on = Bernoulli(logits=model.discount(s)[0])
            discount -= goes_on.log_prob(1 - batch.is_terminal[b, t].float()).item() / 15
    each = member_kls(model, batch)
    if kl_member == "sampled":
        member = integers(KEY, Stream.MEMBER, 3, (5,)).tolist()
        assert len(set(member)) > 1
        plain = np.mean([each[member[t], t] for t in range(5)])
        kl, raw = max(plain, free_nats), plain
    else:
        means = each.mean((1, 2))
        kl, raw = np.maximum(means, free_nats).sum(), means.mean()
    # Both halves of the balanced KL have the same value: 0.8 + 0.2 of it.
    expected = {"model/image": image, "model/reward": reward, "model/discount": discount, "model/kl": kl}
    assert losses.keys() == expected.keys()
    assert model.scales == {"model/image": 0.5, "model/reward": 3.0, "model/discount": 7.0, "model/kl": 2.0}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    assert metrics["model/kl_nats"].item() == pytest.approx(raw, rel=1e-4)


def test_a_member_is_drawn_for_each_step_and_shared_by_the_batch() -> None:
    model, batch = make(), sequences(length=40)
    each = member_kls(model, batch).mean(-1)  # [K, T]
    found = {}
    for offset in range(12):
        # The latents' key is the model's own: only the KL's is changed.
        post = model.observe(batch, KEY)
        prior = model.rssm.priors(post.states.deter)
        value, _ = model._kl(post.params, prior, Key(0, offset))
        member = integers(Key(0, offset), Stream.MEMBER, 3, (40,)).numpy()
        assert value.item() == pytest.approx(each[member, np.arange(40)].mean(), rel=1e-4)
        found[offset] = value.item()
    assert len(set(found.values())) == 12


@pytest.mark.parametrize(("balance", "prior_moves", "posterior_moves"), [(1.0, True, False), (0.0, False, True)])
def test_balance_splits_the_gradient(balance: float, prior_moves: bool, posterior_moves: bool) -> None:
    model = make(kl_balance=balance, kl_member="all")
    generator = torch.Generator().manual_seed(0)
    post = torch.randn(4, 2, 12, generator=generator, requires_grad=True)
    prior = torch.randn(3, 4, 2, 12, generator=generator, requires_grad=True)
    loss, _ = model._kl(post, prior, KEY)
    grads = torch.autograd.grad(loss, (post, prior), allow_unused=True, materialize_grads=True)
    assert [bool((g != 0).any()) for g in grads] == [posterior_moves, prior_moves]


def test_balance_weighs_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    post = torch.randn(4, 2, 12, generator=generator, requires_grad=True)
    prior = torch.randn(3, 4, 2, 12, generator=generator, requires_grad=True)
    grads = []
    for balance in (0.0, 0.8, 1.0):
        loss, _ = make(kl_balance=balance, kl_member="all")._kl(post, prior, KEY)
        grads.append(torch.autograd.grad(loss, (post, prior), allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(grads[1][0], 0.2 * grads[0][0])
    torch.testing.assert_close(grads[1][1], 0.8 * grads[2][1])


@pytest.mark.parametrize("kl_member", ["sampled", "all"])
def test_the_plain_kl_moves_both_sides_in_full(kl_member: str) -> None:
    generator = torch.Generator().manual_seed(0)
    post = torch.randn(4, 2, 12, generator=generator, requires_grad=True)
    prior = torch.randn(3, 4, 2, 12, generator=generator, requires_grad=True)
    plain, raw = make(kl_balance=None, kl_member=kl_member)._kl(post, prior, KEY)
    balanced, other = make(kl_balance=0.8, kl_member=kl_member)._kl(post, prior, KEY)
    assert plain.item() == pytest.approx(balanced.item()) and raw.item() == pytest.approx(other.item())
    found, theirs = (torch.autograd.grad(loss, (post, prior)) for loss in (plain, balanced))
    torch.testing.assert_close(found[0], theirs[0] / 0.2)
    torch.testing.assert_close(found[1], theirs[1] / 0.8)


def test_relu_convolutions() -> None:
    """The same weights with another activation, in encoder and decoder."""
    batch = sequences()
    elu, relu = make(), make(conv_activation="relu")
    relu.load_state_dict(elu.state_dict())
    x = batch.image[0].float() / 255 - 0.5
    for conv in relu.encoder.convs:
        x = torch.relu(conv(x))
    torch.testing.assert_close(relu.encoder(batch.image[0]), x.flatten(1))
    assert not torch.isclose(relu.encoder(batch.image[0]), elu.encoder(batch.image[0])).all()
    features = torch.randn(2, relu.feature_size, generator=torch.Generator().manual_seed(0))
    decoder = relu.decoder
    y = decoder.first(decoder.base(features)).unflatten(-1, decoder.first_shape)
    for conv in decoder.convs:
        y = conv(torch.relu(y))
    torch.testing.assert_close(decoder(features), y)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"latent_std": "softplus"}, "world_model.latent_std"),
        ({"kl_balance": 1.5}, "world_model.kl_balance"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(SettingError, match=f"^{setting}: "):
        dataclasses.replace(TINY_MODEL, **settings)


def test_free_nats_are_counted_on_the_batch_mean_of_each_member() -> None:
    model = make(kl_member="all", free_nats=1.0)
    post = torch.zeros(2, 1, 12)  # uniform
    far = torch.zeros(2, 1, 12)
    far[0, 0, 0] = 20.0  # only the first step is far away: on the mean that counts
    near = torch.zeros(2, 1, 12)
    near[0, 0, 0] = 1.0
    prior = torch.stack((far, near, near)).requires_grad_()
    loss, raw = model._kl(post, prior, KEY)
    expected = -math.log(4) - np.mean(torch.tensor([20.0, 0, 0, 0]).log_softmax(0).tolist())
    near_kl = -math.log(4) - np.mean(torch.tensor([1.0, 0, 0, 0]).log_softmax(0).tolist())
    assert near_kl / 2 < 1 < expected / 2
    assert loss.item() == pytest.approx(expected / 2 + 1 + 1, rel=1e-5)
    assert raw.item() == pytest.approx((expected / 2 + near_kl) / 3, rel=1e-5)
    (grad,) = torch.autograd.grad(loss, prior)
    assert (grad[0] != 0).any() and (grad[1:] == 0).all()


@pytest.mark.parametrize("part", ["reward", "is_terminal"])
def test_one_row_for_all_sequences_is_no_batch(part: str) -> None:
    """It would be broadcast, without a word."""
    batch = sequences()
    with pytest.raises(AssertionError):
        make(discount_head=True).loss(batch._replace(**{part: getattr(batch, part)[:1]}), KEY)


@BOTH
def test_every_parameter_learns(latent: str) -> None:
    model = make(latent=latent, discount_head=True, kl_member="all")
    losses, _ = model.loss(sequences(), KEY)
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_sampled_prior_leaves_the_other_members_alone() -> None:
    model, batch = make(), sequences(length=1)
    losses, _ = model.loss(batch, KEY)
    losses["model/kl"].backward()
    member = int(integers(KEY, Stream.MEMBER, 3, (1,)))
    moved = [bool((model.rssm.prior_out.grad[k] != 0).any()) for k in range(3)]
    assert moved == [k == member for k in range(3)]


@BOTH
def test_step_is_observe_one_row_at_a_time(latent: str) -> None:
    model, batch = make(latent=latent), sequences()
    states = States(*model.rssm.initial(3))
    for t in range(4):
        key = Key(0, t)
        before = states
        states = model.step(states, batch.action[:, t], batch.image[:, t], batch.is_first[:, t], key)
        deter, stoch, _ = model.rssm.observe(
            batch.action[:, t : t + 1].transpose(0, 1),
            model.encoder(batch.image[:, t]).unsqueeze(0),
            batch.is_first[:, t].unsqueeze(0),
            key,
            (before.deter, before.stoch),
        )
        assert torch.equal(states.deter, deter[0]) and torch.equal(states.stoch, stoch[0])
    # The deterministic part does not depend on the noise of its own step: the first is that of a whole sequence.
    first = model.step(States(*model.rssm.initial(3)), batch.action[:, 0], batch.image[:, 0], batch.is_first[:, 0], KEY)
    torch.testing.assert_close(first.deter, model.observe(batch, KEY).states.deter[0])
    torch.testing.assert_close(first.stoch, model.observe(batch, KEY).states.stoch[0])


def test_heads() -> None:
    model = make(discount_head=True)
    states = States(torch.randn(4, 2, 6, requires_grad=True), torch.randn(4, 2, 12, requires_grad=True))
    assert torch.equal(states.features, torch.cat(tuple(states), -1))
    reward = model.predict_reward(states, frozen=True)
    assert reward.shape == (4, 2)
    reward.sum().backward()
    assert states.deter.grad is not None and all(p.grad is None for p in model.parameters())
    goes_on = model.predict_continuation(states)
    assert not goes_on.requires_grad and (goes_on > 0).all() and (goes_on < 1).all()
    torch.testing.assert_close(goes_on, 1 / (1 + torch.exp(-model.discount(states.features)[..., 0].detach())))
    assert torch.equal(make().predict_continuation(states), torch.ones(4, 2))


def test_bfloat16_autocast_is_close() -> None:
    model, batch = make(latent="gaussian", discount_head=True), sequences()
    full, _ = model.loss(batch, KEY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (half, _), post = model.loss(batch, KEY), model.observe(batch, KEY)
    for name, value in full.items():
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(value.item(), rel=0.05), name
    assert post.states.deter.dtype == post.states.stoch.dtype == post.params.dtype == torch.float32
    torch.stack(list(half.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["deter", "hidden", "stoch", "ensemble", "classes"])
def test_sizes_are_checked(name: str) -> None:
    with pytest.raises(SettingError, match=f"world_model.{name}"):
        WorldModelConfig(**{name: 0})


def test_balance_is_checked() -> None:
    with pytest.raises(SettingError, match="kl_balance"):
        WorldModelConfig(kl_balance=1.1)


@BOTH
def test_rolling_given_actions_is_imagining_them(latent: str) -> None:
    model = make(latent=latent)
    start = model.observe(sequences(), KEY).states.map(lambda x: x[-1].detach())
    actor = Actor(model.feature_size, 2, 1, 8)
    weights = (actor.net.weights(), model.rssm.cell(frozen=True), model.rssm.prior(frozen=True))
    imagined = imagine(*start, *weights, model.latent, KEY, 4, ops="reference")
    rolled = model.roll(start, lambda i, _: imagined.action[i].detach(), 4, KEY)
    torch.testing.assert_close(rolled.states.deter, imagined.deter)
    torch.testing.assert_close(rolled.states.stoch, imagined.stoch)
    assert rolled.action.shape == (4, 3, 2) and rolled.prior.shape == (3, 4, 3, model.latent.params)
    spread = model.disagreement(rolled.prior, rolled.states.stoch[1:], "mean")
    torch.testing.assert_close(spread, imagined.disagreement)


def test_a_prediction_sees_the_context_alone() -> None:
    model, batch = make(latent="gaussian"), sequences(3, 6)
    changed = batch.map(torch.Tensor.clone)
    changed.image[:, 3:] = 0
    changed.reward[:, 3:] = 9
    changed.is_first[:, 3:] = True
    states, again = model.predict(batch, 3, KEY).features, model.predict(changed, 3, KEY).features
    assert states.shape == (6, 3, model.feature_size) and torch.equal(states, again) and not states.requires_grad
    changed.action[:, 4] *= -1
    other = model.predict(changed, 3, KEY).features
    assert torch.equal(other[:4], states[:4]) and not torch.isclose(other[4], states[4]).any()
    changed.image[:, 2] = 0
    assert not torch.equal(model.predict(changed, 3, KEY).features[3], states[3])


@torch.no_grad()  # as predict is: with gradients torch.matmul may add up in another order
def test_a_prediction_is_filtering_and_then_rolling() -> None:
    model, batch = make(), sequences(3, 6)
    seen = model.observe(batch.map(lambda part: part[:, :4]), KEY).states
    found = model.predict(batch, 4, KEY)
    rolled = model.roll(seen.map(lambda x: x[-1]), lambda i, _: batch.action[:, 4 + i], 2, KEY.fold(1)).states
    assert torch.equal(found.features, torch.cat((seen.features, rolled.features[1:])))
    assert torch.equal(model.predict(batch, 6, KEY).features, model.observe(batch, KEY).states.features)
    # Another's actions, beyond the sequences' end; it is asked in the states that it leads to.
    asked = []

    def act(step: int, states: States) -> Tensor:
        asked.append(states.features)
        return torch.full((3, 2), 0.1 * step)

    longer = model.predict(batch, 4, KEY, act, 5).features
    assert longer.shape[0] == 4 + 5 and torch.equal(torch.stack(asked), longer[3:8])


# The RSSM alone.

LATENTS = [LatentSpec("categorical", 3, 4), LatentSpec("gaussian", 3)]


def rows() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    is_first = torch.zeros(6, 2, dtype=torch.bool)
    is_first[0, 0] = True
    return torch.randn(6, 2, 2, generator=generator), torch.randn(6, 2, 5, generator=generator), is_first


@pytest.mark.parametrize("latent", LATENTS, ids=lambda latent: latent.kind)
def test_observe_starts_from_zero_and_can_be_continued(latent: LatentSpec) -> None:
    torch.manual_seed(0)
    rssm = RSSM(latent, 7, 6, 2, 5, 3)
    action, embed, is_first = rows()
    zeros = torch.zeros(2, 7), torch.zeros(2, latent.size)
    for ours, theirs in zip(rssm.initial(2), zeros, strict=True):
        assert torch.equal(ours, theirs)
    key = Key(0, 1)
    found = rssm.observe(action, embed, is_first, key)
    expected = observe(action, embed, is_first, *zeros, rssm.cell(), rssm.posterior(), latent, key)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    # The noise of a continuation begins at number 0 again, so only its first row can be compared.
    state = found[0][-1], found[1][-1]
    after = rssm.observe(action[:1], embed[:1], torch.zeros(1, 2, dtype=torch.bool), key, state)
    assert not torch.isclose(after[0][0], rssm.observe(action[:1], embed[:1], is_first[:1], key)[0][0]).all()


@pytest.mark.parametrize("latent", LATENTS, ids=lambda latent: latent.kind)
def test_priors_over_a_sequence_are_those_of_each_step(latent: LatentSpec) -> None:
    torch.manual_seed(0)
    rssm = RSSM(latent, 7, 6, 2, 5, 3)
    deter = torch.randn(6, 2, 7)
    found = rssm.priors(deter)
    assert found.shape == (3, 6, 2, latent.params)
    for t in range(6):
        torch.testing.assert_close(found[:, t], priors(deter[t], rssm.prior()))
    assert not torch.isclose(found[0], found[1]).all()  # members begin apart


def test_observe_takes_the_latents_std() -> None:
    """No compiled operator knows softplus: the reference serves, and ``compiled`` is refused."""
    torch.manual_seed(0)
    latent = LatentSpec("gaussian", 3, std="softplus")
    rssm = RSSM(latent, 7, 6, 2, 5, 3)
    _, stoch, params = rssm.observe(*rows(), Key(0, 1))
    mean, raw = params.chunk(2, -1)
    noise = draw_noise(latent, Key(0, 1), (6, 2), stoch)
    torch.testing.assert_close(stoch, mean + (torch.nn.functional.softplus(raw) + 0.1) * noise)
    rssm.ops = "compiled"
    if available():
        with pytest.raises(
            SettingError, match="ops: found 'compiled' with world_model.latent_std: softplus in observe"
        ):
            rssm.observe(*rows(), Key(0, 1))


def test_frozen_weights_have_no_gradient() -> None:
    rssm = RSSM(LATENTS[0], 7, 6, 2, 5, 3)
    for frozen in (False, True):
        assert all(w.requires_grad is not frozen for w in (*rssm.cell(frozen), *rssm.prior(frozen)))
    weights = {w.data_ptr() for w in (*rssm.cell(), *rssm.prior(), *rssm.posterior())}
    assert weights == {p.data_ptr() for p in rssm.parameters()}  # nothing is left out


# Prediction on its own.


@BOTH
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_open_loop_losses_by_hand(latent: str, steps: int) -> None:
    """One state at a time, each with the member and the noise that are its own."""
    model = make(latent=latent, open_loop_steps=steps, open_loop_rows=7, kl_scale=0.3, reward_scale=2.0)
    batch = sequences()
    (losses, _), post = model.loss(batch, KEY), model.observe(batch, KEY)
    key = KEY.fold(0x09E7)
    B, T = batch.is_first.shape
    taken = min(steps, T - 1)
    t0 = integers(key, Stream.ROWS, T - taken, (7,), torch.device("cpu"))
    b0 = integers(key.fold(1), Stream.ROWS, B, (7,), torch.device("cpu"))
    turn = integers(key, Stream.MEMBER, 3, (taken,), torch.device("cpu"))
    noise = draw_noise(model.latent, key, (taken, 7), post.params)
    errors, divergences, cut = [], [], 0
    for n, (t, b) in enumerate(zip(t0.tolist(), b0.tolist(), strict=True)):
        deter, stoch = post.states.deter[t, b], post.states.stoch[t, b]
        goes_on = True
        for i in range(taken):
            row = t + 1 + i
            goes_on = goes_on and not bool(batch.is_first[b, row])
            deter = transition(deter[None], stoch[None], batch.action[b, row][None], model.rssm.cell())[0]
            params = priors(deter[None], model.rssm.prior())[(int(turn[i]) + n) % 3, 0]
            stoch = sample(model.latent, params, noise[i, n])
            reward = model.predict_reward(States(deter, stoch))
            errors.append(0.5 * (reward - batch.reward[b, row]).square() if goes_on else torch.zeros(()))
            divergences.append(kl(model.latent, post.params[row, b].detach(), params) if goes_on else torch.zeros(()))
            cut += not goes_on
    assert cut > 0 or steps == 1  # another episode begins within some of them
    torch.testing.assert_close(losses["model/open_loop_reward"], torch.stack(errors).mean())
    torch.testing.assert_close(losses["model/open_loop_kl"], torch.stack(divergences).mean())
    assert model.scales["model/open_loop_reward"] == 2.0 and model.scales["model/open_loop_kl"] == 0.3


def test_open_loop_losses_teach_what_rolls() -> None:
    """Transition, every head and the reward; not, through its targets, the posterior of what followed."""
    model = make(open_loop_steps=3, open_loop_rows=32)
    losses, _ = model.loss(sequences(), KEY)
    (losses["model/open_loop_reward"] + losses["model/open_loop_kl"]).backward()
    heads = model.rssm.prior_out.grad
    assert heads is not None and all(bool((head != 0).any()) for head in heads)
    for module in (model.rssm.gru, model.rssm.input, model.reward):
        assert any(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.decoder.parameters())


def test_open_loop_losses_change_no_other_draw() -> None:
    plain, _ = make().loss(sequences(), KEY)
    more, _ = make(open_loop_steps=2).loss(sequences(), KEY)
    assert more.keys() - plain.keys() == {"model/open_loop_reward", "model/open_loop_kl"}
    for name, loss in plain.items():
        assert torch.equal(loss, more[name])


@pytest.mark.parametrize(("setting", "value"), [("open_loop_steps", -1), ("open_loop_rows", 0)])
def test_bad_open_loop_settings(setting: str, value: int) -> None:
    with pytest.raises(SettingError, match=rf"world_model\.{setting}: found {value}"):
        WorldModelConfig(**{setting: value})
