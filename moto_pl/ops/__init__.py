"""The hot paths: compiled where they were built, each beside the plain-PyTorch reference that defines it."""

from .action import ActionDist, ActionKind
from .convolution import Activation, conv, conv_transpose
from .imagine import Imagined, MemberChoice, PriorWeights, choose, imagine, priors
from .lambda_return import Ops, lambda_return
from .latent import Disagreement, LatentKind, LatentSpec, LatentStd, disagreement, draw_noise, entropy, kl, sample
from .observe import CellWeights, PosteriorWeights, observe, transition
from .philox import Key, Stream, integers, normal, uniform
from .pixels import squared_error

__all__ = [
    "ActionDist",
    "ActionKind",
    "Activation",
    "CellWeights",
    "Disagreement",
    "Imagined",
    "Key",
    "LatentKind",
    "LatentSpec",
    "LatentStd",
    "MemberChoice",
    "Ops",
    "PosteriorWeights",
    "PriorWeights",
    "Stream",
    "choose",
    "conv",
    "conv_transpose",
    "disagreement",
    "draw_noise",
    "entropy",
    "imagine",
    "integers",
    "kl",
    "lambda_return",
    "normal",
    "observe",
    "priors",
    "sample",
    "squared_error",
    "transition",
    "uniform",
]
