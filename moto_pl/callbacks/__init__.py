"""Checkpoints, throughput, evaluation records and videos."""

from .checkpoint import RunCheckpoint
from .evaluation import EvaluationRecorder
from .gradients import ActorGradients
from .open_loop import OpenLoopVideo
from .snapshots import Snapshots
from .throughput import Throughput

__all__ = [
    "ActorGradients",
    "EvaluationRecorder",
    "OpenLoopVideo",
    "RunCheckpoint",
    "Snapshots",
    "Throughput",
]
