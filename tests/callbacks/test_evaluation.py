"""Evaluation records."""

from __future__ import annotations

import dataclasses
import json
import resource
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from moto_pl.callbacks.collect import CollectEpisodes, CollectSettings
from moto_pl.callbacks.evaluation import EvaluateEpisodes, EvaluationSettings
from moto_pl.evaluations import read_evaluations
from moto_pl.replay.episode import Episode
from moto_pl.report.records import read_run
from moto_pl.rollout.roll import Rolled


def test_later_records_count_and_broken_lines_do_not(tmp_path: Path) -> None:
    whole = {"stage": "eval", "seed": [1], "success": [True], "length": [3]}
    lines = [
        json.dumps({**whole, "step": 20, "return": [1.0]}),
        json.dumps({**whole, "step": 10, "return": [2.0]}),
        "3",
        json.dumps({"step": 3}),
        json.dumps({**whole, "step": 20, "return": [5.0]}),
        '{"stage": "eval", "st',
    ]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(lines))
    assert [(r["step"], r["return"]) for r in read_evaluations(tmp_path)] == [(10, [2.0]), (20, [5.0])]


def test_no_file_is_no_evaluation(tmp_path: Path) -> None:
    assert read_evaluations(tmp_path) == []


def episode(success: list[int]) -> Episode:
    steps = len(success)
    return Episode(
        image=np.zeros((steps + 1, 4, 4, 3), np.uint8),
        action=np.zeros((steps, 2), np.float32),
        reward=np.arange(steps, dtype=np.float32),
        terminated=False,
        truncated=True,
        success=np.array(success, bool),
    )


def test_a_record_says_of_each_episode_how_it_stood_in_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rolled = [episode([0, 1, 1, 0]), episode([0, 0, 0, 1]), episode([0, 0, 0, 0])]
    # One that ends early: its own last step counts.
    rolled.append(dataclasses.replace(episode([0, 1]), terminated=True, truncated=False))
    agent: Any = SimpleNamespace(
        trained_steps=7, schedule=SimpleNamespace(phase=lambda step: "online"), device="cpu", seed=0, gamma=0.5,
        acting_weights=nullcontext, action_values=lambda batch, key: None, log=lambda *_, **__: None,
    )  # fmt: skip
    trainer: Any = SimpleNamespace(
        world_size=1, is_global_zero=True, default_root_dir=str(tmp_path),
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )  # fmt: skip
    (tmp_path / "evaluations.jsonl").write_text('{"stage": "eval", "st')  # what a power cut left of one before
    evaluate = EvaluateEpisodes(EvaluationSettings(), CollectEpisodes(CollectSettings("moto_pl/Reach-v0")), videos=0)
    evaluate.collect.collected_episodes = 3
    of_seed = {50 + i: Rolled(episode, np.zeros(0, np.float32)) for i, episode in enumerate(rolled)}
    monkeypatch.setattr(evaluate, "roll", lambda trainer, agent, seeds: [of_seed[seed] for seed in seeds])
    evaluate.on_validation_start(trainer, agent)
    for first in (50, 52):  # two batches of two environments
        evaluate.on_validation_batch_start(trainer, agent, torch.tensor([first, first + 1]), 0)
    evaluate.metrics.add_values(np.full(3, 3.5), np.ones(3), cut=False)
    evaluate.on_validation_epoch_end(trainer, agent)
    evaluate.on_validation_end(trainer, agent)
    (record,) = read_evaluations(tmp_path)
    assert record["value_bias"] == 2.5
    assert record["seed"] == [50, 51, 52, 53] and record["return"] == [6.0, 6.0, 6.0, 1.0]
    assert record["success"] == [True, True, False, True] and record["length"] == [4, 4, 4, 2]
    assert record["success_last"] == [False, True, False, True] and record["success_steps"] == [2, 1, 0, 1]
    evaluate.on_validation_end(trainer, agent)
    assert (tmp_path / "evaluations.jsonl").read_text().count("\n") == 3
    (found,) = read_run(tmp_path).evaluations
    assert found.success_last == (False, True, False, True) and found.success_steps == (2, 1, 0, 1)
    assert found.seed == (50, 51, 52, 53) and found.successes == 3
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "evaluations.jsonl").stat().st_size, hard))
    try:
        with pytest.raises(OSError, match="File too large.*evaluations.jsonl"):
            evaluate.on_validation_end(trainer, agent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_records_of_older_versions_are_read(tmp_path: Path) -> None:
    old = {
        "stage": "eval", "step": 20, "phase": "online", "online_episodes": 3, "return": [1.0, 2.0],
        "success": [True, False], "length": [3, 3],
    }  # fmt: skip
    broken = old | {"step": 30, "seed": [1, 2], "success_last": [True]}  # not one an episode
    (tmp_path / "evaluations.jsonl").write_text("\n".join(map(json.dumps, (old, broken))) + "\n")
    record = read_run(tmp_path)
    (found,) = record.evaluations
    assert found.step == 20 and found.success == [True, False]
    assert (found.seed, found.success_last, found.success_steps) == ((), (), ())
    assert any("not whole" in note for note in record.missing)
