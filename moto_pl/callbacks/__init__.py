"""Checkpoints, throughput, evaluation records and videos."""

from .checkpoint import DurableCheckpointIO, RunCheckpoint, load_checkpoint
from .evaluation import EvaluationRecorder
from .open_loop import OpenLoopVideo
from .throughput import Throughput

__all__ = [
    "DurableCheckpointIO",
    "EvaluationRecorder",
    "OpenLoopVideo",
    "RunCheckpoint",
    "Throughput",
    "load_checkpoint",
]
