"""How the cores of a machine are shared: several learners and their environments must not wait for one another.

With more threads than free cores a parallel region ends when its last thread has had a turn, and a gradient step of a
small model has thousands of them: a step then takes twenty times as long as with one thread.
"""

from __future__ import annotations

import os
import sys
import time
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
        busy: cores that other programs were using.
    """

    threads: int
    said: str | None
    cores: int
    ranks: int
    helpers: int
    busy: int = 0

    def __str__(self) -> str:
        """The line that a run begins with."""
        why = f" (as {self.said} says)" if self.said else ""
        learners = "the learner" if self.ranks == 1 else f"each of {self.ranks} learners"
        helpers = f", 1 for each of its {self.helpers} environment process(es)" if self.helpers else ""
        busy = ""
        if self.busy and self.threads > max(1, self.cores - self.busy):
            fix = f"OMP_NUM_THREADS={max(1, self.cores - self.busy)} would not wait for them"
            busy = f", {self.busy} of them busy with other work: {fix}"
        return f"threads: {self.threads} for {learners}{why}{helpers}, on {self.cores} core(s){busy}"


def cores() -> int:
    """Cores that this process may run on: not the machine's, where it is bound to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(ranks: int, helpers: int, overlap: bool = False) -> Shared:
    """Gives this process its share of the machine's cores in threads, unless the user has chosen their number.

    A number that is torch's own default is taken for no choice. What other programs do is said, and changes nothing:
    another number of threads is another order of sums, and the same command should give the same run.

    Args:
        ranks: processes on this machine that learn together, this one among them.
        helpers: processes in which each of them has environments, which have one thread each.
        overlap: whether those work while this process learns: a core is left to them.
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
    busy = busy_cores() if ranks == 1 else 0  # ranks that start together would take one another for other programs
    _given = max(1, share - overlap)
    torch.set_num_threads(_given)
    return Shared(_given, None, usable, ranks, helpers, busy)


def busy_cores(seconds: float = 0.3) -> int:
    """Of the cores that this process may run on, those at work while it sleeps; 0 where the system does not say."""
    before = _core_times()
    time.sleep(seconds)
    after = _core_times()
    shares = []
    for core in before.keys() & after.keys():
        work, total = (after[core][i] - before[core][i] for i in range(2))
        shares.append(work / total if total > 0 else 0.0)
    return round(sum(shares))


def _core_times() -> dict[int, tuple[int, int]]:
    """Of each core that this process may run on, the time at work and the time in all, in the system's ticks."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *numbers = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in os.sched_getaffinity(0):
            times = [int(number) for number in numbers[:8]]
            idle = times[3] + times[4]  # idle, and waiting for a disk
            found[int(name[3:])] = (sum(times) - idle, sum(times))
    return found


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
