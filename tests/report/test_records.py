"""What a run's own files say of its schedule."""

from __future__ import annotations

from typing import Any

import pytest

from moto_pl.report.records import _schedule

BEFORE = {"offline_steps": 20, "online_steps": 30, "offline_round_steps": 10, "updates_per_episode": 5}


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (BEFORE, 20),  # from before the choice
        ({**BEFORE, "pretrain": "joint", "model_steps": 0}, 20),
        ({**BEFORE, "pretrain": "model_first", "model_steps": 7}, 27),
    ],
)
def test_the_offline_phase_ends_where_both_have_trained(data: dict[str, Any], end: int) -> None:
    schedule = _schedule(data)
    assert schedule is not None and schedule.pretraining_steps == end
    assert schedule.phase(end) == "pretrained" and schedule.total_steps == end + 30


@pytest.mark.parametrize("data", [None, {}, {**BEFORE, "pretrain": "model_first"}, {**BEFORE, "online_steps": "x"}])
def test_a_schedule_that_cannot_be_read_is_none(data: Any) -> None:
    assert _schedule(data) is None
