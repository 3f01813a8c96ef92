"""What collecting adds to a policy's actions, so that the data shows more than the policy does."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from moto_pl.ops import Key, Stream
from moto_pl.ops.philox import normal, uniform

#: Mean length of a detour, in steps: as far as imagination looks ahead, and then some.
DETOUR_STEPS = 15
_STARTS, _ENDS, _MOVES, _ACTION = range(4)


class Exploration(NamedTuple):
    """How far collecting departs from the policy. Each episode draws its own amounts, uniformly between two numbers.

    Attributes:
        noise: std of Gaussian noise that is added to every action.
        hold: steps for which a draw of that noise is added, 1 or more. One that changes at each step averages out; one
            that is held takes the arm elsewhere, and back with the policy's help.
        detours: share of the steps in which the policy does not act: now and then one action is held instead, for
            :data:`DETOUR_STEPS` steps in the mean. Each of its numbers is 0 or drawn from [-1, 1], with even chances:
            so some detours do nothing, some move in one direction alone. They show a world model what comes of
            actions that no demonstration has.
    """

    noise: tuple[float, float] = (0.0, 0.0)
    detours: tuple[float, float] = (0.0, 0.0)
    hold: int = 1


NO_EXPLORATION = Exploration()


class Explorer:
    """Exploration in episodes that are rolled side by side.

    Args:
        exploration: how much of it.
        count: episodes n.
        key: names its draws.
        device: where actions are.
    """

    def __init__(self, exploration: Exploration, count: int, key: Key, device: torch.device) -> None:
        self._exploration = exploration
        low, high = exploration.noise
        self._stds = low + (high - low) * uniform(key, Stream.NOISE, (count, 1), device, rows=0)  # [n, 1]
        low, high = exploration.detours
        self._share = low + (high - low) * uniform(key, Stream.DETOUR, (count, 1), device, rows=0)  # [n, 1]
        self._on_detour = torch.zeros(count, 1, dtype=torch.bool, device=device)
        self._held: Tensor | None = None  # [n, A], a detour's action
        self._added = torch.zeros(0, device=device)  # [n, A], the noise that is held
        self._steps = 0

    def __call__(self, action: Tensor, key: Key) -> tuple[Tensor, Tensor | None]:
        """What is done in place of the policy's actions.

        Args:
            action: the policy's [n, A], within [-1, 1].
            key: of this step.

        Returns:
            The actions, ``action`` itself where nothing is changed, and which episodes are on a detour, bool [n]; None
            where there are none.
        """
        shape, device = tuple(action.shape), action.device
        if self._exploration.noise[1] > 0:
            if self._steps % self._exploration.hold == 0:
                self._added = self._stds * normal(key, Stream.NOISE, shape, device, rows=0)
            self._steps += 1
            action = (action + self._added).clamp(-1, 1)
        if self._exploration.detours[1] == 0:
            return action, None
        draws = [uniform(key.fold(use), Stream.DETOUR, (len(action), 1), device, rows=0) for use in (_STARTS, _ENDS)]
        # A chain of two states, in the second of which the share of the steps is spent, from the first step on.
        ends = draws[1] < 1 / DETOUR_STEPS
        starts = draws[0] < (self._share / (1 - self._share) / DETOUR_STEPS if self._held is not None else self._share)
        begun = ~self._on_detour & starts
        self._on_detour = torch.where(self._on_detour, ~ends, starts)
        moves = uniform(key.fold(_MOVES), Stream.DETOUR, shape, device, rows=0) < 0.5
        new = moves * (2 * uniform(key.fold(_ACTION), Stream.DETOUR, shape, device, rows=0) - 1)
        self._held = torch.where(begun, new, new if self._held is None else self._held)
        return torch.where(self._on_detour, self._held, action), self._on_detour[:, 0]
