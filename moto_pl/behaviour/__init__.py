"""Actor, critics, value expansion, and the filters that choose what is cloned. No Lightning here."""

from .actor import Actor
from .critic import QEnsemble, ValueCritic
from .filters import EpisodeFilter, keep_rows
from .value import penalise, trajectory_weights

__all__ = [
    "Actor",
    "EpisodeFilter",
    "QEnsemble",
    "ValueCritic",
    "keep_rows",
    "penalise",
    "trajectory_weights",
]
