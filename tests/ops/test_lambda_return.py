import numpy as np
import pytest
import torch
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.ops import extension
from moto_pl.ops.lambda_return import lambda_return, lambda_return_ref

compiled = pytest.mark.skipif(not extension.available(), reason=extension.status())
OPS = ["reference", pytest.param("compiled", marks=compiled)]
# Absolute and relative error allowed against float64; bfloat16 keeps 8 bits of mantissa.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def inputs(steps: int, batch: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(steps * 1000 + batch)
    reward = torch.randn(steps, batch, generator=generator, dtype=torch.float64)
    value = torch.randn(steps + 1, batch, generator=generator, dtype=torch.float64)
    discount = torch.rand(steps, batch, generator=generator, dtype=torch.float64)
    return tuple(x.to(dtype).requires_grad_(grad) for x in (reward, value, discount))


def loop(reward: np.ndarray, value: np.ndarray, discount: np.ndarray, lambda_: float) -> np.ndarray:
    """The definition, one number at a time in float64."""
    steps, batch = reward.shape
    returns = np.zeros((steps, batch))
    for b in range(batch):
        running = value[steps, b]
        for i in range(steps - 1, -1, -1):
            running = reward[i, b] + discount[i, b] * ((1 - lambda_) * value[i + 1, b] + lambda_ * running)
            returns[i, b] = running
    return returns


@pytest.mark.parametrize("ops", OPS)
def test_hand_computed(ops: str) -> None:
    reward, discount = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.25]])
    value = torch.tensor([[100.0], [4.0], [8.0]])
    # G_1 = 2 + 0.25 * 8 = 4;  G_0 = 1 + 0.5 * (0.75 * 4 + 0.25 * 4) = 3
    assert lambda_return(reward, value, discount, 0.25, ops).tolist() == [[3.0], [4.0]]


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (15, 7), (15, 1600), (3, 513)])
def test_against_float64_loop(ops: str, dtype: torch.dtype, lambda_: float, shape: tuple[int, int]) -> None:
    tensors = inputs(*shape, dtype)
    expected = loop(*(x.double().numpy() for x in tensors), lambda_)
    found = lambda_return(*tensors, lambda_, ops)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@compiled
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (15, 7), (15, 1600), (3, 513)])
def test_gradients_are_the_references(dtype: torch.dtype, lambda_: float, shape: tuple[int, int]) -> None:
    weight = inputs(*shape)[0].to(dtype)
    expected = torch.autograd.grad(
        lambda_return_ref(*(tensors := inputs(*shape, dtype, True)), lambda_), tensors, weight
    )
    found = torch.autograd.grad(
        lambda_return(*(tensors := inputs(*shape, dtype, True)), lambda_, "compiled"), tensors, weight
    )
    for one, other in zip(found, expected, strict=True):
        # bfloat16 gradients of the reference add up in bfloat16 where a value is used twice.
        torch.testing.assert_close(one, other, rtol=2 * TOLERANCE[dtype], atol=2 * TOLERANCE[dtype])


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("steps", [1, 4])
def test_gradcheck(ops: str, steps: int) -> None:
    assert torch.autograd.gradcheck(lambda *x: lambda_return(*x, 0.9, ops), inputs(steps, 3, grad=True))


@compiled
@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (4, 0)])
def test_opcheck(shape: tuple[int, int]) -> None:
    torch.library.opcheck(torch.ops.moto.lambda_return.default, (*inputs(*shape, grad=True), 0.9))
    grad, value, discount = inputs(*shape)
    torch.library.opcheck(torch.ops.moto.lambda_return_backward.default, (grad, value, discount, grad.clone(), 0.9))


@compiled
def test_second_derivative_is_refused() -> None:
    reward, value, discount = inputs(3, 2, grad=True)
    (first,) = torch.autograd.grad(
        lambda_return(reward, value, discount, 0.9, "compiled").sum(), discount, create_graph=True
    )
    with pytest.raises(RuntimeError, match="lambda_return_backward"):
        first.sum().backward()


@pytest.mark.parametrize("ops", OPS)
def test_no_steps(ops: str) -> None:
    reward, value, discount = inputs(0, 5, grad=True)
    returns = lambda_return(reward, value, discount, 0.9, ops)
    assert returns.shape == (0, 5)
    returns.sum().backward()
    assert value.grad is None or not value.grad.any()


@compiled
def test_strided_inputs() -> None:
    reward, value, discount = inputs(6, 5)
    expected = lambda_return(reward, value, discount, 0.9, "compiled")
    found = lambda_return(reward.t().contiguous().t(), value.t().contiguous().t(), discount, 0.9, "compiled")
    assert found.is_contiguous() and torch.equal(found, expected)
    constant = torch.tensor(0.99, dtype=torch.float64).expand(6, 5)
    assert torch.equal(
        lambda_return(reward, value, constant, 0.9, "compiled"),
        lambda_return(reward, value, constant.contiguous(), 0.9, "compiled"),
    )


@compiled
def test_bits_do_not_depend_on_threads() -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            tensors = inputs(15, 20_011, torch.float32, True)
            returns = lambda_return(*tensors, 0.95, "compiled")
            results.append([returns, *torch.autograd.grad(returns, tensors, returns.detach())])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@compiled
def test_exports_whole() -> None:
    """The operator traces as one node, with a batch size that is not known beforehand."""
    batch = torch.export.Dim("batch", min=2)
    graph = torch.export.export(Return(), inputs(4, 3), dynamic_shapes=[{1: batch}] * 3)
    assert sum(node.target == torch.ops.moto.lambda_return.default for node in graph.graph.nodes) == 1
    tensors = inputs(4, 9)
    assert torch.equal(graph.module()(*tensors), lambda_return(*tensors, 0.9, "compiled"))


class Return(torch.nn.Module):
    def forward(self, reward: Tensor, value: Tensor, discount: Tensor) -> Tensor:
        return lambda_return(reward, value, discount, 0.9, "compiled")


BAD = {
    "reward": lambda r, v, d: (r[0], v, d),
    "value": lambda r, v, d: (r, v[1:], d),
    "discount": lambda r, v, d: (r, v, d[:, :1]),
}
BAD_DTYPE = {
    "reward": lambda r, v, d: (r.half(), v.half(), d.half()),
    "value": lambda r, v, d: (r, v.float(), d),
    "discount": lambda r, v, d: (r, v, d.float()),
}
BAD_DEVICE = {
    "value": lambda r, v, d: (r, v.to("meta"), d),
    "discount": lambda r, v, d: (r, v, d.to("meta")),
}
REFUSED = [(name, make) for cases in (BAD, BAD_DTYPE, BAD_DEVICE) for name, make in cases.items()]


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize(("name", "make"), REFUSED)
def test_refused_by_name(ops: str, name: str, make) -> None:
    with pytest.raises(SettingError, match=rf"^{name}: found"):
        lambda_return(*make(*inputs(4, 3)), 0.9, ops)


@pytest.mark.parametrize("lambda_", [-0.1, 1.1, float("nan")])
def test_lambda_out_of_range(lambda_: float) -> None:
    with pytest.raises(SettingError, match="^lambda_: found"):
        lambda_return(*inputs(4, 3), lambda_)


@compiled
def test_auto_is_the_operator() -> None:
    returns = lambda_return(*inputs(4, 3, grad=True), 0.9)
    assert "moto_lambda_return" in returns.grad_fn.name()


@pytest.mark.gpu
@compiled
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (15, 1600), (3, 513)])
def test_cuda_is_the_cpu(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    assert extension.use_compiled("compiled", torch.device("cuda"))
    on_cpu = inputs(*shape, dtype, True)
    on_gpu = tuple(x.detach().cuda().requires_grad_() for x in on_cpu)
    found, expected = lambda_return(*on_gpu, 0.95, "compiled"), lambda_return(*on_cpu, 0.95, "compiled")
    torch.testing.assert_close(found.cpu(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view(shape).to(dtype)
    for one, other in zip(
        torch.autograd.grad(found, on_gpu, weight.cuda()), torch.autograd.grad(expected, on_cpu, weight), strict=True
    ):
        torch.testing.assert_close(one.cpu(), other, rtol=2 * TOLERANCE[dtype], atol=2 * TOLERANCE[dtype])
