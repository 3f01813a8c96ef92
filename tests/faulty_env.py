"""The reaching task, with one fault in its life: at a given step of whichever episode gets there first."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym

from moto_pl.envs.reach import ReachEnv


class FaultyReach(ReachEnv):
    """Dies, hangs or raises once.

    Args:
        fault: ``die``, ``hang`` or ``raise``.
        marker: a file that is made as it happens; where it exists, nothing does.
        **options: the task's own.
    """

    def __init__(self, fault: str, marker: str, **options: Any) -> None:
        super().__init__(**options)
        self.fault, self.marker, self.count = fault, Path(marker), 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == 17 and not self.marker.exists():
            self.marker.touch()
            if self.fault == "die":
                os._exit(1)
            if self.fault == "raise":
                raise RuntimeError("the renderer failed")
            time.sleep(3600)
        return super().step(action)


gym.register("FaultyReach-v0", entry_point=FaultyReach)
