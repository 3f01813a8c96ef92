"""Starting Lightning's verbs: what they say that does not concern a user is kept quiet, and bad input is one line."""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from moto_pl.errors import SettingError
from moto_pl.trust import untrusted


def run_lightning(args: Sequence[str]) -> None:
    """Runs one of Lightning's verbs."""
    quiet()
    with kept():
        from moto_pl.training.cli import MotoCLI

    with one_line_errors(args[0]):
        MotoCLI.run(args)


@contextmanager
def kept() -> Iterator[None]:
    """For imports: what is made within is never looked through for garbage.

    A run imports a million objects, which all stay. To look for garbage among them as they are made, now and then, and
    as the interpreter ends takes a third of a short run's processor time.
    """
    collects, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:  # else all there is would be a caller's
            gc.freeze()
        if collects:
            gc.enable()


@contextmanager
def one_line_errors(verb: str) -> Iterator[None]:
    """What the parser of one of Lightning's verbs says of bad input, as a SettingError."""
    try:
        yield
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        # The argument parser wraps what a class says of its settings in the history of its attempts.
        cause = _setting_error(error)
        if cause is not None:
            raise cause from None
        denied = re.search(r"Importing '([^']+)'\s+is\s+not\s+allowed", str(error))
        if denied is not None:
            raise untrusted("class_path", denied[1]) from None
        if isinstance(error, argparse.ArgumentError):
            from moto_pl.training.refusals import refusal  # here: the mistakes of other verbs do not need torch

            raise refusal(str(error).strip(), verb) from None
        raise
    except RuntimeError as error:
        refused = re.search(r"(\S+) does not have a deterministic implementation", str(error))
        if refused is None:
            raise
        fix = "Give trainer.deterministic: warn to be told and go on, or leave it out."
        found = f"true, and {refused[1]}, which PyTorch cannot repeat to the bit on this device"
        raise SettingError("trainer.deterministic", found, fix) from error


def _setting_error(error: BaseException | None) -> SettingError | None:
    """The SettingError in an exception's history, if there is one."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        error = queue.pop(0)
        if isinstance(error, SettingError):
            return error
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            queue += [error.__cause__, error.__context__]
    return None


def quiet() -> None:
    """Lightning's advertisements and advice that does not apply to rounds as epochs."""
    import logging
    import warnings

    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls, not ours
    # Read when torch is imported. Several processes are warned that no parameter is unused: see callbacks/peers.py.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()
    )
    for message in (
        ".*is smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The `srun` command is available.*",
        ".*in eval mode at the start of training.*",
        ".*Please add the following callbacks: .'Timer'..*",  # trainer.max_time, where a run goes on without it
        ".*Starting from v1.9.0, `tensorboardX`.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*Total length of `list` across ranks is zero.*",
        # These are all processes' already, or the first one's speed. What others log is not known here.
        ".*recommended to use `self.log\\('(batch|eval|online|speed|test|updates)/.*sync_dist=True",
    ):
        warnings.filterwarnings("ignore", message=message)
