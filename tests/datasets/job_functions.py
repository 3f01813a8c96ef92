"""Jobs that hang, die and raise, for the tests of the processes that do them."""

import os
import time
from pathlib import Path

from moto_pl.errors import SettingError
from moto_pl.threads import ONE_THREAD


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
    """The OpenGL backend that this process would draw with; the first two processes die."""
    deaths = len(Path(flag).read_text()) if Path(flag).exists() else 0
    if deaths < 2:
        Path(flag).write_text("x" * (deaths + 1))
        os._exit(5)
    return os.environ["MUJOCO_GL"]


def threads(_: str) -> tuple[int, dict[str, str]]:
    """This process's threads, as torch has them, and what its own processes would be told."""
    import torch

    return torch.get_num_threads(), {name: os.environ[name] for name in ONE_THREAD}
