"""Checkpoints, throughput, evaluation records and videos."""

from .checkpoint import DurableCheckpointIO, RunCheckpoint, load_checkpoint
from .evaluation import EvaluationRecorder
from .gradients import ActorGradients
from .open_loop import OpenLoopVideo
from .snapshots import ExpertUncertainty, Snapshots
from .throughput import Throughput

__all__ = [
    "ActorGradients",
    "DurableCheckpointIO",
    "EvaluationRecorder",
    "ExpertUncertainty",
    "OpenLoopVideo",
    "RunCheckpoint",
    "Snapshots",
    "Throughput",
    "load_checkpoint",
]
