"""The data module: rounds, views, seeds, and what a batch is made of."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from moto_pl.agents.base import RoundData, RunFacts
from moto_pl.callbacks import CollectEpisodes, EvaluateEpisodes
from moto_pl.callbacks.evaluation import SeedBatches
from moto_pl.datasets.builders import build
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.replay import EpisodeStore
from moto_pl.replay.episode import Episode
from moto_pl.replay.parts import BatchPart
from moto_pl.rollout.explore import Exploration
from moto_pl.rollout.policy import ArraySpec
from moto_pl.rollout.pool import EnvPool, WorkerRestarted
from moto_pl.rollout.roll import EVALUATION_SEEDS, TEST_SEEDS, roll_episodes, training_seed
from moto_pl.training.datamodule import OfflineToOnlineDataModule
from moto_pl.training.ingest import ingested


class StraightLine:
    """An agent whose action is its step's key alone: enough to roll episodes with."""

    device = torch.device("cpu")
    observes = {"image": ArraySpec((64, 64, 3), "uint8")}
    training = True
    loaded_step = 0
    has_world_model = True

    def __init__(self, parts: dict[str, BatchPart] | None = None, still: bool = False) -> None:
        self.still = still  # never moves, so never succeeds
        self._parts = parts or {"model": BatchPart(4, 8), "clone": BatchPart(4, 8, "success")}
        self.logged: dict[str, float] = {}
        self.begun_with: list[int] = []  # episodes that were there

    def parts(self) -> dict[str, BatchPart]:
        return self._parts

    def meet(self, facts: RunFacts) -> None: ...

    def begin_round(self, data: RoundData) -> None:
        self.begun_with.append(len(data.store))

    def acting_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def initial_state(self, count: int) -> None:
        return None

    def act(self, image: torch.Tensor, is_first: torch.Tensor, state: Any, mode: str, key: Key) -> tuple[Any, Any]:
        if self.still:
            return torch.zeros(len(image), 2), state
        generator = np.random.default_rng(key.offset % 2**32)
        return torch.from_numpy(generator.uniform(-1, 1, (len(image), 2)).astype(np.float32)), state

    def executed(self, state: Any, action: torch.Tensor) -> Any:
        return state

    def log(self, name: str, value: float, **kwargs: Any) -> None:
        self.logged[name] = value

    def log_dict(self, values: dict[str, float]) -> None:
        self.logged.update(values)


def fake_trainer(root: Path, agent: StraightLine) -> Any:
    return SimpleNamespace(
        default_root_dir=str(root),
        lightning_module=agent,
        world_size=1,
        num_devices=1,
        global_rank=0,
        local_rank=0,
        is_global_zero=True,
        max_epochs=-1,
        global_step=0,
        accumulate_grad_batches=1,
        state=SimpleNamespace(fn="fit"),
        strategy=SimpleNamespace(root_device=torch.device("cpu"), barrier=lambda name=None: None),
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasets") / "reach"
    build("reach", output=str(path), workers=1)
    return path


def make(
    root: Path, dataset: Path | None, agent: StraightLine | None = None, **options: Any
) -> OfflineToOnlineDataModule:
    settings: dict[str, Any] = {
        "offline_steps": 4,
        "offline_round_steps": 2,
        "online_steps": 6,
        "updates_per_episode": 3,
        "env_workers": 0,
        **options,
    }
    data = OfflineToOnlineDataModule("moto_pl/Reach-v0", None if dataset is None else str(dataset), **settings)
    trainer = data.trainer = fake_trainer(root, agent or StraightLine())
    trainer.datamodule, trainer.callbacks = data, data.callbacks()
    data.prepare_data()
    data.setup("fit")
    collecting(data).setup(trainer, trainer.lightning_module, "fit")
    return data


def collecting(data: OfflineToOnlineDataModule) -> CollectEpisodes:
    (callback,) = (c for c in data.trainer.callbacks if isinstance(c, CollectEpisodes))  # type: ignore[attr-defined]
    return callback


def begin_round(data: OfflineToOnlineDataModule) -> None:
    """As Lightning does."""
    collecting(data).on_train_epoch_start(data.trainer, data.trainer.lightning_module)


def load(data: OfflineToOnlineDataModule, checkpoint: dict[str, Any]) -> None:
    """As Lightning does."""
    data.load_state_dict(checkpoint["OfflineToOnlineDataModule"])
    collecting(data).on_load_checkpoint(data.trainer, data.trainer.lightning_module, checkpoint)


def saved(data: OfflineToOnlineDataModule) -> dict[str, Any]:
    """What Lightning puts into a checkpoint."""
    callbacks = {"CollectEpisodes": collecting(data).state_dict()}
    return {"OfflineToOnlineDataModule": data.state_dict(), "callbacks": callbacks}


def test_rounds_collect_once_each_and_only_online(tmp_path: Path, dataset: Path) -> None:
    data = make(tmp_path, dataset)
    agent: Any = data.trainer.lightning_module
    begin_round(data)
    assert len(data.store) == 10 and collecting(data).collected_episodes == 0
    data.trainer.global_step = 4
    begin_round(data)
    begin_round(data)  # a resume in the middle of the round asks again
    assert len(data.store) == 11 and collecting(data).env_steps == 30 and collecting(data).collected_episodes == 1
    data.trainer.global_step = 7
    begin_round(data)
    assert len(data.store) == 12
    assert agent.logged["online/length"] == 30.0
    assert agent.begun_with == [10, 11, 11, 12]  # once a round's own are there
    assert agent.logged["batch/model_demonstrations"] == 10 / 12
    assert agent.logged["speed/env_steps_per_s"] > 0 and agent.logged["speed/exchange"] <= 1


def test_loader_yields_what_is_left_of_the_round(tmp_path: Path, dataset: Path) -> None:
    data = make(tmp_path, dataset)
    data.trainer.global_step = 4
    begin_round(data)
    loader = data.train_dataloader()
    whole = list(loader)
    assert len(loader) == len(whole) == 3
    data.trainer.global_step = 6
    rest = list(data.train_dataloader())
    assert len(data.train_dataloader()) == 3 and len(rest) == 1
    for name in ("model", "clone"):
        assert torch.equal(rest[0][name].image, whole[2][name].image)
        assert not torch.equal(whole[0][name].image, whole[1][name].image)


def test_batches_hold_what_their_step_trains_on(tmp_path: Path, dataset: Path) -> None:
    parts = {"model": BatchPart(4, 8, component="model"), "clone": BatchPart(4, 8, "success")}
    apart = make(tmp_path / "apart", dataset, StraightLine(parts), pretrain="model_first", model_steps=3)
    joint = make(tmp_path / "joint", dataset, StraightLine(parts))
    names = {step: set(apart.make_batch(step)) for step in (0, 2, 3, 6, 7)}
    both = {"model", "clone"}
    assert names == {0: {"model"}, 2: {"model"}, 3: {"clone"}, 6: {"clone"}, 7: both}
    for name in both:  # what else a batch holds is no concern of a part
        assert torch.equal(apart.make_batch(7)[name].image, joint.make_batch(7)[name].image)
        assert set(joint.make_batch(0)) == both
    apart.trainer.accumulate_grad_batches = 2  # type: ignore[misc]
    assert set(apart.make_batch(5)) == {"model"} and set(apart.make_batch(6)) == {"clone"}


@pytest.mark.parametrize("missing", [CollectEpisodes, EvaluateEpisodes])
def test_a_trainer_without_what_rolls_episodes_is_refused(missing: type, tmp_path: Path, dataset: Path) -> None:
    data = OfflineToOnlineDataModule("moto_pl/Reach-v0", str(dataset), offline_steps=4)
    trainer = data.trainer = fake_trainer(tmp_path / "run", StraightLine())
    trainer.callbacks = [callback for callback in data.callbacks() if not isinstance(callback, missing)]
    for trainer.state.fn in ("fit", "validate", "test"):
        with pytest.raises(SettingError, match=rf"trainer.callbacks: found no {missing.__name__}.*data.callbacks"):
            data.prepare_data()
    assert not (tmp_path / "run").exists()


def test_model_first_needs_a_world_model(tmp_path: Path, dataset: Path) -> None:
    agent = StraightLine()
    agent.has_world_model = False
    with pytest.raises(SettingError, match="data.pretrain: found model_first.*StraightLine has no world model"):
        make(tmp_path / "run", dataset, agent, pretrain="model_first", model_steps=3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "schedule: 4 gradient steps on 10 demonstrations, then 2 rounds"),
        (
            {"pretrain": "model_first", "model_steps": 3},
            "schedule: 3 gradient steps of the world model, then 4 gradient steps of actor and critics on 10 demon",
        ),
    ],
)
def test_the_schedule_is_said(
    settings: dict[str, Any], said: str, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr("moto_pl.training.datamodule.rank_zero_info", heard.append)
    make(tmp_path, dataset, **settings)
    assert [line for line in heard if line.startswith(said)]


def test_cloned_sequences_come_from_successful_episodes_alone(tmp_path: Path, dataset: Path) -> None:
    data = make(tmp_path, dataset, StraightLine(still=True))
    data.trainer.global_step = 4
    begin_round(data)
    assert not data.store[10].success.any()
    assert data._sets["model"].episodes.tolist() == list(range(11))
    assert data._sets["clone"].episodes.tolist() == list(range(10))


def test_an_empty_filter_falls_back_to_all_data(tmp_path: Path) -> None:
    agent = StraightLine(still=True)
    with pytest.warns(UserWarning, match="passes the filter 'success'"):
        data = make(tmp_path, None, agent, offline_steps=0)
        begin_round(data)
    assert data._sets["clone"].episodes.tolist() == [0]


def test_state_names_the_episodes_and_later_ones_are_replaced(tmp_path: Path, dataset: Path) -> None:
    data = make(tmp_path, dataset)
    data.trainer.global_step = 4
    begin_round(data)
    state = saved(data)
    first = data.store[10].crc
    data.trainer.global_step = 7
    begin_round(data)
    assert len(list((tmp_path / "replay").glob("*.safetensors"))) == 12
    resumed = make(tmp_path, dataset)
    assert len(resumed.store) == 10  # before the checkpoint is read, the demonstrations alone
    load(resumed, state)
    assert len(resumed.store) == 11 and resumed.store[10].crc == first
    assert (collecting(resumed).collected_episodes, collecting(resumed).env_steps) == (1, 30)


def test_steps_per_episode_are_the_setting_whatever_runs_side_by_side(tmp_path: Path, dataset: Path) -> None:
    counts = {}
    for envs in (1, 2, 3):
        data = make(tmp_path / str(envs), dataset, num_envs=envs, env_workers=envs - 1 and envs, online_steps=18)
        with collecting(data).pool:
            for step in range(data.schedule.total_steps):
                data.trainer.global_step = step
                begin_round(data)
        counts[envs] = collecting(data).collected_episodes
    assert counts == {1: 6, 2: 6, 3: 6}
    described = data.schedule.describe(data.offline_episodes)
    assert described.endswith("then 2 rounds of 3 episode(s) and 9 steps: 3 steps per episode")


def test_more_environments_than_workers_are_refused(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.num_envs: found 3, 3 for each process.*data\.env_workers: 3"):
        make(tmp_path, dataset, num_envs=3, env_workers=2)


def _earlier_state(root: Path, dataset: Path) -> dict[str, Any]:
    """What a run with two environments wrote when six steps were those of a round, and it had taken two rounds."""
    data = make(root, dataset, num_envs=2, env_workers=2, online_steps=18)
    with collecting(data).pool:
        for step in (4, 10):
            data.trainer.global_step = step
            begin_round(data)
    # The data module kept it all.
    state = {**data.state_dict(), **collecting(data).state_dict(), "collected_rounds": 2}
    return {"OfflineToOnlineDataModule": state, "callbacks": {}}


def test_a_run_from_before_goes_on_or_is_told_the_number(tmp_path: Path, dataset: Path) -> None:
    state = _earlier_state(tmp_path, dataset)
    settings = {"num_envs": 2, "env_workers": 2, "online_steps": 18}
    for step in (13, 16):  # in the second round, and as the third begins
        same = make(tmp_path, dataset, **settings)
        load(same, state)
        same.trainer.global_step = step
        with collecting(same).pool:
            begin_round(same)
        assert collecting(same).collected_episodes == (4 if step == 13 else 6)
    as_typed = make(tmp_path, dataset, updates_per_episode=6, **settings)
    load(as_typed, state)
    as_typed.trainer.global_step = 13
    with pytest.raises(SettingError, match=r"data\.updates_per_episode: found 6.*of 2 episodes.*by 2 and"):
        begin_round(as_typed)
    state["OfflineToOnlineDataModule"]["collected_rounds"] = 4  # one at a time: then it meant the same
    data = make(tmp_path, dataset, online_steps=18)
    load(data, state)
    data.trainer.global_step = 13
    begin_round(data)
    assert collecting(data).collected_episodes == 4


def test_another_dataset_in_the_same_run_is_refused(tmp_path: Path, dataset: Path) -> None:
    make(tmp_path, dataset)
    with pytest.raises(SettingError, match="default_root_dir"):
        make(tmp_path, dataset, val_episodes=2)


def test_held_out_episodes_are_not_trained_on(tmp_path: Path, dataset: Path) -> None:
    data = make(tmp_path, dataset, val_episodes=3)
    assert len(data.store) == 7 and len(data.held_out) == 3
    assert not {data.store[i].crc for i in range(7)} & {data.held_out[i].crc for i in range(3)}


def test_sequences_longer_than_episodes_are_refused(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(SettingError, match="31 rows"):
        make(tmp_path, dataset, StraightLine({"model": BatchPart(4, 32)}))


def test_seeds_of_training_evaluation_and_test_are_apart() -> None:
    training = {training_seed(seed, index) for seed in range(3) for index in range(500)}
    assert len(training) > 1490 and max(training) < EVALUATION_SEEDS < TEST_SEEDS


def test_seed_batches_cover_every_seed_once() -> None:
    for world_size, sizes in ((1, [[3, 3, 1]]), (2, [[3, 1], [3, 0]]), (4, [[3], [3], [1], [0]])):
        ranks = [list(SeedBatches(5, 7, rank, world_size, 3)) for rank in range(world_size)]
        assert [[len(batch) for batch in batches] for batches in ranks] == sizes  # as many on every rank
        assert sorted(torch.cat([batch for batches in ranks for batch in batches]).tolist()) == list(range(5, 12))
    assert [len(batch) for batch in SeedBatches(5, 0, 1, 2, 3)] == [0]


def test_rolled_episodes_depend_on_seed_and_key_alone() -> None:
    agent: Any = StraightLine()
    with EnvPool("moto_pl/Reach-v0", {"episode_steps": 7}, 0) as pool:
        first = roll_episodes(pool, agent, [3], "sample", Key(0, 1))[0]
        other = roll_episodes(pool, agent, [4], "sample", Key(0, 1))[0]
        again = roll_episodes(pool, agent, [3], "sample", Key(0, 1))[0]
        noisy = roll_episodes(pool, agent, [3], "sample", Key(0, 1), Exploration(noise=(0.5, 0.5)))[0]
    assert first.length == 7 and first.truncated and not first.terminated and first.info["seed"] == 3
    assert np.array_equal(first.image, again.image) and np.array_equal(first.action, again.action)
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(first.action, noisy.action) and np.abs(noisy.action).max() <= 1
    assert agent.training  # given back as it was


def test_each_episode_draws_its_noise_between_the_two() -> None:
    agent: Any = StraightLine()
    with EnvPool("moto_pl/Reach-v0", {"episode_steps": 40}, 0) as pool:
        stds = []
        for offset in range(12):
            plain = roll_episodes(pool, agent, [3], "mode", Key(0, offset))[0].action
            noisy = roll_episodes(pool, agent, [3], "mode", Key(0, offset), Exploration(noise=(0.0, 0.2)))[0].action
            stds.append(float(np.std(noisy - plain)))
    assert max(stds) <= 0.25 and min(stds) < 0.08 and max(stds) > 0.12 and len(set(np.round(stds, 4))) > 8


def test_a_lost_worker_costs_nothing_but_time() -> None:
    class Losing(EnvPool):
        losses = 2

        def step(self, actions: np.ndarray) -> Any:
            if Losing.losses and actions[0, 0] < 0:
                Losing.losses -= 1
                raise WorkerRestarted(0, "died")
            return super().step(actions)

    agent: Any = StraightLine()
    with EnvPool("moto_pl/Reach-v0", {"episode_steps": 7}, 0) as pool:
        expected = roll_episodes(pool, agent, [3], "sample", Key(0, 1))[0]
    with Losing("moto_pl/Reach-v0", {"episode_steps": 7}, 0) as pool:
        found = roll_episodes(pool, agent, [3], "sample", Key(0, 1))[0]
    assert Losing.losses == 0
    assert np.array_equal(expected.image, found.image) and np.array_equal(expected.action, found.action)


def test_how_many_episodes_are_asked_for_is_not_how_many_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed while it takes in a dataset that it built; one is held out."""
    options = {"episodes": 4, "output": str(tmp_path / "built")}
    run: dict[str, Any] = {"build_missing": True, "build_options": options, "val_episodes": 1}
    append = EpisodeStore.append

    def killed(store: EpisodeStore, episode: Episode, index: int | None = None) -> int:
        if index == 2:
            raise KeyboardInterrupt
        return append(store, episode, index)

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "run", Path("reach"), **run)
    for _ in range(2):  # it goes on, and later the whole run does
        make(tmp_path / "run", Path("reach"), **run)
        assert ingested(tmp_path / "run/replay") == len(EpisodeStore(tmp_path / "run/replay")) == 3
