import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from moto_pl.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())
else:
    print("left")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def steps(count):
    for _ in range(count):
        for size in (10_000_000, 3_000_000):  # 40 MB, above what glibc ever keeps by itself, and 12
            torch.ones(size).add(1)
steps(5)  # until the blocks have found their places
before = faults()
steps(20)
print(faults() - before)
"""


def run(argument: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, argument], check=True, capture_output=True, text=True)
    said, count = done.stdout.split()
    return said, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has the settings")
def test_freed_memory_is_not_faulted_in_anew() -> None:
    said, kept = run("keep")
    _, without = run("leave")
    assert said == "True"
    assert without > 20 * 80e6 / 4096 / 2  # half the pages of the larger two at least
    assert kept < without / 5
