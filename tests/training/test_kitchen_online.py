"""What online kitchen episodes record of objects, and what of them is cloned."""

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_TASKS, kitchen_id, task_objects
from moto_pl.envs.kitchen import KitchenEnv
from moto_pl.ops import Key
from moto_pl.replay import EpisodeStore
from moto_pl.replay.episode import Episode
from moto_pl.replay.parts import BatchPart
from moto_pl.rollout.policy import ArraySpec
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes
from moto_pl.training.views import Views

STEPS = 40
MIXED = [KITCHEN_OBJECTS.index(name) for name in KITCHEN_TASKS["mixed"]]


def states(**completions: int) -> np.ndarray:
    """In place from these steps on: bool [40, 7]."""
    in_place = np.zeros((STEPS, 7), bool)
    for name, step in completions.items():
        in_place[step:, KITCHEN_OBJECTS.index(name.replace("_", " "))] = True
    return in_place


class Told(gym.Env[np.ndarray, np.ndarray]):
    """Its objects come into place when they are told to."""

    observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)})
    action_space = gym.spaces.Box(-1, 1, (9,), np.float32)

    def __init__(self, objects: tuple[str, ...] = (), **completions: int) -> None:
        self.in_place, self.step_number = states(**completions), 0

    def reset(self, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        now = self.in_place[self.step_number]
        self.step_number += 1
        info = {"in_place": now, "completed": now[MIXED], "success": bool(now[MIXED].all())}
        return self.observation_space.sample(), float(now[MIXED].sum()), False, self.step_number == STEPS, info


@pytest.fixture
def told() -> Iterator[str]:
    gym.register("Told-v0", entry_point=Told)
    yield "Told-v0"
    del gym.registry["Told-v0"]


class Still:
    """Acts, and that is all."""

    device, training = torch.device("cpu"), True
    observes = {"image": ArraySpec((64, 64, 3), "uint8")}

    def eval(self) -> None: ...
    def train(self, mode: bool) -> None: ...
    def initial_state(self, count: int) -> None: ...

    def acting_weights(self) -> Any:
        return nullcontext()

    def executed(self, state: None, action: torch.Tensor) -> None:
        return None

    def act(self, image: torch.Tensor, *_: Any) -> tuple[torch.Tensor, None]:
        return torch.zeros(len(image), 9), None


def rolled(env_id: str, options: dict[str, Any], count: int = 1) -> list[Episode]:
    pool = EnvPool(env_id, options, 0)
    try:
        return roll_episodes(pool, Still(), range(count), "sample", Key(0, 0))  # type: ignore[arg-type]
    finally:
        pool.close()


def test_all_seven_objects_are_recorded_online(told: str) -> None:
    """Not only the task's: each step's own, and not the last one's."""
    completions = {"microwave": 3, "top_burner": 6, "kettle": 9}
    episode = rolled(told, {"objects": KITCHEN_TASKS["mixed"], **completions})[0]
    np.testing.assert_array_equal(episode.extras["in_place"], states(**completions))
    np.testing.assert_array_equal(episode.extras["completed"], states(**completions)[:, MIXED])
    assert episode.extras["in_place"].dtype == bool


def test_the_kitchens_own_episodes_record_them(gl: None) -> None:
    episode = rolled(kitchen_id("mixed"), {"episode_steps": 2})[0]
    assert episode.extras["in_place"].shape == (2, 7) and episode.extras["completed"].shape == (2, 4)


def test_a_simulation_that_blew_up_has_nothing_in_place(gl: None, monkeypatch: pytest.MonkeyPatch) -> None:
    env = KitchenEnv(image_size=8)
    env.reset(seed=0)
    monkeypatch.setattr(env, "all_in_place", lambda: np.ones(7, bool))
    *_, info = env.step(np.zeros(9))
    assert info["in_place"].all() and info["completed"].all() and info["success"]
    monkeypatch.setattr(env, "advance", lambda action: False)
    _, reward, _, truncated, info = env.step(np.zeros(9))
    assert truncated and reward == 0 and not info["in_place"].any() and not info["completed"].any()
    env.close()


def views(root: Path, env_id: str, episodes: list[Episode], **options: Any) -> Views:
    store = EpisodeStore(root / "replay")
    for episode in episodes:
        store.append(episode)
    return Views(store, 0, task_objects(env_id, options))


def kept(views: Views, length: int = 8) -> dict[int, int]:
    """Rows that are cloned of each episode."""
    view = views.of("clone", BatchPart(4, length, "progress"))
    return dict(zip(view.episodes.tolist(), view.rows.tolist(), strict=True))


def test_what_is_cloned_follows_the_environments_order(
    told: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    objects = {"objects": KITCHEN_TASKS["mixed"]}
    order = {"microwave": 3, "bottom_burner": 6, "light_switch": 9, "kettle": 12}
    foreign = rolled(told, {**objects, **order})[0]
    whole = rolled(told, {**objects, "microwave": 3, "kettle": 6, "bottom_burner": 9, "light_switch": 12})[0]
    assert kept(views(tmp_path / "a", kitchen_id("mixed"), [foreign, whole])) == {0: 3 + 12, 1: 6 + 12}
    assert kept(views(tmp_path / "b", kitchen_id("partial"), [foreign, whole])) == {0: 3 + 12, 1: 12 + 12}
    other = views(tmp_path / "c", kitchen_id("mixed"), [foreign], objects=["microwave", "bottom_burner", "kettle"])
    assert kept(other) == {0: 6 + 12}
    assert not [w for w in recwarn if "in_place" in str(w.message)]


def test_episodes_without_all_objects_load_and_are_named_once(told: str, tmp_path: Path) -> None:
    order = {"microwave": 3, "bottom_burner": 6, "kettle": 9}
    old, new = rolled(told, order, 1) + rolled(told, order, 1)
    del old.extras["in_place"]
    data = views(tmp_path, kitchen_id("mixed"), [old, new])
    with pytest.warns(UserWarning, match="1 of 2 episodes do not record.*in_place.*not the task's"):
        assert kept(data) == {0: 9 + 12, 1: 3 + 12}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept(data)
