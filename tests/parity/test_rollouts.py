"""The compiled ``imagine`` and ``observe`` against their references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rollouts import SIZES, Sizes, gradients, imagination, leaves, observation
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.ops import CellWeights, Imagined, Key, LatentSpec, extension, imagine, observe
from moto_pl.ops.imagine import imagine_ref
from moto_pl.ops.observe import observe_ref

pytestmark = pytest.mark.skipif(not extension.available(), reason=extension.status())

LATENTS = [LatentSpec("categorical", 3, 4), LatentSpec("categorical", 5, 17), LatentSpec("gaussian", 7)]
KINDS = ["mean", "logit", "log_prob", "max_var"]
EACH_LATENT = pytest.mark.parametrize("latent", LATENTS, ids=["3x4", "5x17", "gaussian"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
# float32 sums in another order, through up to five recurrent steps.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}
SMALL = Sizes(4, 5, 7, 3, 2, (6, 9), 3)


def assert_alike(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype == other.dtype and one.shape == other.shape, index
        scale = max(1.0, other.abs().max().item()) if other.numel() else 1.0
        torch.testing.assert_close(
            one, other, rtol=0, atol=TOLERANCE[dtype] * scale, msg=lambda m, i=index: f"{i}: {m}"
        )


def run_imagine(
    function: Callable[..., Imagined], arguments: dict[str, Any], fields: tuple[int, ...], **options: Any
) -> tuple[Imagined, tuple[Tensor, ...]]:
    outputs = function(**arguments, **options)
    return outputs, gradients(arguments, outputs, fields)


@DTYPES
@EACH_LATENT
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action_kind", ["trunc_normal", "tanh_normal"])
@pytest.mark.parametrize("member_choice", ["step", "row"])
def test_imagine_is_its_reference(
    latent: LatentSpec, sizes: Sizes, dtype: torch.dtype, kind: str, action_kind: str, member_choice: str
) -> None:
    if kind == "max_var" and latent.kind == "categorical":
        pytest.skip("no std to take")
    arguments = imagination(latent, sizes, dtype)
    options = {"disagreement_kind": kind, "action_kind": action_kind, "member_choice": member_choice}
    # All gradients at once, without the disagreement's (members that were not chosen are left out), and it alone.
    for fields in ((0, 1, 2, 3, 4), (0, 1, 2, 3), (4,), (3,)):
        if sizes.steps == 0 and fields == (4,):
            continue  # there is none
        expected, expected_grads = run_imagine(imagine_ref, arguments, fields, **options)
        found, found_grads = run_imagine(imagine, arguments, fields, **options, ops="compiled")
        assert_alike(found, expected, dtype)
        assert_alike(found_grads, expected_grads, dtype)


@DTYPES
@EACH_LATENT
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_observe_is_its_reference(latent: LatentSpec, sizes: Sizes, dtype: torch.dtype) -> None:
    if sizes.steps == 0:
        pytest.skip("a sequence has a row")
    arguments = observation(latent, sizes, dtype)
    for fields in ((0, 1, 2), (1,), (2,)):
        expected, found = observe_ref(**arguments), observe(**arguments, ops="compiled")
        assert_alike(found, expected, dtype)
        assert_alike(gradients(arguments, found, fields), gradients(arguments, expected, fields), dtype)


@pytest.mark.parametrize("kind", ["mean", "log_prob"])
def test_gradcheck_of_imagine(kind: str) -> None:
    """Gaussian latents: one-hots have a straight-through gradient, which no finite difference shows."""
    arguments = imagination(LatentSpec("gaussian", 2), Sizes(2, 3, 2, 2, 1, (3,), 2))
    # The actor sees states without gradient, so only the actor's own is a derivative.
    wanted = [x for layer in arguments["actor"] for x in layer]
    arguments["deter"], arguments["stoch"] = arguments["deter"].detach(), arguments["stoch"].detach()

    def function(*weights: Tensor) -> tuple[Tensor, ...]:
        actor = list(zip(weights[::2], weights[1::2], strict=True))
        out = imagine(**(arguments | {"actor": actor, "steps": 1}), disagreement_kind=kind, ops="compiled")  # type: ignore[arg-type]
        return out.deter, out.action[:1], out.entropy[:1], out.disagreement

    assert torch.autograd.gradcheck(function, wanted)


def test_gradcheck_of_observe() -> None:
    arguments = observation(LatentSpec("gaussian", 2), Sizes(2, 3, 2, 1, 1, (), 3), embed=2)
    names = ("action", "embed", "deter", "stoch")

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        changed = dict(zip(names, tensors, strict=False))
        return observe(**(arguments | changed), ops="compiled")

    assert torch.autograd.gradcheck(function, [arguments[name] for name in names])


def operands(latent: LatentSpec, sizes: Sizes, dtype: torch.dtype) -> tuple[Any, ...]:
    """The operator ``moto::observe``'s own arguments up to its weights."""
    o = observation(latent, sizes, dtype)
    weights = [o["cell"][0][:, : latent.size], *o["cell"][2:], o["posterior"][0][:, : sizes.deter], *o["posterior"][2:]]
    weights = [w.detach().contiguous().requires_grad_() for w in weights]
    rows = o["is_first"].shape
    units = (weights[0].shape[0], weights[4].shape[0])  # of the input layer and of the posterior's hidden one
    from_action, from_embed = (torch.randn(*rows, width, dtype=dtype, requires_grad=True) for width in units)
    return from_action, from_embed, o["is_first"], o["deter"], o["stoch"], weights


@pytest.mark.parametrize("latent", [LATENTS[0], LATENTS[2]], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("bfloat16", [False, True], ids=["full", "bfloat16"])
def test_opcheck(latent: LatentSpec, bfloat16: bool) -> None:
    dtype = torch.float32 if bfloat16 else torch.float64
    a = imagination(latent, SMALL, dtype)
    layers = [x for layer in a["actor"] for x in layer]
    options = (latent.codes, 3, 7, None, 1, 6, 3, 0, 0.1, False, 0, bfloat16)
    sample = (a["deter"], a["stoch"], layers, list(a["cell"]), list(a["prior"]), *options, True)
    torch.library.opcheck(torch.ops.moto.imagine.default, sample)
    plain = [x.detach() for x in layers]
    out = torch.ops.moto.imagine(a["deter"].detach(), a["stoch"].detach(), plain, *sample[3:])
    saved = [out[0], out[1], *out[5:]]
    grads = [torch.ones_like(x) for x in out[:5]]
    for some in (grads, [None, None, grads[2], None, None]):
        torch.library.opcheck(
            torch.ops.moto.imagine_backward.default,
            (*some, saved, plain, list(a["cell"]), list(a["prior"]), *options, True, True),
        )
    *inputs, weights = operands(latent, SMALL, dtype)
    tail = (latent.codes, 3, 7, None, 1, 6, bfloat16)
    torch.library.opcheck(torch.ops.moto.observe.default, (*inputs, weights, *tail, True))
    inputs = [t.detach() for t in inputs]
    weights = [w.detach() for w in weights]
    found = torch.ops.moto.observe(*inputs, weights, *tail, True)
    grads = [torch.ones_like(t) for t in found[:3]]
    for some in (grads, [None, grads[1], None]):
        torch.library.opcheck(torch.ops.moto.observe_backward.default, (*some, [*inputs[2:], *found], weights, *tail))


@EACH_LATENT
def test_bits_do_not_depend_on_threads(latent: LatentSpec) -> None:
    sizes = Sizes(67, 65, 48, 5, 3, (96, 64), 4)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            a = imagination(latent, sizes, torch.float32)
            rollout = imagine(**a, ops="compiled")
            # The operator itself: gradients of what surrounds it, products over all steps at once, are ATen's.
            *inputs, weights = operands(latent, sizes, torch.float32)
            posterior = torch.ops.moto.observe(*inputs, weights, latent.codes, 3, 7, None, 0, 0, False, True)
            o = {"inputs": inputs, "weights": weights}
            grads = (*gradients(a, rollout, (0, 1, 2, 3, 4)), *gradients(o, posterior, (0, 1, 2)))
            results.append([*rollout, *posterior, *grads])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for index, (one, other) in enumerate(zip(result, results[0], strict=True)):
            assert torch.equal(one, other), index


def test_frequencies_are_the_probabilities() -> None:
    """20,000 rows in one state: the classes drawn against the posterior's probabilities, and their independence."""
    latent, rows = LatentSpec("categorical", 3, 4), 20_000
    o = observation(latent, Sizes(1, 5, 7, 1, 2, (), 1))
    wide = {n: o[n][:, :1].expand(-1, rows, -1) for n in ("action", "embed")}
    wide |= {n: o[n][:1].expand(rows, -1) for n in ("deter", "stoch")}
    with torch.no_grad():
        _, stoch, params = observe(**(o | wide | {"is_first": torch.zeros(1, rows, dtype=torch.bool)}), ops="compiled")
    probs, drawn = latent.logits(params[0, 0]).softmax(-1), latent.logits(stoch[0])  # [3, 4], [rows, 3, 4]
    assert (drawn.sum(-1) == 1).all()
    deviation = (probs * (1 - probs) / rows).sqrt()
    assert ((drawn.mean(0) - probs).abs() < 4.5 * deviation + 1e-9).all()
    joint = torch.einsum("bi,bj->ij", drawn[:, 0], drawn[:, 1]) / rows
    expected = probs[0].unsqueeze(1) * probs[1]
    assert ((joint - expected).abs() < 4.5 * (expected / rows).sqrt() + 1e-9).all()


def test_gaussian_draws_have_their_moments() -> None:
    latent, rows = LatentSpec("gaussian", 3), 20_000
    a = imagination(latent, Sizes(1, 5, 7, 1, 2, (), 1))
    wide = {n: a[n][:1].detach().expand(rows, -1) for n in ("deter", "stoch")}
    a["actor"] = [(w.detach() * 0, b.detach()) for w, b in a["actor"]]
    a["cell"] = CellWeights(a["cell"].input_weight * 0, *a["cell"][1:])  # the action, too, changes nothing
    rollout = imagine(**(a | wide), ops="compiled")
    deter = rollout.deter[1, :1]
    hidden = torch.nn.functional.elu(deter @ a["prior"].hidden_weight[0] + a["prior"].hidden_bias[0])
    mean, std = latent.moments((hidden @ a["prior"].out_weight[0] + a["prior"].out_bias[0])[0])
    standard = (rollout.stoch[1] - mean) / std
    assert (standard.mean(0).abs() < 4.5 / rows**0.5).all()
    assert ((standard.square().mean(0) - 1).abs() < 4.5 * (2 / rows) ** 0.5).all()


def test_strided_and_expanded_inputs() -> None:
    a, o = imagination(LATENTS[0], SMALL), observation(LATENTS[0], SMALL)
    found = imagine(**(a | {"deter": a["deter"].t().contiguous().t()}), ops="compiled")
    assert all(torch.equal(x, y) for x, y in zip(found, imagine(**a, ops="compiled"), strict=True))
    turned = {name: o[name].transpose(0, 1).contiguous().transpose(0, 1) for name in ("action", "embed", "is_first")}
    for x, y in zip(observe(**(o | turned), ops="compiled"), observe(**o, ops="compiled"), strict=True):
        assert torch.equal(x, y)
    # A sum's gradient is one number, expanded.
    outputs = imagine(**a, ops="compiled")
    found_grads = torch.autograd.grad(sum(x.sum() for x in outputs), leaves(a))
    expected = torch.autograd.grad(sum(x.sum() for x in imagine_ref(**a)), leaves(a))
    assert_alike(found_grads, expected, torch.float64)


def test_backward_twice_gives_the_same() -> None:
    a, o = imagination(LATENTS[1], SMALL), observation(LATENTS[1], SMALL)
    for arguments, outputs in ((a, imagine(**a, ops="compiled")), (o, observe(**o, ops="compiled"))):
        total = sum(x.sum() for x in outputs)
        first = torch.autograd.grad(total, leaves(arguments), retain_graph=True)
        again = torch.autograd.grad(total, leaves(arguments))
        assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_without_gradients_the_values_are_the_same_and_nothing_is_kept() -> None:
    a, o = imagination(LATENTS[0], SMALL), observation(LATENTS[0], SMALL)
    for function, arguments in ((imagine, a), (observe, o)):
        expected = function(**arguments, ops="compiled")
        with torch.no_grad():
            found = function(**arguments, ops="compiled")
        assert all(torch.equal(x, y) and not x.requires_grad for x, y in zip(found, expected, strict=True))


def test_only_what_is_wanted_gets_a_gradient() -> None:
    a = imagination(LATENTS[0], SMALL)
    a["deter"], a["stoch"] = a["deter"].detach(), a["stoch"].detach()
    everything = gradients(imagination(LATENTS[0], SMALL), imagine(**(b := imagination(LATENTS[0], SMALL))), (4,))
    assert len(everything) == len(leaves(b))
    actor_only = gradients(a, imagine(**a, ops="compiled"), (1, 4))
    full = imagination(LATENTS[0], SMALL)
    both = gradients(full, imagine(**full, ops="compiled"), (1, 4))
    assert_alike(actor_only, both[2:], torch.float64)


def test_second_derivative_is_refused() -> None:
    a = imagination(LATENTS[0], SMALL)
    (first,) = torch.autograd.grad(imagine(**a, ops="compiled").deter.square().sum(), a["deter"], create_graph=True)
    with pytest.raises(RuntimeError, match="imagine_backward"):
        first.sum().backward()


@EACH_LATENT
def test_autocast_is_the_references(latent: LatentSpec) -> None:
    """Products in bfloat16, to its precision. One step, after which a draw may differ by rounding."""
    a = imagination(latent, Sizes(16, 40, 48, 3, 2, (32,), 1), torch.float32)
    o = observation(latent, Sizes(16, 40, 48, 3, 2, (), 1), torch.float32)
    for function, reference, arguments, fields in (
        (imagine, imagine_ref, a, (0,)),
        (observe, observe_ref, o, (0, 2)),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = function(**arguments, ops="compiled"), reference(**arguments)
        for index in fields:
            assert found[index].dtype == expected[index].dtype == torch.float32
            assert (found[index][:1] - expected[index][:1]).norm() <= 0.02 * expected[index][:1].norm() + 1e-4
        for one, other in zip(gradients(arguments, found, fields), gradients(arguments, expected, fields), strict=True):
            assert one.dtype == torch.float32
            assert (one - other).norm() <= 0.04 * other.norm() + 1e-4


def test_other_precisions_are_refused_or_left_to_the_reference() -> None:
    a, o = imagination(LATENTS[0], SMALL, torch.bfloat16), observation(LATENTS[0], SMALL, torch.bfloat16)
    with pytest.raises(SettingError, match="^ops: found 'compiled' with torch.bfloat16 states in imagine"):
        imagine(**a, ops="compiled")
    with pytest.raises(SettingError, match="^ops: found 'compiled' with torch.bfloat16 states in observe"):
        observe(**o, ops="compiled")
    assert observe(**o)[0].dtype == torch.bfloat16
    a = imagination(LATENTS[0], SMALL, torch.float32)
    with torch.autocast("cpu", torch.float16), pytest.raises(SettingError, match="autocast to torch.float16"):
        imagine(**a, ops="compiled")


@pytest.mark.parametrize("name", ["stoch", "actor", "cell", "prior"])
@pytest.mark.parametrize("function", [imagine, imagine_ref], ids=["imagine", "reference"])
def test_imagine_refuses_by_name(name: str, function: Callable[..., Imagined]) -> None:
    a = imagination(LATENTS[0], SMALL)
    field = {
        "stoch": "stoch",
        "actor": r"actor\[0\].weight",
        "cell": "cell.input_weight",
        "prior": "prior.hidden_bias",
    }
    bad = {"stoch": a["stoch"][:, 1:], "actor": [(a["actor"][0][0][:, 1:], a["actor"][0][1]), *a["actor"][1:]]}
    bad["cell"] = a["cell"]._replace(input_weight=a["cell"].input_weight[1:])
    bad["prior"] = a["prior"]._replace(hidden_bias=a["prior"].hidden_bias[:, 0])
    with pytest.raises(SettingError, match=f"^{field[name]}: found shape"):
        function(**(a | {name: bad[name]}))
    bad = {"stoch": a["stoch"].float(), "actor": [(a["actor"][0][0].float(), a["actor"][0][1]), *a["actor"][1:]]}
    bad["cell"] = a["cell"]._replace(input_weight=a["cell"].input_weight.float())
    bad["prior"] = a["prior"]._replace(hidden_bias=a["prior"].hidden_bias.float())
    with pytest.raises(SettingError, match=f"^{field[name]}: found torch.float32"):
        function(**(a | {name: bad[name]}))


@pytest.mark.parametrize("name", ["action", "embed", "is_first", "deter", "stoch"])
@pytest.mark.parametrize("function", [observe, observe_ref], ids=["observe", "reference"])
def test_observe_refuses_by_name(name: str, function: Callable[..., tuple[Tensor, ...]]) -> None:
    o = observation(LATENTS[0], SMALL)
    bad = o[name][0] if name in ("action", "embed", "is_first") else o[name][:, 0]
    with pytest.raises(SettingError, match=f"^{name}: found shape"):
        function(**(o | {name: bad}))
    with pytest.raises(SettingError, match=f"^{name}: found device meta" if name != "deter" else "found device"):
        function(**(o | {name: o[name].to("meta")}))


def test_disagreement_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="max_var"):
        imagine(**imagination(LATENTS[0], SMALL), disagreement_kind="max_var", ops="compiled")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compile_keeps_it_whole(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph without a break, the same numbers, and a new offset compiles nothing anew."""
    # A cache on disk knows nothing of a change in what an operator keeps for backward.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    a, o = imagination(LATENTS[0], SMALL), observation(LATENTS[0], SMALL)

    def function(a: dict[str, Any], o: dict[str, Any], offset: int) -> Tensor:
        rollout = imagine(**(a | {"key": Key(1, offset)}), ops="compiled")
        posterior = observe(**(o | {"key": Key(1, offset)}), ops="compiled")
        return sum(x.square().sum() for x in (*rollout, *posterior))  # type: ignore[return-value]

    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=True)
    for offset in (5, 6, 7):
        found, expected = compiled(a, o, offset), function(a, o, offset)
        torch.testing.assert_close(found, expected)
        wanted = leaves(a) + leaves(o)
        for x, y in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
            torch.testing.assert_close(x, y)
