"""A model that is right where the picture is dark and wrong where it is bright, and says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moto_pl.nn import Rollout, States, WorldModel, WorldModelConfig
from moto_pl.nn.world_model import Posterior
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import SequenceBatch

STEPS = 12


def episode(bright: bool, seed: int = 0, steps: int = STEPS, reward: float = 1.0) -> Episode:
    """Frames of one grey level each, below or above the middle."""
    rng = np.random.default_rng(seed)
    level = rng.integers(140, 250, steps + 1) if bright else rng.integers(0, 110, steps + 1)
    image = np.broadcast_to(level[:, None, None, None], (steps + 1, 64, 64, 3)).astype(np.uint8)
    action = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    rewards = np.full(steps, reward, np.float32)
    return Episode(image.copy(), action, rewards, False, True, rewards > 2, {}, {})


class _Brightness(nn.Module):
    """Decodes dark states as they are, and bright ones as black."""

    def forward(self, features: Tensor) -> Tensor:
        level = features[..., :1]
        level = torch.where(level > 0, torch.full_like(level, -0.5), level)
        return level[..., None, None].expand(*level.shape[:-1], 3, 64, 64)


class PlantedModel(WorldModel):
    """Its state is the grey level of the frame that follows in the recording; its members differ where it is bright."""

    def __init__(self) -> None:
        sizes: dict[str, Any] = {"encoder_channels": (2, 2, 2, 2), "decoder_channels": (2, 2, 2), "mlp_layers": 0}
        super().__init__(WorldModelConfig(deter=2, hidden=4, stoch=1, classes=2, ensemble=2, **sizes), 2)
        self.decoder = _Brightness()  # type: ignore[assignment]
        self.levels = torch.zeros(0)

    def observe(self, batch: SequenceBatch, key: Key) -> Posterior:
        level = batch.image.float().mean((2, 3, 4)).T / 255 - 0.5  # [T, B]
        self.levels = level[:, 0]
        place = torch.arange(len(level)).float()[:, None].expand_as(level)
        deter = torch.stack((level, place), -1)
        return Posterior(States(deter, torch.zeros(*level.shape, 2)), torch.zeros(*level.shape, 2))

    def roll(self, start: States, act: Callable[[int, States], Tensor], steps: int, key: Key) -> Rollout:
        place = start.deter[:, 1].long()
        states, prior, actions = [start], [], []
        for i in range(steps):
            actions.append(act(i, states[-1]))
            place = place + 1
            level = self.levels[place]
            spread = level.clamp(min=0) * 8  # logits of the two members
            prior.append(torch.stack([torch.stack((sign * spread, 0 * spread), -1) for sign in (1, -1)]))  # [2, n, 2]
            states.append(States(torch.stack((level, place.float()), -1), start.stoch))
        stacked = States(*(torch.stack(parts) for parts in zip(*states, strict=True)))
        return Rollout(stacked, torch.stack(actions), torch.stack(prior, 1))
