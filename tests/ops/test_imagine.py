from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.ops.action import ActionDist
from moto_pl.ops.extension import available
from moto_pl.ops.imagine import Imagined, PriorWeights, choose, imagine, in_turn, priors
from moto_pl.ops.latent import LatentSpec, disagreement, sample
from moto_pl.ops.observe import CellWeights
from moto_pl.ops.philox import Key, Stream, integers, normal, uniform

CATEGORICAL, GAUSSIAN = LatentSpec("categorical", 3, 4), LatentSpec("gaussian", 3)
BOTH = pytest.mark.parametrize("latent", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])
KEY = Key(2, 9)
ROWS, DETER, HIDDEN, ACTION = 4, 5, 7, 2


class World:
    """Random float64 weights of a small model and actor, and start states."""

    def __init__(self, latent: LatentSpec, members: int = 3, rows: int = ROWS) -> None:
        generator = torch.Generator().manual_seed(members)

        def draw(*shape: int) -> Tensor:
            return 0.7 * torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.latent, self.members = latent, members
        self.deter, self.stoch = draw(rows, DETER), draw(rows, latent.size)
        features = DETER + latent.size
        self.actor = [
            (draw(HIDDEN, features).requires_grad_(), draw(HIDDEN).requires_grad_()),
            (draw(2 * ACTION, HIDDEN).requires_grad_(), draw(2 * ACTION).requires_grad_()),
        ]
        self.cell = CellWeights(
            draw(HIDDEN, latent.size + ACTION),
            draw(HIDDEN),
            draw(3 * DETER, HIDDEN + DETER),
            draw(3 * DETER),
            draw(3 * DETER),
        )
        self.prior = PriorWeights(
            draw(members, DETER, HIDDEN),
            draw(members, 1, HIDDEN),
            draw(members, HIDDEN, latent.params),
            draw(members, 1, latent.params),
        )

    def imagine(self, steps: int, key: Key = KEY, **options: Any) -> Imagined:
        return imagine(self.deter, self.stoch, self.actor, self.cell, self.prior, self.latent, key, steps, **options)

    @property
    def actor_weights(self) -> list[Tensor]:
        return [w for layer in self.actor for w in layer]

    def naive(
        self,
        steps: int,
        key: Key = KEY,
        member_choice: str = "step",
        kind: str = "mean",
        action_kind: str = "trunc_normal",
    ) -> Imagined:
        """Row by row and head by head."""
        rows, size = len(self.deter), self.latent.stoch
        action_noise = uniform(key, Stream.ACTION, ((steps + 1) * rows * ACTION,), dtype=torch.float64)
        draw = normal if self.latent.kind == "gaussian" else uniform
        latent_noise = draw(key, Stream.LATENT, (steps * rows * size,), dtype=torch.float64)
        member = integers(key, Stream.MEMBER, self.members, (steps * (rows if member_choice == "row" else 1),))
        out: list[list[Tensor]] = [[], [], [], [], []]
        for b in range(rows):
            h, z = self.deter[b], self.stoch[b]
            lists: list[list[Tensor]] = [[h], [z], [], [], []]
            for i in range(steps + 1):
                x = torch.cat((h, z)).detach()
                x = F.elu(self.actor[0][0] @ x + self.actor[0][1])
                dist = ActionDist(self.actor[1][0] @ x + self.actor[1][1], action_kind)  # type: ignore[arg-type]
                start = (i * rows + b) * ACTION
                a = dist.sample(action_noise[start : start + ACTION])
                lists[2].append(a)
                lists[3].append(dist.entropy(action_noise[start : start + ACTION]))
                if i == steps:
                    break
                x = F.elu(self.cell.input_weight @ torch.cat((z, a)) + self.cell.input_bias)
                gates = self.cell.gru_weight @ torch.cat((x, h))
                gates = (gates - gates.mean()) / (gates.var(correction=0) + 1e-3).sqrt()
                gates = gates * self.cell.norm_weight + self.cell.norm_bias
                reset, candidate, update = gates[:DETER], gates[DETER : 2 * DETER], gates[2 * DETER :]
                update = torch.sigmoid(update - 1)
                h = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * h
                heads = []
                for k in range(self.members):
                    hidden = F.elu(h @ self.prior.hidden_weight[k] + self.prior.hidden_bias[k, 0])
                    heads.append(hidden @ self.prior.out_weight[k] + self.prior.out_bias[k, 0])
                chosen = int(member[i * rows + b] if member_choice == "row" else member[i])
                start = (i * rows + b) * size
                z = sample(self.latent, heads[chosen], latent_noise[start : start + size])
                lists[0].append(h)
                lists[1].append(z)
                lists[4].append(disagreement(self.latent, torch.stack(heads), z, kind))  # type: ignore[arg-type]
            for mine, new in zip(out, lists, strict=True):
                mine.append(torch.stack(new) if new else torch.zeros(0, dtype=torch.float64))
        return Imagined(*(torch.stack(x, 1) for x in out))


def gradients(rollout: Imagined, weights: list[Tensor], fields: tuple[str, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for field in fields:
        x = getattr(rollout, field)
        loss = loss + (torch.randn(x.shape, generator=generator, dtype=x.dtype) * x).sum()
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


@BOTH
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("member_choice", ["step", "row"])
def test_against_naive_loop(latent: LatentSpec, steps: int, member_choice: str) -> None:
    world = World(latent)
    found = world.imagine(steps, member_choice=member_choice)
    expected = world.naive(steps, member_choice=member_choice)
    shapes = [
        (steps + 1, ROWS, DETER),
        (steps + 1, ROWS, latent.size),
        (steps + 1, ROWS, ACTION),
        (steps + 1, ROWS),
        (steps, ROWS),
    ]
    for ours, theirs, shape in zip(found, expected, shapes, strict=True):
        assert ours.shape == shape
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for field in ("deter", "stoch", "action", "entropy", "disagreement"):
        # One at a time: each is a way of its own on which the gradient reaches the actor.
        if steps == 0 and field not in ("action", "entropy"):
            continue
        ours = gradients(
            found_again := world.imagine(steps, member_choice=member_choice), world.actor_weights, (field,)
        )
        theirs = gradients(world.naive(steps, member_choice=member_choice), world.actor_weights, (field,))
        assert getattr(found_again, field).isfinite().all()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
            assert a.abs().max() > 1e-9, field


@BOTH
@pytest.mark.parametrize("kind", ["logit", "log_prob", "max_var"])
@pytest.mark.parametrize("action_kind", ["trunc_normal", "tanh_normal"])
def test_options_against_naive_loop(latent: LatentSpec, kind: str, action_kind: str) -> None:
    if kind == "max_var" and latent.kind == "categorical":
        with pytest.raises(ValueError, match="max_var"):
            World(latent).imagine(1, disagreement_kind=kind)
        return
    world = World(latent)
    found = world.imagine(3, disagreement_kind=kind, action_kind=action_kind)
    expected = world.naive(3, kind=kind, action_kind=action_kind)
    fields = ("action", "entropy", "disagreement")
    for field in fields:
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-9)
    for a, b in zip(
        gradients(found, world.actor_weights, fields), gradients(expected, world.actor_weights, fields), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@BOTH
def test_the_actor_sees_states_without_gradient(latent: LatentSpec) -> None:
    world = World(latent)
    states = [world.deter.requires_grad_(), world.stoch.requires_grad_()]
    rollout = world.imagine(2)
    direct = torch.autograd.grad(
        rollout.action.sum() + rollout.entropy.sum(),
        states,
        allow_unused=True,
        materialize_grads=True,
        retain_graph=True,
    )
    assert all((g == 0).all() for g in direct)
    through = torch.autograd.grad(rollout.deter[2].sum(), states)
    assert all((g != 0).any() for g in through)  # the states' own recurrence keeps its gradient


@pytest.mark.parametrize("weight", range(9))
def test_world_model_weights_with_gradient_are_refused(weight: int) -> None:
    world = World(GAUSSIAN)
    [*world.cell, *world.prior][weight].requires_grad_()
    with pytest.raises(ValueError, match="requires grad"):
        world.imagine(1)


@BOTH
def test_one_member(latent: LatentSpec) -> None:
    world = World(latent, members=1)
    found, expected = world.imagine(3), world.naive(3)
    torch.testing.assert_close(found.stoch, expected.stoch)
    assert (found.disagreement < 1e-5).all()
    for g in gradients(found, world.actor_weights, ("deter", "disagreement")):
        assert g.isfinite().all()


def test_members_are_shared_by_a_step_or_drawn_by_row() -> None:
    """Members that predict 0, 10 and 20, with little noise, say who was chosen."""
    world = World(GAUSSIAN, rows=400)
    world.prior = PriorWeights(*(torch.zeros_like(w) for w in world.prior))
    size = GAUSSIAN.stoch
    for k in range(3):
        world.prior.out_bias[k, 0, :size] = 10 * k
        world.prior.out_bias[k, 0, size:] = -100
    chosen = (world.imagine(60, member_choice="step").stoch[1:].mean(-1) / 10).round()  # [60, 400]
    assert (chosen == chosen[:, :1]).all()
    assert set(chosen[:, 0].tolist()) == {0, 1, 2}
    chosen = (world.imagine(6, member_choice="row").stoch[1:].mean(-1) / 10).round()
    for step in chosen:
        counts = np.bincount(step.long().numpy(), minlength=3)
        assert counts.min() > 90  # 133 expected
    assert not (chosen[0] == chosen[1]).all()


def test_the_key_alone_decides() -> None:
    world = World(CATEGORICAL)
    first, again, other = world.imagine(3), world.imagine(3), world.imagine(3, Key(2, 10))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_min_std_reaches_the_actor() -> None:
    world = World(GAUSSIAN)
    low = torch.cat((torch.zeros(ACTION), torch.full((ACTION,), -100.0)))
    world.actor = [(w.detach() * 0, b.detach() * 0) for w, b in world.actor[:1]] + [
        (world.actor[1][0].detach() * 0, low.double())
    ]
    assert world.imagine(0, min_std=1e-3).action.abs().max() < 0.01
    assert world.imagine(0, min_std=0.5).action.abs().max() > 0.05


def test_priors_and_choose() -> None:
    world = World(GAUSSIAN)
    params = priors(world.deter, world.prior)
    assert params.shape == (3, ROWS, GAUSSIAN.params)
    for k in range(3):
        hidden = F.elu(world.deter @ world.prior.hidden_weight[k] + world.prior.hidden_bias[k])
        torch.testing.assert_close(params[k], hidden @ world.prior.out_weight[k] + world.prior.out_bias[k])
    assert torch.equal(choose(params, torch.tensor(2)), params[2])
    rows = choose(params, torch.tensor([2, 0, 1, 2]))
    for b, k in enumerate([2, 0, 1, 2]):
        assert torch.equal(rows[b], params[k, b])


@pytest.mark.parametrize(("rows", "members"), [(7, 3), (6, 3), (2, 3), (5, 1), (0, 3)])
def test_members_in_turn(rows: int, members: int) -> None:
    world = World(GAUSSIAN, members, rows)
    weights = PriorWeights(*(weight.requires_grad_() for weight in world.prior))
    for turn in range(members):
        member = (torch.arange(rows) + turn) % members
        found = in_turn(world.deter, weights, torch.tensor(turn))
        wanted = choose(priors(world.deter, weights), member)
        torch.testing.assert_close(found, wanted)
        towards = torch.linspace(-1, 1, max(1, wanted.numel()), dtype=torch.float64)[: wanted.numel()].view_as(wanted)
        grads = [torch.autograd.grad((x * towards).sum(), weights) for x in (found, wanted)]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.skipif(not available(), reason="no compiled operators")
def test_compiled_is_refused_where_no_operator_knows_the_std() -> None:
    world = World(GAUSSIAN)
    world.imagine(1, ops="compiled")
    known = world.imagine(1).stoch
    world.latent = LatentSpec("gaussian", 3, std="softplus")
    with pytest.raises(SettingError, match="ops: found 'compiled' with world_model.latent_std: softplus in imagine"):
        world.imagine(1, ops="compiled")
    found = world.imagine(1, ops="auto").stoch
    assert torch.equal(found, world.imagine(1, ops="reference").stoch) and not torch.isclose(found[1], known[1]).any()
