import torch
import torch.nn.functional as F

from moto_pl.nn import MLP, EnsembleMLP


def grads(module: torch.nn.Module) -> list[bool]:
    return [p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters()]


def randomise(module: torch.nn.Module) -> None:
    for p in module.parameters():
        p.data = torch.randn_like(p)


def test_mlp_by_hand() -> None:
    torch.manual_seed(0)
    net, x = MLP(3, 2, 2, 5), torch.randn(4, 6, 3)
    randomise(net)
    first, second, last = net.linears
    expected = last(F.elu(second(F.elu(first(x)))))
    torch.testing.assert_close(net(x), expected)
    assert net(x).shape == (4, 6, 2) and net.out_features == 2


def test_mlp_without_a_last_layer_ends_active_and_without_layers_is_the_identity() -> None:
    torch.manual_seed(0)
    net, x = MLP(3, None, 1, 5), torch.randn(4, 3)
    torch.testing.assert_close(net(x), F.elu(net.linears[0](x)))
    assert net.out_features == 5
    nothing = MLP(3, None, 0, 5)
    assert nothing(x) is x and nothing.out_features == 3


def test_ensemble_equals_separate_mlps() -> None:
    torch.manual_seed(0)
    ensemble, x = EnsembleMLP(4, 3, 2, 2, 5), torch.randn(6, 7, 3, requires_grad=True)
    randomise(ensemble)
    separate = []
    for n in range(4):
        net = MLP(3, 2, 2, 5)
        for layer, kernel, bias in zip(net.linears, ensemble.kernels, ensemble.biases, strict=True):
            layer.weight.data, layer.bias.data = kernel[n].detach().T.clone(), bias[n, 0].detach().clone()
        separate.append(net)
    found = ensemble(x)
    assert found.shape == (4, 6, 7, 2)
    torch.testing.assert_close(found, torch.stack([net(x) for net in separate]))
    for n in range(4):
        torch.testing.assert_close(ensemble(x, member=torch.tensor([n]))[0], separate[n](x))
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    mine, x.grad = x.grad, None
    sum((net(x) * weight[n]).sum() for n, net in enumerate(separate)).backward()
    torch.testing.assert_close(mine, x.grad)
    for i, (kernel, bias) in enumerate(zip(ensemble.kernels, ensemble.biases, strict=True)):
        for n, net in enumerate(separate):
            torch.testing.assert_close(kernel.grad[n], net.linears[i].weight.grad.T)
            torch.testing.assert_close(bias.grad[n, 0], net.linears[i].bias.grad)


def test_members_begin_apart() -> None:
    torch.manual_seed(0)
    for kernel in EnsembleMLP(3, 8, 2, 1, 8).kernels:
        assert not torch.isclose(kernel[0], kernel[1]).any()
        bound = (6 / (kernel.shape[1] + kernel.shape[2])) ** 0.5
        assert 0.8 * bound < kernel.abs().max() <= bound


def test_frozen_passes_the_gradient_to_the_input_alone() -> None:
    torch.manual_seed(0)
    for net in (MLP(3, 1, 2, 5), EnsembleMLP(2, 3, 1, 2, 5)):
        x = torch.randn(4, 3, requires_grad=True)
        (expected,) = torch.autograd.grad(net(x).sum(), x)
        net(x, frozen=True).sum().backward()
        torch.testing.assert_close(x.grad, expected)
        assert not any(grads(net)) and all(p.requires_grad for p in net.parameters())
        net(x).sum().backward()
        assert all(grads(net))
