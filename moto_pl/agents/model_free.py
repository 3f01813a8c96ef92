"""What BC, SAC, CQL and IQL share: stacked frames, random shifts, convolutional encoders, twin critics.

Every head has a bottleneck of its own (linear, LayerNorm, tanh) on an encoder's output. Policies and values have an
encoder of their own, which their loss moves, or share the critics' and pass no gradient to it. The target critics have
a target encoder. Sizes and rates are those of the paper's appendix C.4; what it leaves open is a preset's to say:
``paper`` is what ran for the paper, the authors' fork of JAXRL2; ``jaxrl2`` is JAXRL2 itself. docs/baselines.md has the
table.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.func import functional_call

from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError, check_above_zero, check_least
from moto_pl.nn.actor_critic import track
from moto_pl.nn.gaussian import BoundedNormal, SquashedNormal
from moto_pl.nn.image import PixelEncoder, Seen, Stacked, random_shift
from moto_pl.nn.mlp import glorot, orthogonal
from moto_pl.nn.vector import VectorEncoder
from moto_pl.ops import Key, Stream, full, normal
from moto_pl.replay.filters import EpisodeFilter
from moto_pl.replay.sampler import SequenceBatch

from .base import ActMode, Agent, Batch, BatchPart, ParamGroup
from .presets import Preset, Values, describe, resolve

# What a draw is for: keeps those of one gradient step apart.
_SHIFT, _NEXT_SHIFT, ACTOR, NEXT_ACTION = range(4)

#: How the critics' two values become one. Not their max: neither source has it.
Reduction = Literal["min", "mean"]


@dataclass
class PixelConfig:
    """Frames, encoder and heads (paper, appendix C.4); null is the preset's value.

    Attributes:
        frame_stack: frames that make an observation, 1 or more; before an episode's start its first frame is repeated.
        shift: largest random shift of a training image, in pixels, 0 or more; 0 for none.
        channels: channels of the encoder's convolutions, 1 or more each.
        latent: width of each head's bottleneck, 1 or more.
        layers: hidden layers of each head, 0 or more.
        units: width of these hidden layers, 1 or more.
        vector_layers: dense layers that encode the state vectors, 0 or more, where ``data.observation.state`` names
            some; their output joins the convolutions'.
        vector_units: width of these dense layers, 1 or more.
        share_encoder: whether policy and value read the critics' encoder, without moving it, rather than one each of
            their own.
        init: initial weights: orthogonal, times the square root of 2, in all layers; or Glorot-uniform, but for the
            bottlenecks, which keep torch's. Biases are 0, but for those of torch's.
    """

    frame_stack: int = 3
    shift: int = 4
    channels: tuple[int, ...] = (32, 64, 128, 256)
    latent: int = 50
    layers: int = 2
    units: int = 256
    vector_layers: int = 2
    vector_units: int = 64
    share_encoder: bool | None = None
    init: Literal["orthogonal", "glorot"] | None = None

    def __post_init__(self) -> None:
        check_least(
            "pixels", self, frame_stack=1, shift=0, latent=1, layers=0, units=1, vector_layers=0, vector_units=1
        )
        if not self.channels or min(self.channels) < 1:
            raise SettingError("pixels.channels", self.channels, "Give the channels of each convolution.")


@dataclass
class TDConfig:
    """Batch, optimiser and temporal differences (paper, appendix C.4); null is the preset's value.

    Attributes:
        batch_size: transitions of a gradient step, 1 or more, over all ranks.
        lr: learning rate of every component, 0 or more.
        clip: largest gradient norm of each component, above 0.
        gamma: discount, in (0, 1].
        tau: share of the critics that their targets take over at each step, in (0, 1].
        weight_decay: share of every weight that a gradient step takes away, in [0, 1), whatever the learning rate.
        adam_eps: Adam's epsilon, 0 or more.
        final_lr: share of the learning rates that is left when the online phase ends, in [0, 1]; they fall linearly
            over it.
        ema_decay: decay, a gradient step, of the moving average of the weights that acts, in [0, 1); 0 acts with the
            weights.
        actor_lr: ``cosine``: the policy's learning rate falls along half a cosine from ``lr`` at the run's first
            gradient step to 0 at its last; ``constant``: it is the others'.
        target_value: which of the target critics' two values is learned from.
    """

    batch_size: int = 256
    lr: float = 3e-4
    clip: float = 100.0
    gamma: float = 0.99
    tau: float = 0.005
    weight_decay: float = 0.0
    adam_eps: float = 1e-8
    final_lr: float = 1.0
    ema_decay: float = 0.0
    actor_lr: Literal["cosine", "constant"] | None = None
    target_value: Reduction | None = None

    def __post_init__(self) -> None:
        check_least("td", self, batch_size=1, lr=0, adam_eps=0)
        check_above_zero("td", self, "clip")
        for name, value in (("gamma", self.gamma), ("tau", self.tau)):
            if not 0 < value <= 1:
                raise SettingError(f"td.{name}", value, "Give a number in (0, 1].")


class Transitions(NamedTuple):
    """B steps: what was seen, done, received and seen next.

    Attributes:
        image: uint8 [B, stack * 3 * M, H, W] of M cameras, the oldest frame first; with the vectors beside it where
            there are any.
        action: [B, A].
        reward: [B].
        goes_on: float [B], 0 where the episode terminated.
        next_image: the same of what was seen next.
    """

    image: Seen
    action: Tensor
    reward: Tensor
    goes_on: Tensor
    next_image: Seen


class Head(nn.Module):
    """A policy or a value: bottleneck (linear, LayerNorm, tanh), ``layers`` hidden ReLU layers, a linear layer.

    Args:
        out: its outputs.
        config: its sizes.
        features: of the encoder that it reads, which is another's; None gives it an ``encoder`` of its own.
        observation: what that sees.
    """

    def __init__(
        self, out: int, config: PixelConfig, features: int | None = None, observation: Observation | None = None
    ) -> None:
        super().__init__()
        self.encoder: PixelEncoder | None = None
        if features is None:
            self.encoder = pixel_encoder(config, observation)
            features = self.encoder.out_features
        self.bottleneck = _bottleneck(features, config)
        self.mlp = _mlp(config.latent, out, config)

    def forward(self, features: Tensor) -> Tensor:
        """An encoder's features [..., F] -> [..., out]."""
        return cast(Tensor, self.mlp(self.bottleneck(features)))


class TwinCritic(nn.Module):
    """An encoder, one bottleneck, and two critics Q_1(s, a), Q_2(s, a) on it."""

    def __init__(self, config: PixelConfig, action: int, observation: Observation | None = None) -> None:
        super().__init__()
        self.encoder = pixel_encoder(config, observation)
        self.bottleneck = _bottleneck(self.encoder.out_features, config)
        self.critics = nn.ModuleList(_mlp(config.latent + action, 1, config) for _ in range(2))

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """The encoder's features [B, F], actions [..., B, A] -> [2, ..., B]."""
        latent = self.bottleneck(features)
        x = torch.cat((latent.expand(*action.shape[:-1], latent.shape[-1]), action), -1)
        return torch.stack([full(critic(x).squeeze(-1)) for critic in self.critics])

    def frozen(self, features: Tensor, action: Tensor) -> Tensor:
        """As :meth:`forward`; the gradient passes to the inputs, not to the weights."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return cast(Tensor, functional_call(self, weights, (features, action)))


class ModelFreeAgent(Agent):
    """Learns from single transitions of stacked frames.

    Args:
        preset: what settings that are None become.
        settings: the subclass's arguments by name, ``pixels``, ``td`` and ``seed`` among them. The agent's
            ``settings``, which checkpoints hold, are these with the preset's values in place.
        filter: which episodes the transitions come from.

    Attributes:
        PRESETS: the values of each preset, of the same settings in each.
    """

    optimizer_settings = "td"
    PRESETS: ClassVar[dict[Preset, Values]]

    def __init__(self, preset: Preset, settings: dict[str, Any], filter: EpisodeFilter = "none") -> None:
        settings = resolve(settings, preset, self.PRESETS)
        pixels, td = settings["pixels"], settings["td"]
        if td.actor_lr == "cosine" and td.final_lr != 1:
            raise SettingError(
                "td.final_lr",
                f"{td.final_lr} beside td.actor_lr: cosine",
                "Let one of them lower the learning rate: leave final_lr out, or set td.actor_lr: constant.",
            )
        super().__init__(settings["seed"], td.weight_decay, td.adam_eps, td.final_lr, td.ema_decay)
        self.preset, self.settings, self.filter = preset, settings, filter
        self.pixels: PixelConfig = pixels
        self.td: TDConfig = td

    def on_fit_start(self) -> None:
        """Says what the preset came to."""
        rank_zero_info(f"{type(self).__name__}, {describe(self.settings, self.preset, self.PRESETS)}")

    def parts(self) -> dict[str, BatchPart]:
        """Transitions: as many rows as make two stacks of frames, from an episode's very first step on."""
        stack = self.pixels.frame_stack
        part = BatchPart(self.td.batch_size, stack + 1, self.filter, history=stack - 1)
        return {"transitions": replace(part, size_setting="td.batch_size", length_setting="pixels.frame_stack")}

    def transitions(self, batch: Batch, key: Key) -> Transitions:
        """The batch's transitions, both observations' frames shifted at random, each on its own."""
        rows: SequenceBatch = batch["transitions"]
        vector = None if rows.vector is None else (rows.vector[:, :-1].flatten(1), rows.vector[:, 1:].flatten(1))
        image = random_shift(rows.image[:, :-1].flatten(1, 2), self.pixels.shift, key.fold(_SHIFT))
        next_image = random_shift(rows.image[:, 1:].flatten(1, 2), self.pixels.shift, key.fold(_NEXT_SHIFT))
        return Transitions(
            image=image if vector is None else Stacked(image, vector[0]),
            action=rows.action[:, -1],
            reward=rows.reward[:, -1],
            goes_on=1 - rows.is_terminal[:, -1].to(rows.reward),
            next_image=next_image if vector is None else Stacked(next_image, vector[1]),
        )

    def noise(self, like: Tensor, key: Key, count: int | None = None) -> Tensor:
        """Standard normal noise for actions of ``like``'s batch: [B, A], or [count, B, A]."""
        shape = (*(() if count is None else (count,)), like.shape[0], cast(int, self.action_size))
        dtype = like.dtype if like.is_floating_point() else torch.float32
        return normal(key, Stream.ACTION, shape, like.device, dtype, rows=-2)

    def group(self, name: str, *modules: nn.Module) -> ParamGroup:
        """A parameter group at the one learning rate."""
        return ParamGroup(name, modules, self.td.lr, self.td.clip)

    @property
    def lr_falls(self) -> bool:
        """See :meth:`Agent.lr_falls`."""
        return self.td.actor_lr == "cosine" or super().lr_falls

    def lr_share(self, group: str, step: int) -> float:
        """See :meth:`Agent.lr_share`; the policy's falls along half a cosine where asked."""
        if group == "actor" and self.td.actor_lr == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.schedule.total_steps)))
        return super().lr_share(group, step)

    # Acting.

    @abstractmethod
    def policy(self, image: Seen) -> SquashedNormal | BoundedNormal:
        """The policy for stacked frames uint8 [n, stack * 3 * M, H, W], with the vectors beside them, if any."""

    def initial_state(self, count: int) -> Seen:
        """Nothing seen yet: zeros, uint8 [count, stack * 3 * M, H, W]; float32 [count, stack * V] of V numbers."""
        stack, seen = self.pixels.frame_stack, self.observation
        shape = (count, stack * seen.channels, seen.image_size, seen.image_size)
        image = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        if not seen.vector_size:
            return image
        return Stacked(image, torch.zeros(count, stack * seen.vector_size, device=self.device))

    @torch.no_grad()
    def act(
        self, image: Tensor, is_first: Tensor, state: Seen, mode: ActMode, key: Key, vector: Tensor | None = None
    ) -> tuple[Tensor, Seen]:
        """Adds what is seen to the stack and asks the policy; see :meth:`Agent.act`."""
        if isinstance(state, Stacked):
            assert vector is not None
            state = Stacked(self._stacked(state.image, image, is_first), self._stacked(state.vector, vector, is_first))
        else:
            state = self._stacked(state, image, is_first)
        dist = self.policy(state)
        if mode == "mode":
            return dist.mode(), state
        sampled = dist.sample(self.noise(image, key))
        return sampled[0] if isinstance(sampled, tuple) else sampled, state

    def _stacked(self, stack: Tensor, new: Tensor, is_first: Tensor) -> Tensor:
        """A stack [n, stack * C, ...] that has moved on by ``new`` [n, C, ...], which fills it on a first row."""
        more = [1] * (new.dim() - 2)
        started = new.repeat(1, self.pixels.frame_stack, *more)
        moved = torch.cat((stack[:, new.shape[1] :], new), 1)
        return torch.where(is_first.reshape(-1, 1, *more), started, moved)


class TwinCriticAgent(ModelFreeAgent):
    """A model-free agent with twin critics and their slow targets, and heads beside them.

    Attributes:
        actor_value: which of the critics' two values the actor sees.
    """

    actor_value: Reduction = "min"

    def build(self, action_size: int) -> None:
        """Critics and targets; subclasses add their heads."""
        self.critic = TwinCritic(self.pixels, action_size, self.observation)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)

    def after_step(self, step: int) -> None:
        """Moves the targets, their encoder included, by ``tau``."""
        track(self.critic, self.target, self.td.tau)

    @property
    def gamma(self) -> float:
        """See :meth:`Agent.gamma`."""
        return self.td.gamma

    def action_values(self, batch: SequenceBatch, key: Key) -> Tensor:
        """See :meth:`Agent.action_values`."""
        steps, stack = batch.reward.shape[1] - 1, self.pixels.frame_stack
        device = batch.reward.device
        frames = torch.arange(steps, device=device)[:, None] + torch.arange(1 - stack, 1, device=device)  # [T, stack]
        rows = frames.clamp(min=0)
        image = batch.image[0][rows].flatten(1, 2)  # [T, stack * 3 * M, H, W]
        seen: Seen = image
        if batch.vector is not None:
            seen = Stacked(image, batch.vector[0][rows].flatten(1))
        q = self.critic(self.critic.encoder(seen), batch.action[0, 1:])  # [2, T]
        return reduced(q, self.actor_value)

    @torch.no_grad()
    def target_q(self, image: Seen, action: Tensor) -> Tensor:
        """Of the target critics, by ``td.target_value``: stacked frames and actions [B, A] -> [B]."""
        return reduced(self.target(self.target.encoder(image), action), cast(Reduction, self.td.target_value))

    def head(self, out: int) -> Head:
        """A policy or value with this many outputs, which reads the critics' encoder where it is shared."""
        features = self.critic.encoder.out_features if self.pixels.share_encoder else None
        return Head(out, self.pixels, features, self.observation)

    def read(self, head: Head, image: Seen, features: Tensor | None) -> Tensor:
        """A head's outputs [B, out] for stacked frames.

        Args:
            head: from :meth:`head`.
            image: uint8 [B, stack * 3 * M, H, W], with the vectors beside it where there are any.
            features: of the critics' encoder for them [B, F], where they are at hand; a head that shares the encoder
                passes no gradient to them.
        """
        if head.encoder is not None:
            return cast(Tensor, head(head.encoder(image)))
        if features is None:
            features = self.critic.encoder(image)
        return cast(Tensor, head(features.detach()))

    def td_target(self, data: Transitions, next_value: Tensor) -> Tensor:
        """Reward plus the discounted value of what came next: [B], without gradient."""
        return (data.reward + self.td.gamma * data.goes_on * next_value).detach()


def reduced(q: Tensor, how: Reduction) -> Tensor:
    """The lesser of both critics' values [2, ...], or their mean: [...]."""
    return q.amin(0) if how == "min" else q.mean(0)


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of both critics [2, B] to one target [B]: the mean over the batch, summed over the critics."""
    return (q - target).square().mean(-1).sum()


def pixel_encoder(config: PixelConfig, observation: Observation | None = None) -> PixelEncoder:
    """For stacked frames, and the state vectors that come with them."""
    init = orthogonal if config.init == "orthogonal" else glorot
    stack, vectors, seen = config.frame_stack, None, observation or Observation()
    if seen.vector_size:
        vectors = VectorEncoder(seen.mean * stack, seen.std * stack, config.vector_layers, config.vector_units)
    return PixelEncoder(stack * seen.channels, config.channels, init, vectors, seen.image_size)


def _bottleneck(features: int, config: PixelConfig) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(features, config.latent), nn.LayerNorm(config.latent), nn.Tanh())
    return net.apply(orthogonal) if config.init == "orthogonal" else net


def _mlp(inputs: int, out: int, config: PixelConfig) -> nn.Sequential:
    sizes = [inputs] + [config.units] * config.layers
    hidden = [layer for a, b in zip(sizes[:-1], sizes[1:], strict=True) for layer in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*hidden, nn.Linear(sizes[-1], out))
    return net.apply(orthogonal if config.init == "orthogonal" else glorot)
