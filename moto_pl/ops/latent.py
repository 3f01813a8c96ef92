"""The stochastic latent z: its distribution, sample, divergence, and the ensemble's disagreement about it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from .philox import Key, Stream, normal, uniform

LatentKind = Literal["categorical", "gaussian"]
LatentStd = Literal["sigmoid2", "softplus"]
Disagreement = Literal["mean", "logit", "log_prob", "max_var"]


@dataclass(frozen=True)
class LatentSpec:
    """Kind and sizes of z. ``classes`` counts only for categorical latents.

    ``std`` says how a Gaussian latent's comes from the network's output x: ``sigmoid2``, 2 * sigmoid(x / 2) + 0.1
    (DreamerV2's default; range 0.1 to 2.1), or ``softplus``, softplus(x) + 0.1 (PlaNet, LOMPO; 0.1 and up).
    """

    kind: LatentKind = "categorical"
    stoch: int = 32
    classes: int = 32
    std: LatentStd = "sigmoid2"

    @property
    def uncompiled(self) -> str | None:
        """The setting that no compiled operator knows; None where they know all."""
        return f"latent_std: {self.std}" if self.kind == "gaussian" and self.std != "sigmoid2" else None

    @property
    def size(self) -> int:
        """Z, the length of a sample."""
        return self.stoch * self.classes if self.kind == "categorical" else self.stoch

    @property
    def params(self) -> int:
        """P, the length of the distribution's parameters."""
        return self.stoch * self.classes if self.kind == "categorical" else 2 * self.stoch

    @property
    def codes(self) -> list[int]:
        """The compiled operators' form of it: kind, variables, classes."""
        return [get_args(LatentKind).index(self.kind), self.stoch, self.classes]

    def logits(self, params: Tensor) -> Tensor:
        """[..., P] -> [..., S, C]."""
        return params.unflatten(-1, (self.stoch, self.classes))

    def moments(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of Gaussian latents: [..., 2S] -> two [..., S]."""
        mean, raw = params.chunk(2, -1)
        return mean, (F.softplus(raw) if self.std == "softplus" else 2 * torch.sigmoid(raw / 2)) + 0.1


def draw_noise(spec: LatentSpec, key: Key, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The noise that :func:`sample` needs: [*shape, S], one number a variable, uniform or standard normal.

    The last dimension of ``shape`` is the batch's.
    """
    draw = uniform if spec.kind == "categorical" else normal
    return draw(key, Stream.LATENT, (*shape, spec.stoch), like.device, like.dtype, rows=-2)


def sample(spec: LatentSpec, params: Tensor, noise: Tensor) -> Tensor:
    """Draws z with a gradient: straight-through for one-hots (DreamerV2), reparameterised for Gaussians.

    Args:
        spec: the latent.
        params: [..., P] float32 or float64.
        noise: [..., S] from :func:`draw_noise`. A categorical is drawn by inversion of its cumulative sum, which
            needs one uniform number a variable instead of C Gumbel numbers.

    Returns:
        [..., Z].
    """
    if spec.kind == "gaussian":
        mean, std = spec.moments(params)
        return mean + std * noise
    probs = spec.logits(params).softmax(-1)  # [..., S, C]
    with torch.no_grad():
        index = (_running_sum(probs) < noise.unsqueeze(-1)).sum(-1).clamp_(max=spec.classes - 1)
        one_hot = _one_hot(index, probs)
    return (one_hot + (probs - probs.detach())).flatten(-2)


def _running_sum(probs: Tensor) -> Tensor:
    """``probs.cumsum(-1)``, which on a GPU is in an order of its own and refused by ``trainer.deterministic``."""
    if not torch.are_deterministic_algorithms_enabled():
        return probs.cumsum(-1)
    return torch.stack([*accumulate(probs.double().unbind(-1))], -1).to(probs.dtype)  # as a CPU's cumsum adds


def mode(spec: LatentSpec, params: Tensor) -> Tensor:
    """The likeliest z, without gradient: [..., P] -> [..., Z]."""
    if spec.kind == "gaussian":
        return spec.moments(params)[0]
    logits = spec.logits(params)
    return _one_hot(logits.argmax(-1), logits).flatten(-2)


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    """1 at [..., S]'s places in [..., S, C], 0 elsewhere: as ``F.one_hot``, which may look at the index's values."""
    return torch.zeros_like(like).scatter_(-1, index.unsqueeze(-1), 1.0)


def kl(spec: LatentSpec, left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right), summed over the S variables, in nats: two [..., P] -> [...]."""
    if spec.kind == "gaussian":
        (mean_l, std_l), (mean_r, std_r) = spec.moments(left), spec.moments(right)
        ratio = (std_l / std_r).square()
        return 0.5 * (ratio + ((mean_l - mean_r) / std_r).square() - 1 - ratio.log()).sum(-1)
    log_l, log_r = spec.logits(left).log_softmax(-1), spec.logits(right).log_softmax(-1)
    return (log_l.exp() * (log_l - log_r)).sum((-2, -1))


def entropy(spec: LatentSpec, params: Tensor) -> Tensor:
    """Entropy in nats, summed over the S variables: [..., P] -> [...]."""
    if spec.kind == "gaussian":
        return (spec.moments(params)[1].log() + 1.4189385332046727).sum(-1)
    log_p = spec.logits(params).log_softmax(-1)
    return -(log_p.exp() * log_p).sum((-2, -1))


def log_prob(spec: LatentSpec, params: Tensor, z: Tensor) -> Tensor:
    """Ln p(z), summed over the S variables: [..., P], [..., Z] -> [...]."""
    if spec.kind == "gaussian":
        mean, std = spec.moments(params)
        return (-0.5 * ((z - mean) / std).square() - std.log() - 0.9189385332046727).sum(-1)
    return (spec.logits(params).log_softmax(-1) * spec.logits(z)).sum((-2, -1))


def check_disagreement(kind: Disagreement, latent: LatentKind, setting: str = "disagreement") -> None:
    """Raises a :class:`SettingError` where the latents do not have the estimator."""
    if kind == "max_var" and latent != "gaussian":
        raise SettingError(setting, f"max_var with {latent} latents", "Use mean, logit or log_prob.")


def disagreement(spec: LatentSpec, params: Tensor, z: Tensor, kind: Disagreement) -> Tensor:
    """u(s, a): how far the K members' predictions of the next latent lie apart (MOTO, Eq. 2).

    Args:
        spec: the latent.
        params: [K, ..., P], each member's prior on the next latent.
        z: [..., Z], the sampled next latent; used by ``log_prob`` alone.
        kind: ``mean``, population std over members of the predictive means (class probabilities for categorical
            latents), averaged over the latent's dimensions, as in the authors' code; ``logit``, the same on logits;
            ``log_prob``, std over members of ln p_k(z) (LOMPO); ``max_var``, the largest norm of a member's
            predictive std (MOPO; Gaussian latents only).

    Returns:
        [...], non-negative, with gradient.

    Raises:
        SettingError: for ``max_var`` on categorical latents, which predict no std.
    """
    check_disagreement(kind, spec.kind)
    if kind == "log_prob":
        return _spread(log_prob(spec, params, z.expand(params.shape[0], *z.shape)))
    if kind == "max_var":
        return spec.moments(params)[1].norm(dim=-1).amax(0)
    if spec.kind == "gaussian":
        return _spread(spec.moments(params)[0]).mean(-1)
    values = spec.logits(params)
    return _spread(values.softmax(-1) if kind == "mean" else values).mean((-2, -1))


def _spread(values: Tensor) -> Tensor:
    """Population std over the members (dim 0). The floor keeps the root's gradient finite where they all agree."""
    variance = (values - values.mean(0, keepdim=True)).square().mean(0)
    return variance.clamp(min=1e-12).sqrt()
