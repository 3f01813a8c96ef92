"""Jobs that hang, die and raise, for the tests of the processes that do them."""

import os
import time
from pathlib import Path

from moto_pl.errors import SettingError


def job(argument: tuple[str, int]) -> tuple[int, int]:
    """Twice the number, and the process that computed it; or a mishap. ``once:<file>`` has it the first time only."""
    what, number = argument
    name, _, flag = what.partition(":")
    if not flag or not Path(flag).exists():
        if flag:
            Path(flag).touch()
        if name == "hang":
            time.sleep(3600)
        elif name == "die":
            os._exit(5)
        elif name == "raise":
            raise ValueError("no such kettle")
        elif name == "refuse":
            raise SettingError("kettle", number, "Use another.")
    return 2 * number, os.getpid()


def backend(flag: str) -> str:
    """The OpenGL backend that this process would draw with; the first process dies."""
    if not Path(flag).exists():
        Path(flag).touch()
        os._exit(5)
    return os.environ["MUJOCO_GL"]
