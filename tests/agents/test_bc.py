"""Behaviour cloning learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from learning import build, fill, mean_return, scripted, train

from moto_pl.agents import BC
from moto_pl.agents.model_free import PixelConfig, TDConfig


@pytest.mark.slow
def test_it_reproduces_an_expert(tmp_path: Path) -> None:
    pixels = PixelConfig(frame_stack=1, shift=6, channels=(16, 32, 32, 32), units=128)
    agent = build(BC(pixels, TDConfig(batch_size=64, lr=2e-3)))
    untrained = mean_return(agent, 10)
    train(agent, fill(tmp_path / "store", [scripted(seed, lambda a, rng, t: a) for seed in range(60)]), 700)
    held_out = [scripted(10_000 + seed, lambda a, rng, t: a) for seed in range(10)]
    image = torch.from_numpy(np.concatenate([e.image[:-1] for e in held_out])).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        error = (agent.policy(image).mode() - torch.from_numpy(np.concatenate([e.action for e in held_out]))).abs()
    assert error.mean() < 0.2  # of actions in [-1, 1]; a policy that always stands still is off by 0.31
    assert mean_return(agent, 10) > untrained + 7  # the expert's is 13.8
