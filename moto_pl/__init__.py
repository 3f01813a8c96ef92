"""MOTO: from a handful of image demonstrations to a policy, with PyTorch Lightning.

Importing this registers the environments with gymnasium; neither a simulator nor torch is imported for it.
"""

import os
from typing import TYPE_CHECKING, Any

if os.name == "nt":
    raise ImportError("moto_pl: found Windows. Use WSL 2: files are locked and processes stopped as POSIX has it.")

# OpenMP's threads sleep while they wait for one another, unless the user has said otherwise: where other programs want
# the cores too, threads that wait at full speed make a small model's step take thirty times as long. Torch reads it as
# it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from moto_pl import envs as envs

if TYPE_CHECKING:
    from moto_pl.agents.loading import load_policy as load_policy

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load_policy":  # torch is imported when it is first asked for
        from moto_pl.agents.loading import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
