"""One LightningModule a file; ``base`` is what they share."""

from .base import Agent, BatchPart
from .bc import BC
from .combo import COMBO
from .cql import CQL
from .dreamer import DreamerV2
from .iql import IQL
from .lompo import LOMPO
from .moto import MOTO
from .sac import SAC

__all__ = ["BC", "COMBO", "CQL", "IQL", "LOMPO", "MOTO", "SAC", "Agent", "BatchPart", "DreamerV2"]
