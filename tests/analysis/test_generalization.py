"""What is seen, what is predicted, and what a probe reads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from planted import PlantedModel, episode

from moto_pl.analysis.commands import _largest_reward
from moto_pl.analysis.generalization import LEAST_CONTEXT, completed, context_of, open_loop, train_probe
from moto_pl.errors import SettingError
from moto_pl.nn import WorldModel, WorldModelConfig
from moto_pl.ops import Key
from moto_pl.replay import EpisodeStore
from moto_pl.replay.episode import Episode


def with_objects(first: list[int | None], steps: int = 20, seed: int = 0) -> Episode:
    """An episode in which object i comes into place at step ``first[i]``, and out of it at the next."""
    now = np.zeros((steps, len(first)), bool)
    for index, step in enumerate(first):
        if step is not None:
            now[step, index] = True
    return dataclasses.replace(episode(False, seed, steps), extras={"completed": now})


def test_context_ends_with_the_last_but_one_object() -> None:
    data = with_objects([9, 2, 14])
    assert completed(data)[-1].all() and completed(data).sum(1).tolist() == [0, 0] + [1] * 7 + [2] * 5 + [3] * 6
    # Step 9 leads to frame 10, the eleventh.
    assert context_of(data) == 11
    assert context_of(with_objects([9, None, 14])) is None
    assert context_of(with_objects([0, 1, 14])) == LEAST_CONTEXT
    assert context_of(with_objects([7])) == LEAST_CONTEXT  # nothing comes before the only object
    assert context_of(with_objects([19, 19])) == 20  # something is left to predict


def random_model() -> WorldModel:
    torch.manual_seed(0)
    sizes = {"deter": 8, "hidden": 8, "stoch": 3, "classes": 4, "ensemble": 2, "mlp_layers": 0}
    return WorldModel(WorldModelConfig(**sizes, encoder_channels=(2, 2, 2, 2), decoder_channels=(2, 2, 2)), 2)  # type: ignore[arg-type]


def test_frames_after_the_context_are_not_seen() -> None:
    model, data = random_model(), episode(True, 0, 12)
    image = data.image.copy()
    image[6:] = 255 - image[6:]
    one, other = (open_loop(model, e, 6, 3, Key(0, 0)) for e in (data, dataclasses.replace(data, image=image)))
    np.testing.assert_array_equal(one.reward, other.reward)
    np.testing.assert_array_equal(one.image, other.image)
    assert one.reward.shape == (3, 12) and one.image.shape == (13, 64, 64, 3) and one.final.shape == (3, 20)
    assert one.reward[:, 5:].std(0).max() > 0  # the rolls differ
    action = data.action.copy()
    action[8] *= -1
    moved = open_loop(model, dataclasses.replace(data, action=action), 6, 3, Key(0, 0))
    np.testing.assert_array_equal(moved.reward[:, :8], one.reward[:, :8])
    assert (moved.reward[:, 8] != one.reward[:, 8]).any()


def test_the_whole_episode_may_be_seen() -> None:
    result = open_loop(random_model(), episode(True, 0, 12), 13, 2, Key(0, 0))
    assert result.reward.shape == (2, 12) and result.image.shape == (13, 64, 64, 3)


def test_a_probe_reads_what_is_there_and_not_what_is_not() -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(9):
        data = episode(bool(seed % 2), seed, 30)
        bright = data.image[1:, 0, 0, 0] > 125
        chance = rng.random(30) < 0.5
        episodes.append(dataclasses.replace(data, extras={"completed": np.stack((bright, chance), 1)}))
    model = PlantedModel()
    observe = model.observe

    def level_alone(batch, key):  # type: ignore[no-untyped-def]
        posterior = observe(batch, key)
        posterior.states.deter[..., 1] = 0
        return posterior

    model.observe = level_alone  # type: ignore[method-assign]
    probe = train_probe(model, episodes, Key(0, 0))
    assert probe.accuracy[0] > 0.95 and abs(probe.accuracy[1] - 0.5) < 0.15
    assert probe.accuracy[0] > probe.majority[0] + 0.2
    assert probe(torch.tensor([[0.4, 0, 0, 0], [-0.4, 0, 0, 0]]))[:, 0].tolist() == [True, False]
    with pytest.raises(SettingError, match="at least 3"):
        train_probe(model, episodes[:2], Key(0, 0))


def test_a_pretrained_model_has_seen_the_dataset_alone(tmp_path: Path) -> None:
    """Two demonstrations with rewards up to 3; an episode that was collected after pre-training reached 4."""
    store = EpisodeStore(tmp_path / "replay")
    for reward in (2.0, 3.0, 4.0):
        store.append(episode(False, reward=reward))
    data = {"offline_steps": 10, "online_steps": 4, "offline_round_steps": 5, "updates_per_episode": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    assert _largest_reward(tmp_path, 10) == 4.0  # how many demonstrations there were is not known
    (tmp_path / "replay/dataset.json").write_text(json.dumps({"dataset": "x", "episodes": 2}))
    assert _largest_reward(tmp_path, 10) == 3.0
    assert _largest_reward(tmp_path, 12) == 4.0
