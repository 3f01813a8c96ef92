"""What all agents share."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision

from moto_pl.agents import BC, COMBO, CQL, IQL, LOMPO, MOTO, SAC, DreamerV2
from moto_pl.agents.base import RunFacts
from moto_pl.agents.description import check_same_agent
from moto_pl.agents.model_based import ModelBasedAgent
from moto_pl.agents.settings import BehaviourConfig, LatentModelConfig, OptimConfig
from moto_pl.errors import SettingError
from moto_pl.nn.world_model import WorldModelConfig
from moto_pl.ops import Key
from moto_pl.ops.extension import available
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.rollout.roll import roll_episodes
from moto_pl.schedule import Schedule


def tiny(target_every: int = 100, **optim: Any) -> MOTO:
    """An agent whose optimizer can be made, and take steps."""
    model = WorldModelConfig(
        deter=8, hidden=8, stoch=2, classes=2, ensemble=2, encoder_channels=(2, 2, 2, 2), decoder_channels=(2, 2, 2)
    )
    behaviour = BehaviourConfig(horizon=3, imagine_rows=4, target_every=target_every)
    agent = MOTO(model, behaviour, optim=OptimConfig(**optim))
    agent.action_size = 2
    agent.build(2)
    trainer: Any = SimpleNamespace(
        global_step=0,
        global_rank=0,
        world_size=1,
        accumulate_grad_batches=1,
        log_every_n_steps=1,
        is_last_batch=False,
        precision_plugin=Precision(),
    )
    agent._trainer = trainer
    agent.meet(RunFacts(2, False, Schedule(10, 20, 5, 5)))
    return agent


def test_learning_rates_fall_over_the_online_phase() -> None:
    agent = tiny(model_lr=1e-3, actor_lr=1e-4, final_lr=0.1)
    made: Any = agent.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(35):
        rates.append([group["lr"] for group in optimizer.param_groups[:2]])
        optimizer.step()
        scheduler.step()
    wanted = [1.0] * 11 + [1 - 0.9 * i / 20 for i in range(1, 21)] + [0.1] * 4
    first, second = optimizer.param_groups[0]["initial_lr"], optimizer.param_groups[1]["initial_lr"]
    assert first == 1e-3 and second in (1e-4, 8e-5)
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([[first * w, second * w] for w in wanted]))


def test_learning_rates_stay_through_both_stretches_of_pre_training() -> None:
    agent = tiny(final_lr=0.1)
    agent.meet(RunFacts(2, False, MODEL_FIRST))
    assert [round(agent.lr_share("model", step), 3) for step in (0, 4, 8, 11, 14)] == [1, 1, 1, 0.55, 0.1]


def test_learning_rates_stay_unless_asked() -> None:
    assert isinstance(tiny().configure_optimizers(), torch.optim.AdamW)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_final_lr_is_a_share(share: float) -> None:
    with pytest.raises(SettingError, match="final_lr"):
        tiny(final_lr=share)


@pytest.mark.parametrize("lr", [1e-3, 3e-5])
@pytest.mark.parametrize("final_lr", [1.0, 0.1])
def test_weight_decay_is_a_share_whatever_the_learning_rate(lr: float, final_lr: float) -> None:
    agent = tiny(weight_decay=1e-3, model_lr=lr, actor_lr=lr / 7, final_lr=final_lr)
    made: Any = agent.configure_optimizers()
    optimizer = made["optimizer"] if final_lr < 1 else made
    parameters = list(agent.world_model.parameters()) + list(agent.actor.parameters())
    expected = [parameter.detach().double() for parameter in parameters]
    for step in range(30):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        agent.trainer.global_step = step  # type: ignore[misc]
        agent.optimizer_step(0, 0, optimizer)
        if final_lr < 1:
            made["lr_scheduler"]["scheduler"].step()
        expected = [value * (1 - 1e-3) for value in expected]
    if final_lr < 1:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(final_lr * lr)
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-5, atol=0)


def test_what_does_not_learn_does_not_decay() -> None:
    agent = tiny(weight_decay=1e-3, actor_lr=0.0)
    optimizer: Any = agent.configure_optimizers()
    before = [parameter.detach().clone() for parameter in agent.actor.parameters()]
    for parameter in agent.actor.parameters():
        parameter.grad = torch.ones_like(parameter)
    agent.optimizer_step(0, 0, optimizer)
    for parameter, value in zip(agent.actor.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_weight_decay_of_the_sources() -> None:
    """DreamerV2 takes 1e-6 at each step, and MOTO is built on it; the others' sources take nothing."""
    decays = {kind.__name__: kind().weight_decay for kind in (MOTO, DreamerV2, LOMPO, COMBO, BC, SAC, CQL, IQL)}
    assert decays == {
        "MOTO": 1e-6,
        "DreamerV2": 1e-6,
        **dict.fromkeys(("LOMPO", "COMBO", "BC", "SAC", "CQL", "IQL"), 0),
    }


@pytest.mark.parametrize("decay", [-1e-6, 1.0])
def test_weight_decay_is_a_share(decay: float) -> None:
    with pytest.raises(SettingError, match="weight_decay"):
        tiny(weight_decay=decay)


MODEL_FIRST = Schedule(4, 6, 2, 3, 1, "model_first", 4)


def sequences(agent: MOTO) -> dict[str, SequenceBatch]:
    """A batch of random rows for each part."""
    generator = torch.Generator().manual_seed(0)
    flags = torch.zeros(2, 4, dtype=torch.bool)
    image = torch.randint(0, 256, (2, 4, 3, 64, 64), dtype=torch.uint8, generator=generator)
    rows = SequenceBatch(image, torch.rand(2, 4, 2, generator=generator), torch.rand(2, 4), flags, flags)
    return dict.fromkeys(agent.parts(), rows)


def snapshot(agent: MOTO, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """All that a step may change, by component: weights, targets, Adam's state, averages."""
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "behaviour": {}}
    for name, tensor in agent.state_dict().items():
        component = "model" if name.startswith("world_model.") else "behaviour"
        parts[component][name] = tensor.clone()
        if name in agent.average.weights:
            parts[component][f"average {name}"] = agent.average.weights[name].clone()
    for name, parameter in agent.named_parameters():
        component = "model" if name.startswith("world_model.") else "behaviour"
        for key, value in optimizer.state.get(parameter, {}).items():
            parts[component][f"{key} {name}"] = torch.as_tensor(value).clone()
    return parts


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(("every", "logged"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 5, 6]), (0, [5])])
def test_figures_are_handed_over_where_they_are_written_down_and_as_a_round_ends(
    every: int, logged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = tiny()
    optimizer: Any = agent.configure_optimizers()
    trainer: Any = agent.trainer
    told: dict[str, list[int]] = {"loss": [], "model/": [], "grad_norm/": []}

    def log(name: str, *_: Any, **__: Any) -> None:
        for kind in told:
            if name.startswith(kind) and step not in told[kind]:
                told[kind].append(step)

    monkeypatch.setattr(agent, "log", log)
    monkeypatch.setattr(agent, "log_dict", lambda figures, **_: [log(name) for name in figures])
    trainer.log_every_n_steps = every
    batch = sequences(agent)
    for step in range(1, 8):
        trainer.global_step, trainer.is_last_batch = step - 1, step == 5
        optimizer.zero_grad()
        agent.training_step(batch, 0).backward()
        agent.configure_gradient_clipping(optimizer)
        agent.optimizer_step(0, 0, optimizer)
        trainer.global_step = step
        agent.on_train_batch_end(None, batch, 0)
    assert told == {"loss": logged, "model/": logged, "grad_norm/": logged}


@pytest.mark.parametrize(("first", "idle", "trained"), [(0, "behaviour", "model"), (4, "model", "behaviour")])
def test_idle_components_do_not_move_and_are_not_computed(
    first: int, idle: str, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = tiny(ema_decay=0.5, weight_decay=1e-2, target_every=2)
    agent.meet(RunFacts(2, False, MODEL_FIRST))
    optimizer: Any = agent.configure_optimizers()
    monkeypatch.setattr(agent, "log", lambda *_, **__: None)
    monkeypatch.setattr(agent, "log_dict", lambda *_, **__: None)
    if idle == "behaviour":
        monkeypatch.setattr(agent, "imagine", None)
    else:
        monkeypatch.setattr(agent.world_model, "loss", None)
    batch = sequences(agent)
    states = []
    for step in range(first, first + 4):
        agent.trainer.global_step = step  # type: ignore[misc]
        optimizer.zero_grad()
        agent.training_step(batch, 0).backward()
        # What DistributedDataParallel waits for.
        assert all(p.grad is not None for p in agent.parameters() if p.requires_grad)
        agent.on_before_optimizer_step(optimizer)
        agent.configure_gradient_clipping(optimizer)
        agent.optimizer_step(0, 0, optimizer)
        states.append(snapshot(agent, optimizer))
    names = [{**snapshot_of[idle]} for snapshot_of in states]
    assert all(same(names[0], other) for other in names[1:])
    assert not any(name.startswith("exp_avg") for name in names[0])
    assert not same(states[0][trained], states[-1][trained])
    moved = {name for name in states[0][trained] if not torch.equal(states[0][trained][name], states[1][trained][name])}
    assert any(name.startswith("average ") for name in moved) and any(name.startswith("exp_avg ") for name in moved)
    if trained == "behaviour":  # a copy every second step of its own, the fourth step of all being the first
        targets = [{n: t for n, t in state["behaviour"].items() if "target" in n} for state in states]
        assert not same(targets[0], targets[1]) and same(targets[1], targets[2])


def test_an_average_ages_with_its_component() -> None:
    agent = tiny(ema_decay=0.9)
    agent.meet(RunFacts(2, False, MODEL_FIRST))
    weight, name = agent.actor.net.linears[0].weight, "actor.net.linears.0.weight"
    for step in range(1, 5):
        agent.move_average(agent.average_shares(step))
    begin = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    agent.move_average(agent.average_shares(5))  # the actor's first step: the young average follows at once
    torch.testing.assert_close(agent.average.weights[name], begin + 10 / 11)


def test_the_average_follows_the_weights() -> None:
    agent = tiny(ema_decay=0.5)
    weight = next(agent.actor.parameters())
    expected = None
    for step in range(1, 40):
        with torch.no_grad():
            weight.fill_(float(step))
        agent.move_average(agent.average_shares(step))
        decay = min(0.5, step / (step + 10))
        expected = float(step) if expected is None else decay * expected + (1 - decay) * step
        with agent.acting_weights():
            torch.testing.assert_close(weight[0, 0].item(), expected)
        assert weight[0, 0].item() == step


def test_the_average_is_what_acts() -> None:
    agent = tiny(ema_decay=0.5)
    seen = []

    class Pool:
        def reset(self, seeds: list[int], beyond: int) -> np.ndarray:
            seen.append(next(agent.actor.parameters()).detach().clone())
            raise KeyboardInterrupt

    before = next(agent.actor.parameters()).detach().clone()
    agent.move_average(agent.average_shares(1))
    with torch.no_grad():
        next(agent.actor.parameters()).zero_()
    with pytest.raises(KeyboardInterrupt):
        roll_episodes(Pool(), agent, [0], "mode", Key(0, 0))  # type: ignore[arg-type]
    torch.testing.assert_close(seen[0], before)
    assert not next(agent.actor.parameters()).any()  # and the weights themselves are there again


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_ema_decay_is_a_decay(decay: float) -> None:
    with pytest.raises(SettingError, match="ema_decay"):
        tiny(ema_decay=decay)


@pytest.mark.skipif(not available(), reason="no compiled operators")
@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (
            lambda: LOMPO(),
            "references observe on cpu (compiled operators do not know world_model.latent_std: softplus)",
        ),
        (lambda: LOMPO(LatentModelConfig(latent_std="sigmoid2")), "compiled operators train on cpu. "),
        (
            lambda: MOTO(WorldModelConfig(latent="gaussian", latent_std="softplus")),
            "references imagine and observe on cpu (compiled operators do not know world_model.latent_std: softplus)",
        ),
        (lambda: MOTO(), "compiled operators train on cpu. "),
    ],
)
def test_a_run_says_which_setting_no_operator_knows(
    agent: Any, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard: list[str] = []
    monkeypatch.setattr("moto_pl.agents.model_based.rank_zero_info", heard.append)
    made: Any = agent()
    made.action_size = 2
    with torch.device("meta"):
        made.build(2)
    refuses = "not know" in said
    monkeypatch.setattr(type(made), "device", torch.device("cpu"))
    ModelBasedAgent.on_fit_start(made)
    assert said in heard[0]
    made.ops = "compiled"
    with pytest.raises(SettingError, match="ops: found 'compiled' with world_model") if refuses else nullcontext():
        ModelBasedAgent.on_fit_start(made)


@pytest.mark.parametrize(
    ("ops", "device", "said"), [("auto", "meta", "references imagine"), ("reference", "cpu", "references imagine")]
)
def test_a_run_says_which_operators_it_has(ops: Any, device: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr("moto_pl.agents.model_based.rank_zero_info", heard.append)
    agent = tiny()
    agent.ops = ops
    agent.to(device)
    agent.on_fit_start()
    assert said in heard[0] and f"on {device}" in heard[0]


@pytest.mark.skipif(not available(), reason="no compiled operators")
@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("bf16-mixed", "compiled operators train on cpu. "),
        (
            "16-mixed",
            "references imagine and observe on cpu (compiled operators do not know trainer.precision: 16-mixed)",
        ),
    ],
)
def test_a_run_says_which_precision_no_operator_knows(
    precision: Any, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A CPU has autocast to float16 too, which the Trainer alone would not give it."""
    heard: list[str] = []
    monkeypatch.setattr("moto_pl.agents.model_based.rank_zero_info", heard.append)
    agent = tiny()
    plugin = MixedPrecision(precision, "cpu")
    agent.trainer = L.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, plugins=[plugin])
    agent.ops = "auto"
    agent.on_fit_start()
    assert said in heard[0]
    agent.ops = "compiled"
    refused = pytest.raises(SettingError, match=r"ops: found 'compiled' with autocast to torch\.float16 in observe")
    with refused if precision == "16-mixed" else nullcontext():
        agent.on_fit_start()


def test_runs_of_before_settings_were_settings_go_on() -> None:
    """A MOTO checkpoint of bd80ba7 lacks what has become a choice since; a choice that differs is told."""
    ours = tiny().description()
    theirs = copy.deepcopy(ours)
    for name in ("latent_std", "conv_activation", "decoder_mlp_layers"):
        del theirs["init_args"]["world_model"][name]
    theirs["init_args"]["world_model"]["discount_head"] = False
    check_same_agent(theirs, ours)
    theirs["init_args"]["behaviour"]["target_every"] = 7
    with pytest.raises(SettingError, match=r"checkpoint's \(behaviour\.target_every: 7 -> 100\)"):
        check_same_agent(theirs, ours)
