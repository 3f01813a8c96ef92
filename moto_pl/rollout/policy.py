"""What acts in environments, seen from them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from moto_pl.ops import Key

ActMode = Literal["sample", "mode"]


class Policy(Protocol):
    """What a rollout needs of an agent; :class:`moto_pl.agents.Agent` says what each method means."""

    training: bool

    @property
    def device(self) -> torch.device:
        """Where frames are wanted."""

    def train(self, mode: bool = True) -> Any:
        """Sets the mode of its networks."""

    def acting_weights(self) -> AbstractContextManager[None]:
        """Within it the weights are those that act."""

    def initial_state(self, count: int) -> Any:
        """The acting state of ``count`` environments before their first frame."""

    def act(
        self, image: Tensor, is_first: Tensor, state: Any, mode: ActMode, key: Key, vector: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Actions [n, A] for frames uint8 [n, 3, 64, 64] and state vectors [n, V], and the next state."""

    def executed(self, state: Any, action: Tensor) -> Any:
        """The state that knows what the environments got."""
