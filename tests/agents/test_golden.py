"""Every agent's first losses are those that are kept (tests/golden.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import golden
from runs import AGENTS

#: How far losses may lie apart: CPUs and operators differ in the order of their sums, and training makes more of it.
#: Measured: plain x86-64 for AVX-512, in torch and in our operators, makes at most 1e-5 (COMBO); a learning rate that
#: is one percent off to 3e-2. No GPU has been measured.
TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2}


@pytest.fixture(scope="module")
def kept() -> dict[str, golden.Losses]:
    path = golden.KEPT / f"{golden.device_kind()}.json"
    if not path.exists():
        pytest.skip(f"no losses are kept for {golden.device_kind()}: run tests/golden.py there")
    found: dict[str, golden.Losses] = json.loads(path.read_text())
    return found


def apart(found: golden.Losses, wanted: golden.Losses) -> float:
    """The largest difference of a part, in units of that part's mean size: a loss may pass through zero."""
    assert found.keys() == wanted.keys()
    parts = ((found[name], wanted[name], sum(map(abs, wanted[name])) / golden.STEPS) for name in wanted)
    return max(abs(a - b) / size for one, other, size in parts for a, b in zip(one, other, strict=True) if size)


def test_all_agents_are_kept(kept: dict[str, golden.Losses]) -> None:
    assert kept.keys() == AGENTS.keys()
    for parts in kept.values():
        assert parts and all(len(part) == golden.STEPS for part in parts.values())
        assert any(len(set(part)) > golden.STEPS // 2 for part in parts.values())


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_the_first_losses_are_those_that_are_kept(
    agent: str, kept: dict[str, golden.Losses], reach_dataset: Path, tmp_path: Path
) -> None:
    found = golden.losses(agent, tmp_path / "run", reach_dataset)
    assert apart(found, kept[agent]) < TOLERANCE[golden.device_kind()]


def test_a_small_change_shows(kept: dict[str, golden.Losses], reach_dataset: Path, tmp_path: Path) -> None:
    """A hundredth of a learning rate."""
    changed = golden.losses("MOTO", tmp_path / "run", reach_dataset, "--model.init_args.optim.model_lr", "1.01e-4")
    assert apart(changed, kept["MOTO"]) > TOLERANCE[golden.device_kind()]
