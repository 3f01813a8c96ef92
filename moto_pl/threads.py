"""How the cores of a machine are shared: several learners and their environments must not wait for one another.

With more threads than free cores a parallel region ends when its last thread has had a turn, and a gradient step of a
small model has thousands of them: a step then takes twenty times as long as with one thread.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

#: Where a user says how many threads a process may have. Looked at before Lightning, under DDP, sets the first of them.
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SAID = next((name for name in _VARIABLES if os.environ.get(name)), None)
_given: int | None = None  # what this process was last given here


class Shared(NamedTuple):
    """What came of :func:`share_cores`.

    Attributes:
        threads: of this process.
        said: who chose them: an environment variable, ``torch.set_num_threads``, or None for an even share.
        cores: that the machine lets this process use.
        ranks: learners on this machine.
        helpers: environment processes of each learner, with one thread each.
    """

    threads: int
    said: str | None
    cores: int
    ranks: int
    helpers: int

    def __str__(self) -> str:
        """The line that a run begins with."""
        why = f" (as {self.said} says)" if self.said else ""
        learners = "the learner" if self.ranks == 1 else f"each of {self.ranks} learners"
        helpers = f", 1 for each of its {self.helpers} environment process(es)" if self.helpers else ""
        return f"threads: {self.threads} for {learners}{why}{helpers}, on {self.cores} core(s)"


def cores() -> int:
    """Cores that this process may run on: not the machine's, where it is bound to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(ranks: int, helpers: int) -> Shared:
    """Gives this process its share of the machine's cores in threads, unless the user has chosen their number.

    A number that is torch's own default is taken for no choice.

    Args:
        ranks: processes on this machine that learn together, this one among them.
        helpers: processes in which each of them has environments, which have one thread each.
    """
    global _given
    import torch

    found, usable = torch.get_num_threads(), cores()
    if _SAID is not None:
        return Shared(found, _SAID, usable, ranks, helpers)
    share = max(1, usable // ranks)
    # Torch's default is the cores, or the physical ones; Lightning's, under DDP, is the ranks' share of the cores.
    if found not in (usable, _physical_cores(), share, _given):
        return Shared(found, "torch.set_num_threads", usable, ranks, helpers)
    _given = max(1, share - helpers)
    torch.set_num_threads(_given)
    return Shared(_given, None, usable, ranks, helpers)


def one_thread() -> None:
    """Leaves this process, one of several that work side by side, a single thread, and those that it starts."""
    os.environ.update(ONE_THREAD)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


#: What gives a process that is started with it one thread in every library that has threads.
ONE_THREAD = {name: "1" for name in (*_VARIABLES, "OPENBLAS_NUM_THREADS")}


def _physical_cores() -> int:
    """Of those that this process may run on: two hardware threads of one core count once."""
    siblings = set()
    for core in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ():
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text())
        except OSError:
            return cores()
    return len(siblings) or cores()
