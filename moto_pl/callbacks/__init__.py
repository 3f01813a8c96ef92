"""Collecting and evaluating, checkpoints, throughput, records and videos."""

from .checkpoint import RunCheckpoint
from .collect import CollectEpisodes
from .evaluation import EvaluateEpisodes
from .gradients import ActorGradients
from .open_loop import OpenLoopVideo
from .snapshots import Snapshots
from .throughput import Throughput

__all__ = [
    "ActorGradients",
    "CollectEpisodes",
    "EvaluateEpisodes",
    "OpenLoopVideo",
    "RunCheckpoint",
    "Snapshots",
    "Throughput",
]
