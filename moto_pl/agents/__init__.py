"""One LightningModule a file; ``base`` is what they share."""

from .base import Agent, BatchPart
from .moto import MOTO

__all__ = ["MOTO", "Agent", "BatchPart"]
