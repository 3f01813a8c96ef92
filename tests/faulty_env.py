"""The reaching task, with one fault in its life: at a given step of whichever episode gets there first."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym

from moto_pl.envs.reach import ReachEnv


class FaultyReach(ReachEnv):
    """Dies, hangs or raises once, or sends its process a signal.

    Args:
        fault: ``die``, ``hang``, ``raise`` or a signal's name.
        marker: a file that is made as it happens; where it exists, nothing does.
        at: in which of its steps, over all episodes, it happens; the first one tries the environment out.
        **options: the task's own.
    """

    def __init__(self, fault: str, marker: str, at: int = 17, **options: Any) -> None:
        super().__init__(**options)
        self.fault, self.marker, self.at, self.count = fault, Path(marker), at, 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == self.at and not self.marker.exists():
            self.marker.touch()
            if self.fault == "die":
                os._exit(1)
            if self.fault == "raise":
                raise RuntimeError("the renderer failed")
            if self.fault == "hang":
                time.sleep(3600)
            os.kill(os.getpid(), signal.Signals[self.fault])
        return super().step(action)


gym.register("FaultyReach-v0", entry_point=FaultyReach)
