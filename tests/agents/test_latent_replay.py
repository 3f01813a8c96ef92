"""LOMPO and COMBO: the latent replay, their terms, and what each loss moves."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import Precision
from torch.distributions import Normal

from moto_pl.agents import COMBO, LOMPO
from moto_pl.agents.base import RunFacts
from moto_pl.agents.combo import LatentConservatismConfig, soft_gap
from moto_pl.agents.latent_replay import LatentReplayAgent
from moto_pl.agents.lompo import PenaltyConfig
from moto_pl.agents.settings import LatentBatchConfig, LatentBehaviourConfig, LatentModelConfig
from moto_pl.errors import SettingError
from moto_pl.ops import Key, Share, Stream, normal, priors
from moto_pl.replay import Episode, EpisodeStore
from moto_pl.replay.latents import LatentTable, LatentTransitions, whole_episodes
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.schedule import Schedule

AGENTS = (LOMPO, COMBO)


def tiny(kind: type[LatentReplayAgent] = LOMPO, behaviour: dict[str, Any] | None = None, **settings: Any) -> Any:
    sizes = {"deter": 8, "hidden": 8, "stoch": 3, "ensemble": 2, "mlp_units": 8, "head_units": 8}
    model = LatentModelConfig(**sizes, encoder_channels=(2, 2, 2, 2), decoder_channels=(2, 2, 2))
    heads = {"horizon": 3, "critic_units": 8, "actor_units": 8, "tau": 0.25, "replay_capacity": 200}
    agent = kind(
        model, LatentBehaviourConfig(**{**heads, **(behaviour or {})}), LatentBatchConfig(2, 5, 3, 2), **settings
    )
    agent.action_size = 2
    torch.manual_seed(0)
    agent.build(2)
    return agent


def rows(size: int = 2, length: int = 5) -> SequenceBatch:
    """Random sequences; the second ends its episode."""
    generator = torch.Generator().manual_seed(1)
    shape = (size, length)
    first, terminal = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    first[0, 0] = terminal[1, -1] = True
    image = torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8, generator=generator)
    action = torch.rand(*shape, 2, generator=generator) * 2 - 1
    return SequenceBatch(image, action, torch.rand(shape, generator=generator), first, terminal)


def everything(table: LatentTable) -> LatentTransitions:
    return table.rows(torch.arange(len(table)))


def refreshed(
    kind: type[LatentReplayAgent] = LOMPO, behaviour: dict[str, Any] | None = None, **settings: Any
) -> tuple[Any, LatentTransitions, LatentTransitions]:
    """An agent with a fresh replay of :func:`rows`, and its two halves."""
    agent = tiny(kind, {"imagine_rows": 4, **(behaviour or {})}, **settings)
    agent.refresh_replay(rows(), Key(0, 0))
    return agent, everything(agent.replay.real), everything(agent.replay.imagined)


HALF = {"rtol": 1e-3, "atol": 1e-3}  # features are kept in half precision


def test_the_papers_sizes() -> None:
    """Those of LOMPO's public code, to which the paper's appendix refers."""
    agent = LOMPO()
    agent.action_size = 4
    with torch.device("meta"):
        agent.build(4)
    model, rssm = agent.world_model, agent.world_model.rssm
    assert [tuple(conv.weight.shape) for conv in model.encoder.convs] == [
        *((32, 3, 4, 4), (64, 32, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4))
    ]
    assert [tuple(layer.weight.shape) for layer in model.encoder.mlp.linears] == [(1024, 1024)]
    assert not model.decoder.mlp.linears and tuple(model.decoder.base.weight.shape) == (1024, 320)
    assert model.decoder.first_shape == (128, 5, 5)
    assert model.encoder.activation == model.decoder.activation == "relu"
    assert tuple(rssm.prior_hidden.shape) == (7, 256, 256) and tuple(rssm.prior_out.shape) == (7, 256, 128)
    assert [tuple(layer.weight.shape) for layer in model.reward.linears] == [(256, 320), (256, 256), (1, 256)]
    assert [tuple(kernel.shape) for kernel in agent.critic.online.kernels] == [
        *((2, 324, 256), (2, 256, 256), (2, 256, 256), (2, 256, 1))
    ]
    assert [tuple(layer.weight.shape) for layer in agent.actor.linears] == [
        *((256, 320), (256, 256), (256, 256), (256, 256), (4, 256))
    ]
    config, behaviour, batch = agent.model_config, agent.config, agent.batch
    assert (config.latent_std, config.kl_balance, config.free_nats, config.kl_scale) == ("softplus", None, 0.0, 1.0)
    assert (behaviour.horizon, behaviour.tau, behaviour.noise, behaviour.imagine_rows) == (5, 0.005, 0.2, None)
    assert (batch.model_size, batch.model_length, batch.agent_size) == (64, 50, 256)
    assert [group.lr for group in agent.param_groups()] == [6e-4, 3e-4, 3e-4]
    assert behaviour.replay == "persistent" and agent.penalty_config.scale == 5
    combo = COMBO()
    assert (combo.conservatism.scale, combo.conservatism.actions) == (2.5, 16)
    assert (combo.model_config, combo.config, combo.batch, combo.optim) == (config, behaviour, batch, agent.optim)


def test_real_half_holds_the_data() -> None:
    _, real, _ = refreshed()
    batch = rows()
    # Time comes first: step t of both sequences, then step t + 1.
    order = [(b, t) for t in range(4) for b in range(2)]
    assert len(real.reward) == 8
    for n, (b, t) in enumerate(order):
        assert torch.equal(real.action[n], batch.action[b, t + 1])
        assert real.reward[n] == batch.reward[b, t + 1]
        assert real.goes_on[n] == (0 if (b, t) == (1, 3) else 1)
        if t < 3:
            assert torch.equal(real.next_state[n], real.state[n + 2])
    assert len({tuple(state.tolist()) for state in real.state}) == 8


def test_a_pair_across_two_episodes_is_left_out() -> None:
    agent, batch = tiny(), rows()
    batch.is_first[0, 2] = True
    agent.refresh_replay(batch, Key(0, 0))
    real = everything(agent.replay.real)
    assert len(real.reward) == 7
    assert batch.reward[0, 2] not in real.reward


def test_imagination_starts_in_every_state_that_goes_on() -> None:
    """Nine of ten: the second sequence's last row ended its episode."""
    agent = tiny(behaviour={"imagine_rows": None})
    agent.refresh_replay(rows(), Key(0, 0))
    real, imagined = everything(agent.replay.real), everything(agent.replay.imagined)
    assert len(imagined.reward) == 3 * 9
    starts, last = imagined.state[:9], real.next_state[7]
    assert not (starts == last).all(-1).any()
    for known in (*real.state, real.next_state[6]):
        assert (starts == known).all(-1).sum() == 1
    drawn = tiny(behaviour={"imagine_rows": 60})
    drawn.refresh_replay(rows(), Key(0, 0))
    starts = everything(drawn.replay.imagined).state[:60]
    assert len({tuple(start.tolist()) for start in starts}) > 6 and not (starts == last).all(-1).any()


def test_imagined_half_follows_policy_and_model() -> None:
    agent, real, imagined = refreshed(penalty=PenaltyConfig(scale=2.0))
    model = agent.world_model
    assert len(imagined.reward) == 3 * 4
    assert torch.equal(imagined.next_state[:-4], imagined.state[4:])
    starts = torch.cat((real.state, real.next_state))
    for start in imagined.state[:4]:
        assert (starts == start).all(-1).any()
    with torch.no_grad():
        deter, stoch = imagined.next_state.split((8, 3), -1)
        params = priors(deter, model.rssm.prior())  # [2, 12, 6]
        mean, raw = params.chunk(2, -1)
        log_prob = Normal(mean, torch.nn.functional.softplus(raw) + 0.1).log_prob(stoch).sum(-1)
        spread = (log_prob[0] - log_prob[1]).abs() / 2  # population std of two
        expected = model.reward(imagined.next_state).squeeze(-1) - 2.0 * spread
    torch.testing.assert_close(imagined.reward, expected, rtol=1e-2, atol=1e-2)


def test_the_policy_is_disturbed_in_imagination() -> None:
    agent, _, imagined = refreshed(behaviour={"imagine_rows": 400, "noise": 0.15, "replay_capacity": 5000})
    with torch.no_grad():
        clean = torch.tanh(agent.actor(imagined.state))
    noise = (imagined.action - clean)[clean.abs() < 0.4]
    assert noise.std() == pytest.approx(0.15, rel=0.1) and abs(noise.mean()) < 0.02
    assert imagined.action.abs().max() <= 1
    agent, _, imagined = refreshed(behaviour={"noise": 0.0})
    with torch.no_grad():
        torch.testing.assert_close(imagined.action, torch.tanh(agent.actor(imagined.state)), **HALF)


def test_the_noise_of_imagination_is_keyed() -> None:
    draws = [everything(refreshed()[0].replay.imagined).action for _ in range(2)]
    assert torch.equal(*draws)
    agent = tiny(behaviour={"imagine_rows": 4})
    agent.refresh_replay(rows(), Key(0, 1))
    assert not torch.equal(draws[0], everything(agent.replay.imagined).action)
    assert not torch.equal(normal(Key(0, 0), Stream.ACTION, (3,)), normal(Key(0, 1), Stream.ACTION, (3,)))


def test_combo_takes_rewards_as_predicted() -> None:
    agent, _, imagined = refreshed(COMBO)
    with torch.no_grad():
        expected = agent.world_model.reward(imagined.next_state).squeeze(-1)
    torch.testing.assert_close(imagined.reward, expected, **HALF)


def store_of(root: Path, *lengths: int) -> EpisodeStore:
    """Random episodes of so many steps; the second terminates."""
    store = EpisodeStore(root)
    for i, length in enumerate(lengths):
        add_episode(store, length, terminated=i == 1)
    return store


def add_episode(store: EpisodeStore, length: int, terminated: bool = False) -> None:
    rng = np.random.default_rng(len(store))
    image = rng.integers(0, 256, (length + 1, 64, 64, 3), np.uint8)
    action, reward = rng.uniform(-1, 1, (length, 2)).astype(np.float32), rng.uniform(size=length).astype(np.float32)
    store.append(Episode(image, action, reward, terminated, not terminated, reward > 2, {}, {}))


def test_a_persistent_replay_encodes_each_episode_once_and_adds_rollouts(tmp_path: Path) -> None:
    agent, store = tiny(), store_of(tmp_path, 4, 3)
    agent.extend_replay(whole_episodes(store, 0, 100), rows(), Key(0, 0))
    first = everything(agent.replay.real)
    assert torch.equal(first.reward.sort().values, torch.cat([torch.tensor(store[i].reward) for i in (0, 1)]).sort()[0])
    assert first.goes_on.sum() == 6 and first.reward[first.goes_on == 0] == store[1].reward[-1]
    rollouts = everything(agent.replay.imagined)
    assert len(rollouts.reward) == 3 * 9
    with torch.no_grad():  # another model and policy, and one more episode
        for parameter in agent.parameters():
            parameter.add_(0.1)
    add_episode(store, 5)
    agent.extend_replay(whole_episodes(store, 2, 100), rows(), Key(0, 1))
    later, more = everything(agent.replay.real), everything(agent.replay.imagined)
    for part, before in zip(later, first, strict=True):  # what was encoded stays as it was
        assert len(part) == 7 + 5 and torch.equal(part[:7], before)
    assert torch.equal(later.reward[7:], torch.tensor(store[2].reward))
    for part, before in zip(more, rollouts, strict=True):
        assert len(part) == 54 and torch.equal(part[:27], before)
    assert not torch.equal(more.state[27:], rollouts.state)


def test_an_episode_encoded_alone_or_beside_others_is_filtered_alike(tmp_path: Path) -> None:
    """Rows that fill up a shorter episode change nothing: the deterministic path of the first step is the same."""
    agent, store = tiny(), store_of(tmp_path, 3, 6)
    ((_, together),) = whole_episodes(store, 0, 100)
    (_, alone), *_ = whole_episodes(store, 0, 1)
    wide, narrow = (agent.encode(batch, Key(0, 0))[0] for batch in (together, alone))
    assert len(wide.reward) == 9 and len(narrow.reward) == 3
    mine = [i for i in range(9) if wide.reward[i] in narrow.reward]
    torch.testing.assert_close(wide.state[mine[0], :8], narrow.state[0, :8])
    assert torch.equal(wide.reward[mine], narrow.reward) and torch.equal(wide.action[mine], narrow.action)


def test_as_many_real_as_imagined(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, real, imagined = refreshed(COMBO)
    seen: list[LatentTransitions] = []
    original = agent.conservative_losses

    def spy(data: LatentTransitions, q_real: torch.Tensor, key: Key) -> Any:
        seen.append(data)
        torch.testing.assert_close(q_real, agent.critic(data.state[:3], data.action[:3]))
        return original(data, q_real, key)

    monkeypatch.setattr(agent, "conservative_losses", spy)
    agent.losses({"model": rows()}, Key(0, 1))
    assert len(seen[0].reward) == 6
    for reward in seen[0].reward[:3]:
        assert reward in real.reward
    for reward in seen[0].reward[3:]:
        assert reward in imagined.reward


def test_temporal_difference_by_hand() -> None:
    agent, *_ = refreshed()
    one = LatentTransitions(
        torch.rand(1, 11), torch.rand(1, 2), torch.tensor([2.0]), torch.tensor([0.5]), torch.rand(1, 11)
    )
    for parameter in agent.critic.target.parameters():
        parameter.data += 0.1  # the targets are not the critics
    losses, _ = agent.transition_losses(one, one, Key(0, 0))  # the same transition twice
    with torch.no_grad():
        after = torch.cat((one.next_state, torch.tanh(agent.actor(one.next_state))), -1)
        y = 2.0 + 0.99 * 0.5 * agent.critic.target(after).squeeze(-1).min()
        now = agent.critic.online(torch.cat((one.state, one.action), -1)).flatten()
        torch.testing.assert_close(losses["critic/td"], (now[0] - y) ** 2 + (now[1] - y) ** 2)
        own = torch.cat((one.state, torch.tanh(agent.actor(one.state))), -1)
        torch.testing.assert_close(losses["actor/value"], -agent.critic.online(own).min())


def test_combos_gap_by_hand() -> None:
    # Two critics, two actions, one state; two real transitions.
    q = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]])
    real = torch.tensor([[1.0, 2.0], [5.0, 7.0]])
    expected = (math.log(math.e + math.e**3) - 1.5) + (math.log(2) - 6.0)
    assert soft_gap(q, real).item() == pytest.approx(expected, rel=1e-6)


def test_combos_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, *_ = refreshed(COMBO, conservatism=LatentConservatismConfig(scale=3.0, actions=4))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("moto_pl.agents.combo.soft_gap", lambda q, real: seen.append(q) or q.sum())
    critic = agent.critic.forward
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(agent.critic, "forward", lambda s, a: asked.append(a) or critic(s, a))
    losses, _ = agent.losses({"model": rows()}, Key(0, 1))
    proposals = asked[-1]
    assert proposals.shape == (5, 6, 2) and seen[0].shape == (2, 5, 6)
    assert proposals[:4].min() < -0.5 and proposals[:4].max() > 0.5 and not proposals.requires_grad
    assert losses["critic/conservative"] == 3 * seen[0].sum()


@pytest.mark.parametrize("kind", AGENTS)
def test_what_each_loss_moves(kind: type[LatentReplayAgent]) -> None:
    agent, *_ = refreshed(kind)
    losses, _ = agent.losses({"model": rows()}, Key(0, 1))
    assert ("critic/conservative" in losses) == (kind is COMBO)
    for name, loss in losses.items():
        agent.zero_grad()
        loss.backward(retain_graph=True)
        moved = {n.split(".")[0] for n, p in agent.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved == {{"model": "world_model"}.get(name.split("/")[0], name.split("/")[0])}, name


def test_targets_follow_slowly() -> None:
    agent = tiny()
    before = agent.critic.target.kernels[0].clone()
    agent.critic.online.kernels[0].data += 1
    agent.after_step(1)
    torch.testing.assert_close(agent.critic.target.kernels[0], before + 0.25)


def test_it_collects_with_noise_and_is_evaluated_without() -> None:
    agent = tiny()
    image, first = rows().image[:, 0], torch.ones(2, dtype=torch.bool)
    mode = [agent.act(image, first, agent.initial_state(2), "mode", Key(0, 5))[0] for _ in range(2)]
    sampled, state = agent.act(image, first, agent.initial_state(2), "sample", Key(0, 5))
    assert torch.equal(*mode) and not torch.equal(mode[0], sampled) and torch.equal(state.action, sampled)
    noise = []
    for i in range(100):
        action, state = agent.act(image, first, agent.initial_state(2), "sample", Key(0, 5).fold(i))
        clean = agent.policy(state.states.features).detach()  # the latent is drawn too
        noise.append((action - clean)[(clean.abs() < 0.4)])
    assert 0.15 < torch.cat(noise).std() < 0.25


def in_a_run(root: Path, agent: Any, store: EpisodeStore, schedule: Schedule) -> Any:
    """An agent as a run has it."""
    agent._trainer = SimpleNamespace(
        **{"default_root_dir": str(root), "world_size": 1, "global_rank": 0, "local_rank": 0, "is_global_zero": True},
        global_step=0,
        precision_plugin=Precision(),
    )
    agent.data = SimpleNamespace(store=store, collected_end_early=False, common_batch=lambda *_: rows())
    agent.meet(RunFacts(2, False, schedule))
    agent.logged = {}
    agent.log = lambda name, value, **_: agent.logged.update({name: float(value)})
    agent.on_fit_start()
    return agent


def begin(agent: Any, index: int) -> None:
    """A round, once its episodes are collected."""
    agent.trainer.global_step = agent.schedule.start_of(index)
    agent.begin_round(agent.data)


SCHEDULE = Schedule(4, 12, 2, 3, 1, "model_first", 4)  # two rounds each of model and behaviour, then four online


def test_rounds_add_once_the_model_is_there(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", 4, 3)
    agent = in_a_run(tmp_path, tiny(behaviour={"replay_capacity": 100}), store, SCHEDULE)
    lengths = []
    for index in range(6):
        if index >= 4:
            add_episode(store, 5)
        begin(agent, index)
        begin(agent, index)  # a resume in the middle of the round
        lengths.append((len(agent.replay.real), len(agent.replay.imagined)))
    assert lengths == [(0, 0), (0, 0), (7, 27), (7, 54), (12, 81), (17, 100)]
    # What imagination earns, and what is taken from it, are told apart.
    assert agent.logged["replay/penalty"] > 0
    newest = agent.replay.imagined.rows(torch.arange(73, 100)).reward.mean()
    assert agent.logged["replay/reward"] - agent.logged["replay/penalty"] == pytest.approx(float(newest), rel=1e-4)
    fresh = in_a_run(tmp_path / "fresh", tiny(behaviour={"replay": "fresh"}), store, SCHEDULE)
    lengths = []
    for index in range(5):
        begin(fresh, index)
        lengths.append((len(fresh.replay.real), len(fresh.replay.imagined)))
    assert lengths == [(0, 0), (0, 0), (8, 27), (8, 27), (8, 27)]
    assert len(list((tmp_path / "fresh/latent_replay").iterdir())) == 2  # no checkpoint names the others


def test_a_checkpoint_names_the_replay_and_a_resumed_run_has_it(tmp_path: Path) -> None:
    store, small = store_of(tmp_path / "store", 4, 3), {"replay_capacity": 60}
    agent = in_a_run(tmp_path, tiny(behaviour=small), store, SCHEDULE)
    for index in (2, 3, 4):
        begin(agent, index)
    checkpoint: dict[str, Any] = {"global_step": 3}
    agent.on_save_checkpoint(checkpoint)
    (tmp_path / "checkpoints").mkdir()
    torch.save(checkpoint, tmp_path / "checkpoints/last.ckpt")
    kept = [everything(half) for half in (agent.replay.real, agent.replay.imagined)]
    begin(agent, 5)  # then the run is killed
    resumed = tiny(behaviour=small)
    resumed.on_load_checkpoint(checkpoint)
    resumed = in_a_run(tmp_path, resumed, store, SCHEDULE)
    for table, before in zip((resumed.replay.real, resumed.replay.imagined), kept, strict=True):
        for part, theirs in zip(everything(table), before, strict=True):
            assert torch.equal(part, theirs)
    drawn = [a.losses_of("behaviour", {}, Key(0, 5))[0]["critic/td"] for a in (agent, resumed)]
    begin(resumed, 4)
    assert len(resumed.replay.imagined) == 60 and resumed.replay.manifest() == checkpoint["latent_replay"]["manifest"]
    begin(resumed, 5)
    assert resumed.replay.manifest() == agent.replay.manifest() and not torch.equal(*drawn)
    assert torch.equal(*(a.losses_of("behaviour", {}, Key(0, 5))[0]["critic/td"] for a in (agent, resumed)))


def test_files_stay_while_a_checkpoint_names_them(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", 4, 3)
    agent = in_a_run(tmp_path, tiny(behaviour={"replay_capacity": 27}), store, SCHEDULE)
    begin(agent, 2)
    checkpoint: dict[str, Any] = {"global_step": 4}
    agent.on_save_checkpoint(checkpoint)
    (tmp_path / "checkpoints").mkdir()
    torch.save(checkpoint, tmp_path / "checkpoints/last.ckpt")
    for index in (3, 4):
        begin(agent, index)
    names = {path.name for path in (tmp_path / "latent_replay").iterdir()}
    assert names == {"real-000002.pt", "imagined-000002.pt", "imagined-000004.pt"}
    (tmp_path / "checkpoints/best.ckpt").write_bytes(b"damaged")  # what it names is not known
    begin(agent, 5)
    assert len(list((tmp_path / "latent_replay").iterdir())) == 4


def test_a_persistent_replay_of_an_untrained_model_is_warned_about(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="data.pretrain: model_first"):
        in_a_run(tmp_path, tiny(), store_of(tmp_path / "store", 4), Schedule(4, 12, 2, 3))


def test_a_copy_that_collects_has_no_replay() -> None:
    agent, *_ = refreshed(behaviour={"replay_capacity": 400_000})
    buffer = io.BytesIO()
    torch.save(agent, buffer)
    assert buffer.tell() < 500_000 and len(agent.replay.real) == 8


@pytest.mark.parametrize(("processes", "fits"), [(3, True), (2, False)])
def test_processes_share_the_batch(processes: int, fits: bool, tmp_path: Path) -> None:
    agent, *_ = refreshed()
    agent._trainer = SimpleNamespace(world_size=processes, precision_plugin=Precision())
    if fits:
        seen = []
        learn = agent.transition_losses

        def spy(real: LatentTransitions, imagined: LatentTransitions, key: Key) -> Any:
            seen.append((len(real.reward), len(imagined.reward)))
            return learn(real, imagined, key)

        agent.transition_losses = spy
        agent.losses_of("behaviour", {}, Key(0, 0, Share(1, 2, processes)))
        assert seen == [(1, 1)]
        return
    with pytest.raises(SettingError, match="agent_size: found 3. Give a multiple of the 2 processes"):
        agent.on_fit_start()


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: LatentModelConfig(latent="categorical"), "world_model.latent"),
        (lambda: LatentModelConfig(ensemble=0), "world_model.ensemble"),
        (lambda: LatentBehaviourConfig(horizon=0), "behaviour.horizon"),
        (lambda: LatentBehaviourConfig(tau=0), "behaviour.tau"),
        (lambda: LatentBehaviourConfig(noise=-0.1), "behaviour.noise"),
        (lambda: LatentBatchConfig(agent_size=0), "batch.agent_size"),
        (lambda: LatentBehaviourConfig(replay_capacity=0), "behaviour.replay_capacity"),
        (lambda: LatentBehaviourConfig(imagine_rows=0), "behaviour.imagine_rows"),
        (lambda: LatentBatchConfig(model_length=1), "batch.model_length"),
        (lambda: PenaltyConfig(scale=-1), "penalty.scale"),
        (lambda: LatentConservatismConfig(scale=-1), "conservatism.scale"),
    ],
)
def test_bad_settings(make: Any, setting: str) -> None:
    with pytest.raises(SettingError, match=f"^{setting}: "):
        make()
