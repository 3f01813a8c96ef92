"""Settings of the world model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moto_pl.errors import SettingError, check_least
from moto_pl.ops import LatentKind, LatentStd

from .image import ConvActivation

# What settings of the world model may be, by name.
_COUNTED_FROM_1 = ("deter", "hidden", "stoch", "ensemble", "mlp_units", "vector_units", "head_units", "open_loop_rows")
_COUNTED_FROM_0 = ("mlp_layers", "decoder_mlp_layers", "vector_layers", "head_layers", "open_loop_steps")
_WEIGHTS = ("image_scale", "vector_scale", "reward_scale", "discount_scale", "kl_scale", "free_nats")
_LISTS = ("encoder_channels", "encoder_kernels", "decoder_channels", "decoder_kernels")


@dataclass
class WorldModelConfig:
    """Sizes and loss weights of the world model. Defaults: the MOTO paper (C.3), and DreamerV2's where it is silent.

    Attributes:
        latent: kind of the stochastic latent.
        deter: D, size of the deterministic state, 1 or more.
        hidden: E, width of the RSSM's dense layers, 1 or more.
        stoch: S, number of latent variables, 1 or more.
        classes: C, classes of each latent variable (categorical latents), 2 or more.
        latent_std: how a Gaussian latent's standard deviation comes from the network; see
            :class:`~moto_pl.ops.LatentSpec`. The compiled operators know ``sigmoid2`` alone.
        ensemble: K, number of prior heads, 1 or more; 1 gives a single model.
        encoder_channels: channels of the encoder's convolutions, 1 or more each.
        encoder_kernels: kernel sizes of the encoder's convolutions, 1 or more each (stride 2, VALID).
        decoder_channels: channels of the decoder's transposed convolutions, but the last (the image's), 1 or more each.
        decoder_kernels: kernel sizes of the decoder's transposed convolutions, 1 or more each (stride 2, VALID), for
            images of 64 pixels; to larger ones the same layers lead from larger maps.
        conv_activation: the function after each convolution of encoder and decoder, but the last.
        mlp_layers: dense layers after the encoder's and before the decoder's convolutions, 0 or more (0 in DreamerV2).
        mlp_units: width of these dense layers, 1 or more.
        decoder_mlp_layers: dense layers before the decoder's convolutions, 0 or more, where it has others; null is
            ``mlp_layers``.
        vector_layers: dense layers that encode the state vectors, 0 or more, where ``data.observation.state`` names
            some.
        vector_units: width of these dense layers, 1 or more.
        head_layers: hidden layers of the heads of reward, discount and state vectors, 0 or more.
        head_units: width of these hidden layers, 1 or more.
        discount_head: predict episode ends, which imagined returns then stop at. ``auto``: where a demonstration ends
            early; where none does there is nothing to learn it from.
        image_scale: weight of the image loss, 0 or more.
        vector_scale: weight of the state vectors' loss, 0 or more.
        reward_scale: weight of the reward loss, 0 or more.
        discount_scale: weight of the discount loss, 0 or more.
        kl_scale: beta, weight of the KL, 0 or more.
        kl_balance: b, share of the KL's gradient that trains the prior, in [0, 1]; null is the plain KL, which trains
            prior and posterior in full.
        free_nats: the KL is not pushed below this, in nats, 0 or more, on the batch mean.
        kl_member: ``sampled``: one member drawn per time step (the authors' code); ``all``: the sum over all.
        open_loop_steps: steps, 0 or more, over which the model also learns to predict on its own, as imagination has
            it: from states of its sequences along the recorded actions, the rewards and the posterior states that
            followed. At most the sequences' length - 1. 0, the papers' loss, leaves this out.
        open_loop_rows: the states where that begins, 1 or more, drawn anew at each gradient step; its cost is
            proportional to it.
    """

    latent: LatentKind = "categorical"
    deter: int = 1024
    hidden: int = 1024
    stoch: int = 32
    classes: int = 32
    latent_std: LatentStd = "sigmoid2"
    ensemble: int = 7
    encoder_channels: tuple[int, ...] = (48, 96, 192, 384)
    encoder_kernels: tuple[int, ...] = (4, 4, 4, 4)
    decoder_channels: tuple[int, ...] = (128, 64, 32)
    decoder_kernels: tuple[int, ...] = (5, 5, 6, 6)
    conv_activation: ConvActivation = "elu"
    mlp_layers: int = 4
    mlp_units: int = 400
    decoder_mlp_layers: int | None = None
    vector_layers: int = 2
    vector_units: int = 128
    head_layers: int = 4
    head_units: int = 400
    discount_head: bool | Literal["auto"] = "auto"
    image_scale: float = 1.0
    vector_scale: float = 1.0
    reward_scale: float = 1.0
    discount_scale: float = 1.0
    kl_scale: float = 1.0
    kl_balance: float | None = 0.8
    free_nats: float = 1.0
    kl_member: Literal["sampled", "all"] = "sampled"
    open_loop_steps: int = 0
    open_loop_rows: int = 64

    def __post_init__(self) -> None:
        check_least("world_model", self, **dict.fromkeys(_COUNTED_FROM_1, 1))
        check_least("world_model", self, **dict.fromkeys((*_COUNTED_FROM_0, *_WEIGHTS), 0), classes=2)
        for name in _LISTS:
            if min(value := getattr(self, name), default=0) < 1:
                raise SettingError(f"world_model.{name}", list(value), "Give a number of at least 1 for each layer.")
        if self.kl_balance is not None and not 0 <= self.kl_balance <= 1:
            fix = "Give a number in [0, 1], or null for the plain KL."
            raise SettingError("world_model.kl_balance", self.kl_balance, fix)
        if self.latent != "gaussian" and self.latent_std != "sigmoid2":
            fix = "Set world_model.latent: gaussian, or leave it out: one-hot variables have no standard deviation."
            raise SettingError("world_model.latent_std", f"{self.latent_std} with {self.latent} latents", fix)
