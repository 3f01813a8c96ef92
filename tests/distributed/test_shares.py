"""What processes compute from their shares of a batch is, together, what one computes from all of it: in one process.

Threads stand for processes; their sums meet where those of processes would. tests/distributed/test_elastic.py has
real ones.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moto_pl.agents.base import Agent
from moto_pl.agents.latent_replay import LatentReplayAgent
from moto_pl.ops import Key, Share, at_least, common_mean, integers, normal, uniform
from moto_pl.replay.latents import LatentTable, LatentTransitions
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.rollout.explore import Exploration, Explorer
from small_agents import make

KEY = Key(3, 5)


def together(count: int, work: Callable[[Share], Any], patch: pytest.MonkeyPatch) -> list[Any]:
    """What ``work`` gives for each of ``count`` equal shares, side by side."""
    barrier, found, errors = threading.Barrier(count, timeout=60), [None] * count, []
    mine: dict[int, Tensor] = {}

    def all_reduce(x: Tensor) -> None:
        rank = int(threading.current_thread().name)
        mine[rank] = x.clone()
        barrier.wait()
        x.copy_(torch.stack([mine[other] for other in range(count)]).sum(0))
        barrier.wait()

    def run(rank: int) -> None:
        try:
            found[rank] = work(Share(rank, rank + 1, count))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    patch.setattr(torch.distributed, "all_reduce", all_reduce)
    threads = [threading.Thread(target=run, args=(rank,), name=str(rank)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return found


@pytest.mark.parametrize("share", [Share(0, 1, 3), Share(2, 3, 3), Share(1, 3, 5)])
def test_draws_are_rows_of_the_common_draw(share: Share) -> None:
    own, (first, rows) = KEY._replace(share=share), share.rows(2 * (share.end - share.begin))
    count = 2 * (share.end - share.begin)
    assert (first, rows) == (2 * share.begin, 2 * share.of)
    for draw in (uniform, normal, lambda key, stream, shape, **more: integers(key, stream, 9, shape, **more)):
        for dim, (lead, tail) in ((0, ((), (3,))), (1, ((4,), (3,))), (-2, ((4,), (3,)))):
            whole = draw(KEY, 1, (*lead, rows, *tail))
            assert torch.equal(draw(own, 1, (*lead, count, *tail), rows=dim), whole.narrow(dim, first, count))
        assert torch.equal(draw(own, 1, (4, 3)), draw(KEY, 1, (4, 3)))  # what has no rows is common
    assert own.fold(7) == KEY.fold(7)._replace(share=share) and own.common == KEY


def test_exploration_is_that_of_the_episodes_number() -> None:
    exploration, action = Exploration((0.1, 0.9), (0.2, 0.6)), torch.linspace(-1, 1, 15).reshape(5, 3)
    device = torch.device("cpu")

    def explored(share: Share) -> list[Tensor]:
        key, mine = KEY._replace(share=share), action[share.begin * 5 // share.of : share.end * 5 // share.of]
        explorer = Explorer(exploration, len(mine), key, device)
        return [explorer(mine, key.fold(t))[0] for t in range(30)]

    whole, parts = explored(Share()), [explored(Share(0, 2, 5)), explored(Share(2, 5, 5))]
    for t, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[t] for part in parts]), expected, rtol=0, atol=0)


def sequences(size: int, length: int, frames: int = 1) -> SequenceBatch:
    """Some begin within, some end, some of them early, so that masks count otherwise in each share."""
    torch.manual_seed(0)
    is_first = torch.zeros(size, length, dtype=torch.bool)
    is_first[:, 0] = torch.arange(size) % 3 > 0
    is_first[0, 2] = is_first[1, 1] = True
    is_terminal = torch.zeros(size, length, dtype=torch.bool)
    is_terminal[:2, -1] = True
    image = torch.randint(0, 256, (size, length, 3, 64, 64), dtype=torch.uint8)
    action, reward = torch.rand(size, length, 2) * 2 - 1, torch.rand(size, length)
    return SequenceBatch(image, action.double(), reward.double(), is_first, is_terminal)


def gradients(agent: Agent, batch: dict[str, SequenceBatch], share: Share) -> dict[str, Tensor]:
    """Of one step's losses, beside the losses and figures themselves."""
    count = share.of
    rows = {
        name: part.map(lambda x: x.unflatten(0, (count, -1))[share.begin].contiguous()) for name, part in batch.items()
    }
    losses, metrics = agent.losses_of("all", rows, Key(3, 5, share))
    names, parameters = zip(*((n, p) for n, p in agent.named_parameters() if p.requires_grad), strict=True)
    total = torch.stack(list(losses.values())).sum()
    assert total.dtype == torch.float64
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    named = {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}
    return {**named, **{name: value.detach() for name, value in {**losses, **metrics}.items()}}


#: Settings with which something is summed over processes, or drawn, that is not by default.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "MOTO": ("MOTO", {"behaviour": {"imagine_rows": 12, "horizon": 3}, "world_model": {"discount_head": True}}),
    "MOTO-all": ("MOTO", {"behaviour": {"imagine_rows": None, "imagine_member": "row", "horizon": 3}}),
    "MOTO-data": (
        "MOTO",
        {
            "behaviour": {
                **{"imagine_rows": 8, "horizon": 3, "real_return": "data", "disagreement_unit": "data"},
                **{"clone_filter": "advantage", "disagreement_scale": 1.0},
            },
            "world_model": {"open_loop_steps": 2, "open_loop_rows": 7, "latent": "gaussian", "kl_member": "all"},
        },
    ),
    "MOTO-free": ("MOTO", {"behaviour": {"imagine_rows": 8, "horizon": 3}, "world_model": {"kl_balance": None}}),
    "DreamerV2": ("DreamerV2", {"behaviour": {"imagine_rows": 8, "horizon": 3}}),
    **{name: (name, {}) for name in ("BC", "SAC", "CQL", "IQL", "LOMPO", "COMBO")},
}


@pytest.mark.parametrize("ops", ["auto", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_losses_and_figures_are_those_of_the_whole_batch(
    case: str, ops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, settings = CASES[case]
    agent = make(name, **settings)
    has_model = hasattr(agent, "world_model")
    if not has_model and ops == "reference":
        pytest.skip("its operators have one form")
    if has_model:
        agent.world_model.rssm.ops = agent.ops = ops  # type: ignore[union-attr,assignment]
    agent.double()
    batch = {part: sequences(4, min(of.length, 5)) for part, of in agent.parts().items()}
    if isinstance(agent, LatentReplayAgent):
        agent.batch.agent_size = 8
        rows = LatentTable.rows
        monkeypatch.setattr(LatentTable, "rows", lambda *a: LatentTransitions(*(x.double() for x in rows(*a))))
        with torch.no_grad():
            agent.refresh_replay(batch["model"], KEY.fold(9))
    whole = gradients(agent, batch, Share())
    # As processes have: functional_call puts other weights into a module for a moment. A copy has no latent replay.
    agents = [agent] * 2 if isinstance(agent, LatentReplayAgent) else [copy.deepcopy(agent) for _ in range(2)]
    parts = together(2, lambda share: gradients(agents[share.begin], batch, share), monkeypatch)
    assert whole.keys() == parts[0].keys() == parts[1].keys()
    differ = 0
    for key, expected in whole.items():
        found = torch.stack([part[key] for part in parts])
        differ += not torch.allclose(found[0].double(), found[1].double())
        torch.testing.assert_close(found.double().mean(0), expected.double(), rtol=1e-9, atol=1e-12, msg=key)
    assert differ > 3  # the shares have something to say each


@pytest.mark.parametrize("least", [0.5, 1.0, 2.0])
def test_the_larger_of_a_mean_and_a_number_is_that_of_the_whole_batch(
    least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares on both sides of the number: each alone would decide otherwise."""
    rows = torch.tensor([0.2, 0.4, 1.6, 3.0])  # means 0.3 and 2.3, 1.3 together

    def bounded(share: Share) -> tuple[Tensor, Tensor]:
        mine = rows.unflatten(0, (share.of, -1))[share.begin].clone().requires_grad_()
        value = at_least(mine.mean(), least, share)
        (gradient,) = torch.autograd.grad(value, mine)
        return value.detach(), gradient / share.of

    value, gradient = bounded(Share())
    parts = together(2, bounded, monkeypatch)
    torch.testing.assert_close(torch.stack([v for v, _ in parts]).mean(), value)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient)


def test_a_mean_of_what_shares_happen_to_have() -> None:
    values = torch.arange(5.0)
    parts = [common_mean(part, 5, Share(i, i + 1, 2)) for i, part in enumerate((values[:4], values[4:]))]
    torch.testing.assert_close(torch.stack(parts).mean(), common_mean(values, 5, Share()))
    torch.testing.assert_close(common_mean(values[:0], 5, Share(0, 1, 2)), torch.tensor(0.0))
