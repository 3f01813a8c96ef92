"""The model-free agents' presets: what tells them apart, and that each setting can be set by itself."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pixel_agents import batch, tiny
from torch import nn

from moto_pl.agents import BC, CQL, IQL, SAC
from moto_pl.agents.base import RunFacts
from moto_pl.agents.bc import NormalConfig
from moto_pl.agents.cql import ConservatismConfig
from moto_pl.agents.description import check_same_agent, plain
from moto_pl.agents.earlier import complete
from moto_pl.agents.iql import AdvantageConfig
from moto_pl.agents.loading import build_agent
from moto_pl.agents.model_free import TDConfig
from moto_pl.agents.presets import Preset, describe, resolve, setting
from moto_pl.agents.sac import EntropyConfig
from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.schedule import Schedule
from moto_pl.training.configs import settings_of

ROOT = Path(__file__).parents[2]
AGENTS: list[Any] = [BC, SAC, CQL, IQL]
PRESETS = get_args(Preset)


# How a preset is taken.


def test_resolving_fills_what_is_null_and_nothing_else() -> None:
    presets: Any = {"paper": {"td.actor_lr": "cosine", "td.target_value": "min", "actor_value": "mean"}}
    given = {"td": TDConfig(target_value="mean"), "actor_value": None}
    resolved = resolve(given, "paper", presets)
    assert resolved == {"td": TDConfig(actor_lr="cosine", target_value="mean"), "actor_value": "mean"}
    assert given == {"td": TDConfig(target_value="mean"), "actor_value": None}  # one configuration may serve several


def test_a_preset_may_give_false_and_zero() -> None:
    given = {"entropy": EntropyConfig(backup=False)}
    presets: Any = {"paper": {"entropy.backup": True}}
    assert resolve(given, "paper", presets)["entropy"].backup is False


@pytest.mark.parametrize("kind", AGENTS)
def test_presets_speak_of_the_same_settings(kind: Any) -> None:
    assert kind.PRESETS.keys() == set(PRESETS)
    names = [tuple(values) for values in kind.PRESETS.values()]
    assert len(set(names)) == 1
    for preset in PRESETS:
        agent = kind(preset=preset)
        assert {name: setting(agent.settings, name) for name in names[0]} == kind.PRESETS[preset]


#: What is null in a resolved agent, and means something by it.
MEANT = {"entropy.target_entropy"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", AGENTS)
def test_no_setting_is_left_open(kind: Any, preset: Any) -> None:
    for argument, value in kind(preset=preset).settings.items():
        fields = asdict(value) if hasattr(value, "__dataclass_fields__") else {"": value}
        open_ = {f"{argument}.{name}" for name, field in fields.items() if field is None} - MEANT
        assert open_ <= ({"pixels.share_encoder", "td.target_value"} if kind is BC else set())


@pytest.mark.parametrize("kind", AGENTS)
def test_each_setting_can_be_set_by_itself(kind: Any) -> None:
    """To the other value, whatever the preset, from a configuration file's plain values."""
    others: dict[str, Any] = {
        **{"pixels.share_encoder": True, "pixels.init": "glorot", "td.actor_lr": "constant"},
        **{"td.target_value": "mean", "entropy.temperature": 0.3, "entropy.backup": True, "actor_value": "min"},
        **{"conservatism.actions": 6, "conservatism.next_state": True, "normal.std": "learned"},
        **{"normal.mean": "tanh" if kind is IQL else "linear", "advantage.expectile": 0.9},
    }
    usual = kind.PRESETS["paper"]
    assert usual.keys() <= others.keys()
    for name in usual:
        argument, _, field = name.partition(".")
        given = {argument: {field: others[name]} if field else others[name]}
        agent = build_agent({"class_path": f"moto_pl.agents.{kind.__name__}", "init_args": given}, 2)
        assert {each: setting(agent.settings, each) for each in usual} == {**usual, name: others[name]}


@pytest.mark.parametrize("kind", AGENTS)
def test_a_run_says_what_its_preset_came_to(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr("moto_pl.agents.model_free.rank_zero_info", heard.append)
    kind(td=TDConfig(actor_lr="constant"), preset="paper").on_fit_start()
    assert heard[0].startswith(f"{kind.__name__}, preset paper: ")
    assert "td.actor_lr constant (set; the preset's is cosine)" in heard[0] and heard[0].count("(set;") == 1
    assert all(name in heard[0] for name in kind.PRESETS["paper"])
    assert "(set;" not in describe(kind(preset="jaxrl2").settings, "jaxrl2", kind.PRESETS)


def test_checkpoints_hold_what_a_preset_came_to() -> None:
    """A preset is a name for values: the same values are the same agent, and other values are not."""
    paper, other = IQL(preset="paper"), IQL(preset="jaxrl2", advantage=AdvantageConfig(0.5))
    check_same_agent(paper.description(), other.description())
    with pytest.raises(SettingError, match=r"advantage.expectile: 0.5 -> 0.7"):
        check_same_agent(paper.description(), IQL(preset="jaxrl2").description())
    assert plain(paper.settings)["normal"] == {"std": 1.0, "mean": "linear"}


# What tells presets apart. That a loss reaches the encoders it should stands in test_model_free.py.


@pytest.mark.parametrize(("kind", "mean"), [(BC, torch.tanh), (IQL, lambda raw: raw)])
def test_the_cloned_policys_std_is_one(kind: Any, mean: Any) -> None:
    for preset in PRESETS:
        agent, rows = tiny(kind, preset=preset), batch()
        data = agent.transitions(rows, Key(0, 0))
        encoder = agent.encoder if kind is BC else agent.actor.encoder
        raw = agent.actor(encoder(data.image))
        with torch.no_grad():  # far from 0, where tanh matters, and means lie outside what can be done
            agent.actor.mlp[-1].bias.add_(1.5)
        raw = (raw + 1.5).detach()
        dist, reference = agent.policy(data.image), torch.distributions.Normal(mean(raw), 1.0)
        torch.testing.assert_close(dist.log_prob(data.action), reference.log_prob(data.action).sum(-1))
        torch.testing.assert_close(dist.mode(), mean(raw).clamp(-1, 1))
        assert not any("log_std" in name for name in (*agent.state_dict(), *dict(agent.named_parameters())))
    set_by_hand = tiny(kind, normal=NormalConfig(std=0.25))
    assert set_by_hand.policy(data.image).log_std.exp().tolist() == pytest.approx([0.25, 0.25])


def test_a_learned_std_learns() -> None:
    agent = tiny(BC, normal=NormalConfig(std="learned"))
    agent.losses(batch(), Key(0, 0))[0]["actor/clone"].backward()
    assert agent.log_std.value.grad is not None and agent.log_std.value.grad.abs().min() > 0


def next_values(agent: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both target critics' values of the next action, its ln density, and what is learned from: [2, B], [B], [B]."""
    data, key = agent.transitions(batch(), Key(0, 0)), Key(0, 5)
    with torch.no_grad():
        action, log_prob = agent.policy(data.next_image).sample(agent.noise(data.action, key.fold(3)))
        q = agent.target(agent.target.encoder(data.next_image), action)
    return q.numpy(), log_prob.numpy(), agent.next_value(data, key).numpy()


def apart(agent: Any) -> Any:
    """With targets that differ from one another and from the critics."""
    generator = torch.Generator().manual_seed(3)
    for p in agent.target.parameters():
        p.data.add_(0.1 * torch.randn(p.shape, generator=generator))
    return agent


def test_targets() -> None:
    q, log_prob, value = next_values(apart(tiny(SAC, preset="jaxrl2")))
    np.testing.assert_allclose(value, (q[0] + q[1]) / 2 - 0.1 * log_prob, rtol=1e-5)
    for kind, preset in ((SAC, "paper"), (CQL, "paper"), (CQL, "jaxrl2")):
        q, log_prob, value = next_values(apart(tiny(kind, preset=preset)))
        np.testing.assert_allclose(value, np.minimum(q[0], q[1]), rtol=1e-6)
        assert np.abs(log_prob).min() > 0.1 and np.abs(q[0] - q[1]).min() > 1e-3  # so that either would show
    for kind, preset, temperature in ((SAC, "paper", 1.0), (CQL, "paper", 1.0), (SAC, "jaxrl2", 0.1)):
        assert tiny(kind, preset=preset).temperature().item() == pytest.approx(temperature)


def test_iql_regresses_to_the_lesser_target_or_the_mean() -> None:
    found = {}
    for how in ("min", "mean"):
        agent = apart(tiny(IQL, td={"target_value": how}))
        data = agent.transitions(batch(), Key(0, 0))
        q = agent.target(agent.target.encoder(data.image), data.action)
        found[how] = agent.target_q(data.image, data.action)
        torch.testing.assert_close(found[how], torch.minimum(q[0], q[1]) if how == "min" else (q[0] + q[1]) / 2)
    assert not torch.allclose(found["min"], found["mean"])


@pytest.mark.parametrize("kind", [SAC, CQL])
def test_the_actor_maximises_the_critics_mean(kind: Any) -> None:
    for preset in PRESETS:
        agent, rows, key = tiny(kind, preset=preset), batch(), Key(0, 5)
        data = agent.transitions(rows, key)
        action, log_prob = agent.policy(data.image).sample(agent.noise(data.action, key.fold(2)))
        q = agent.critic(agent.critic.encoder(data.image), action)
        temperature = {"paper": 1.0, "jaxrl2": 0.1}[preset]
        wanted = (temperature * log_prob - (q[0] + q[1]) / 2).mean()
        torch.testing.assert_close(agent.losses(rows, key)[0]["actor/value"], wanted)


@pytest.mark.parametrize(("preset", "each", "sources"), [("paper", 4, 2), ("jaxrl2", 10, 3)])
def test_cql_proposals(preset: Any, each: int, sources: int) -> None:
    agent, rows, key = tiny(CQL, preset=preset), batch(), Key(0, 5)
    data = agent.transitions(rows, key)
    action, density = agent._proposals(data, agent.critic.encoder(data.image), key)
    assert action.shape == (each * sources, 5, 2) and density.shape == (each * sources, 5)
    assert (density[:each] == -2 * math.log(2)).all()  # uniform on [-1, 1]^2
    images = (data.image, data.next_image)[: sources - 1]
    for i, image in enumerate(images):
        dist = agent.policy(image)
        normal = torch.distributions.Normal(dist.mean, dist.log_std.exp())
        squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
        part = slice(each * (i + 1), each * (i + 2))
        inside = action[part].abs().amax(-1) < 0.999  # where tanh can be undone
        reference = squashed.log_prob(action[part].clamp(-0.999, 0.999)).sum(-1)
        assert inside.sum() > each
        torch.testing.assert_close(density[part][inside], reference[inside], rtol=1e-3, atol=1e-3)
    # And the loss is made of exactly these.
    q, q_data = (agent.critic(agent.critic.encoder(data.image), each) for each in (action, data.action))
    terms = np.exp(q.detach().double().numpy() - density.double().numpy()).mean(1)
    wanted = 5.0 * (np.log(terms) - q_data.detach().double().numpy()).mean(-1).sum()
    assert agent.losses(rows, key)[0]["critic/conservative"].item() == pytest.approx(wanted, rel=1e-4)


def test_a_proposal_more_or_less_can_be_asked_for() -> None:
    agent = tiny(CQL, conservatism=ConservatismConfig(actions=2, next_state=True))
    data = agent.transitions(batch(), Key(0, 0))
    assert agent._proposals(data, agent.critic.encoder(data.image), Key(0, 5))[0].shape == (6, 5, 2)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", AGENTS)
def test_weights_begin_orthogonal(kind: Any, preset: Any) -> None:
    agent = tiny(kind, preset=preset)
    layers = {name: m for name, m in agent.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert len(layers) >= 7 and all(orthogonal(layer) for layer in layers.values())
    glorot = tiny(kind, preset=preset, pixels={"init": "glorot"})
    assert not any(orthogonal(layer) for layer in glorot.modules() if isinstance(layer, nn.Linear | nn.Conv2d))


def orthogonal(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether rows (or columns, where they are fewer) are at right angles and of length sqrt 2, and biases 0."""
    weight = layer.weight.detach().flatten(1).double().numpy()
    weight = weight if weight.shape[0] <= weight.shape[1] else weight.T
    assert layer.bias is not None
    return np.allclose(weight @ weight.T, 2 * np.eye(len(weight)), atol=1e-5) and not layer.bias.any()


# The policy's learning rate.

SCHEDULE = Schedule(10, 30, 5, 5)


def rates(agent: Any, steps: int, resumed: dict[str, Any] | None = None) -> tuple[dict[str, list[float]], Any]:
    """The learning rate of each group at each of the next steps, and the schedule's state after them."""
    agent.meet(RunFacts(2, False, SCHEDULE))
    made: Any = agent.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    if resumed is not None:
        optimizer.load_state_dict(resumed["optimizer"])
        scheduler.load_state_dict(resumed["scheduler"])
    seen: dict[str, list[float]] = {group["name"]: [] for group in optimizer.param_groups}
    for _ in range(steps):
        for group in optimizer.param_groups:
            seen[group["name"]].append(group["lr"])
        optimizer.step()
        scheduler.step()
    return seen, {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}


@pytest.mark.parametrize("kind", AGENTS)
def test_the_policys_learning_rate_falls_to_nothing(kind: Any) -> None:
    """Along half a cosine over the offline and the online phase together; the others stay."""
    seen, _ = rates(tiny(kind, preset="paper", td={"lr": 2e-3}), 45)
    assert seen["actor"][0] == 2e-3 and seen["actor"][40:] == [0.0] * 5
    assert seen["actor"][20] == pytest.approx(1e-3) and seen["actor"][39] == pytest.approx(2e-3 * 0.0015413, rel=1e-3)
    turn = np.exp(1j * np.pi * np.minimum(np.arange(45), 40) / 40)
    np.testing.assert_allclose(seen["actor"], 2e-3 * (1 + turn.real) / 2, atol=1e-18, rtol=1e-12)
    assert all(values == [2e-3] * 45 for name, values in seen.items() if name != "actor")


@pytest.mark.parametrize("kind", AGENTS)
def test_a_resumed_learning_rate_is_the_unbroken_ones(kind: Any) -> None:
    unbroken, _ = rates(tiny(kind), 40)
    first, state = rates(tiny(kind), 17)
    second, _ = rates(tiny(kind), 23, resumed=state)
    assert {name: first[name] + second[name] for name in first} == unbroken


def test_which_learning_rates_are_constant() -> None:
    for kind in (SAC, CQL):
        agent: Any = tiny(kind, preset="jaxrl2")
        assert isinstance(agent.configure_optimizers(), torch.optim.AdamW)
    for kind in AGENTS:
        seen, _ = rates(tiny(kind, td={"actor_lr": "constant", "final_lr": 0.5}), 41)
        assert all(values[:11] == [3e-4] * 11 and values[40] == 1.5e-4 for values in seen.values())


# Earlier checkpoints, and the configurations.


def earlier(kind: Any) -> dict[str, Any]:
    """What a checkpoint from before there were presets says of its agent."""
    pixels = {"frame_stack": 3, "shift": 4, "channels": [4, 4, 4, 4], "latent": 50, "layers": 2, "units": 16}
    td = {"batch_size": 256, "lr": 3e-4, "clip": 100.0, "gamma": 0.99, "tau": 0.005, "weight_decay": 0.0}
    td |= {"adam_eps": 1e-8, "final_lr": 1.0, "ema_decay": 0.0}
    own: dict[Any, dict[str, Any]] = {
        BC: {"filter": "none"},
        IQL: {"advantage": {"expectile": 0.5, "temperature": 3.0, "max_weight": 100.0}},
        SAC: {"entropy": {"temperature": 0.1, "target_entropy": None, "backup": True}},
    }
    own[CQL] = {
        "entropy": {"temperature": 0.1, "target_entropy": None, "backup": False},
        "conservatism": {"scale": 5.0, "actions": 10},
    }
    settings = {"pixels": pixels, "td": td, "seed": 0, **own[kind]}
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": settings, "action_size": 2}


#: The weights' names of then, without the layers' numbers.
EARLIER_WEIGHTS = {
    BC: {"encoder.convs", "actor.bottleneck", "actor.mlp", "log_std.value"},
    SAC: {"actor.bottleneck", "actor.mlp", "temperature.log"},
    CQL: {"actor.bottleneck", "actor.mlp", "temperature.log"},
    IQL: {"actor.bottleneck", "actor.mlp", "value.bottleneck", "value.mlp", "log_std.value"},
}


@pytest.mark.parametrize("kind", AGENTS)
def test_an_earlier_checkpoints_agent_can_be_built_and_resumed(kind: Any) -> None:
    found = complete(earlier(kind))
    agent = build_agent({"class_path": found["class_path"], "init_args": found["init_args"]}, 2)
    check_same_agent(earlier(kind), agent.description())
    critics = {f"{part}.{name}" for part in ("critic", "target") for name in ("encoder", "bottleneck", "critics")}
    names = {".".join(name.split(".")[:2]) for name in agent.state_dict()}
    assert names == EARLIER_WEIGHTS[kind] | (critics if kind is not BC else set())
    with pytest.raises(SettingError, match=r"pixels.init: glorot -> orthogonal"):
        check_same_agent(earlier(kind), kind(preset="paper").description() | {"action_size": 2})


@pytest.mark.parametrize("name", ["bc", "iql", "cql", "sac"])
def test_the_suite_is_what_it_was_measured_with(name: str) -> None:
    """The benchmark's agents are those of before there were presets, by settings of their own, but for tau."""
    model = settings_of("--config", str(ROOT / f"benchmarks/suite/{name}.yaml"))["model"]
    assert model["init_args"]["preset"] == "jaxrl2"
    agent: Any = build_agent(model, 2)
    then = earlier(type(agent))
    then["init_args"]["pixels"] |= {"channels": [16, 32, 64, 128], "units": 256}
    then["init_args"]["td"] |= {"batch_size": 128, "lr": 1e-3, "final_lr": 0.2, "ema_decay": 0.99}
    then["init_args"]["td"]["tau"] = 0.005 if name == "bc" else 0.02
    check_same_agent(then, agent.description())


@pytest.mark.parametrize("kind", AGENTS, ids=lambda kind: kind.__name__)
def test_configurations_have_the_papers_preset(kind: Any) -> None:
    model = settings_of("--agent", kind.__name__.lower())["model"]
    assert model == {"class_path": f"moto_pl.agents.{kind.__name__}"}
    assert kind().description() == kind(preset="paper").description()


def test_the_documents_table_is_the_presets() -> None:
    """Each row of the table is a setting; its columns for our presets hold their values."""
    rows = {}
    for line in (ROOT / "docs/baselines.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 6:
            rows[cells[0].strip("`"), cells[1]] = cells[2:4]
    said = {(name, agent): values for (name, agents), values in rows.items() for agent in agents.split(", ")}
    ours = {(name, kind.__name__): kind for kind in AGENTS for name in kind.PRESETS["paper"]}
    assert said.keys() == ours.keys()
    for (name, agent), kind in ours.items():
        values = [str(kind.PRESETS[preset][name]).lower() for preset in ("paper", "jaxrl2")]
        assert said[name, agent] == values, (name, agent)


def test_a_preset_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(ROOT / "configs/debug.yaml"), "--model", "moto_pl.agents.SAC"]
    assert main(["fit", *arguments, "--model.init_args.preset", "mine"]) == 2
    assert "preset" in capsys.readouterr().err
