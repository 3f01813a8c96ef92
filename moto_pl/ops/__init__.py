"""The hot paths: compiled where they were built, each beside the plain-PyTorch reference that defines it.

An operator has one name everywhere: ``ops/imagine.py`` here, ``ops/imagine.cpp`` in ``csrc/``.

The letters of shapes, in Python and C++:
    B batch: sequences, or states that imagination starts from; T rows of a sequence; H imagined steps; K members of
    the ensemble; N critics; D deter; S latent variables, C classes of each; A actions; E an image's embedding; U hidden
    units (in C++, U the heads' and V those of the cell's input layer).
    Z = S * C (categorical) or S (Gaussian) is the size of z; P = S * C or 2 * S that of its parameters.
Images are [frames, channels, rows, columns], written out.
"""

from .action import ActionDist, ActionKind
from .conv import Activation, conv, conv_transpose
from .imagine import Imagined, MemberChoice, PriorWeights, choose, imagine, in_turn, priors
from .lambda_return import Ops, lambda_return
from .latent import Disagreement, LatentKind, LatentSpec, LatentStd, disagreement, draw_noise, entropy, kl, sample
from .observe import CellWeights, PosteriorWeights, observe, transition
from .philox import Key, KeyTable, Stream, integers, normal, uniform
from .pixels import squared_error
from .precision import full
from .share import Share, at_least, average, common_mean, total

__all__ = [
    "ActionDist",
    "ActionKind",
    "Activation",
    "CellWeights",
    "Disagreement",
    "Imagined",
    "Key",
    "KeyTable",
    "LatentKind",
    "LatentSpec",
    "LatentStd",
    "MemberChoice",
    "Ops",
    "PosteriorWeights",
    "PriorWeights",
    "Share",
    "Stream",
    "at_least",
    "average",
    "choose",
    "common_mean",
    "conv",
    "conv_transpose",
    "disagreement",
    "draw_noise",
    "entropy",
    "full",
    "imagine",
    "in_turn",
    "integers",
    "kl",
    "lambda_return",
    "normal",
    "observe",
    "priors",
    "sample",
    "squared_error",
    "total",
    "transition",
    "uniform",
]
