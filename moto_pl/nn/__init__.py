"""Networks: encoder, decoder, heads, the ensemble RSSM and the world model's loss."""

from .mlp import MLP, EnsembleMLP
from .settings import WorldModelConfig
from .world_model import RSSM, Rollout, States, WorldModel

__all__ = ["MLP", "RSSM", "EnsembleMLP", "Rollout", "States", "WorldModel", "WorldModelConfig"]
