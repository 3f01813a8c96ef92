"""The one error that a user's mistake raises, or a fault in what the user brought."""

import difflib
import math
import sys
from collections.abc import Iterable


class SettingError(ValueError):
    """Bad input: names the setting, the value found, and what to do about it.

    The command line prints the message alone, without a traceback, and exits with status 2.

    Args:
        setting: the setting, file or argument at fault, as the user wrote it (``data.dataset``).
        found: what was found there.
        fix: what to do, as an instruction.

    Attributes:
        details: lines that the command line prints before the message; mostly none.
    """

    details = ""

    def __init__(self, setting: str, found: object, fix: str) -> None:
        self.setting, self.found, self.fix = setting, found, fix
        # What a file of others' holds may be in it: it must not break the line, nor move a terminal's cursor.
        shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in f"{setting}: found {found}")
        super().__init__(f"{shown}. {fix}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Rebuilt from its three parts, so that it survives the way back from a worker process.
        return type(self), (self.setting, str(self.found), self.fix)


class MachineError(SettingError):
    """What was brought may be sound, but this machine cannot look at it: a package is not installed, say."""


class EnvironmentRaised(SettingError):
    """A user's environment raised an exception.

    Args:
        found: which environment, and what it raised.
        fix: what to do, as an instruction.
        traceback: the environment's own, from its first line on.
    """

    def __init__(self, found: object, fix: str, traceback: str) -> None:
        super().__init__("data.env", found, fix)
        self.details = f"{traceback.rstrip()}\n" if traceback else ""

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (str(self.found), self.fix, self.details)


def check_least(part: str, settings: object, **least: float) -> None:
    """Refuses what is below its least, infinite or no number; null is taken.

    Args:
        part: the group that the settings stand in, such as ``optim``.
        settings: has them as attributes.
        **least: the least value of each.

    Raises:
        SettingError: naming the first such setting.
    """
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and not bound <= value < math.inf:
            raise SettingError(f"{part}.{name}", value, f"Give at least {bound:g}.")


def check_above_zero(part: str, settings: object, *names: str) -> None:
    """Refuses what is 0, negative, infinite or no number; null is taken. See :func:`check_least`."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise SettingError(f"{part}.{name}", value, "Give a number above 0.")


def did_you_mean(name: str, known: Iterable[str], n: int = 2, cutoff: float = 0.6) -> str:
    """A guess at what was meant, as a sentence to put before a fix; nothing where nothing is near.

    Args:
        name: what was found.
        known: what could be meant.
        n: guesses at most.
        cutoff: how alike they are at least, in [0, 1].
    """
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def tell(line: str) -> None:
    """Says a line on stderr: why this process ends, or what it waits for.

    In one write: several processes may end at once, and share it. ``print`` may write the line's end by itself.
    """
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
