"""What BC, SAC, CQL and IQL share: stacked frames, random shifts, a convolutional encoder, twin critics.

The layout is JAXRL2's: one encoder, moved by the critics' loss (BC: by the policy's); every head has a bottleneck of
its own (linear, LayerNorm, tanh) on the encoder's output; policy and value heads pass no gradient to the encoder; the
target critics have a target encoder. Hyperparameters are those of the paper's appendix C.4.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from moto_pl.behaviour.critic import track
from moto_pl.behaviour.filters import EpisodeFilter
from moto_pl.behaviour.gaussian import BoundedNormal, SquashedNormal
from moto_pl.errors import SettingError
from moto_pl.nn.image import PixelEncoder, random_shift
from moto_pl.ops import Key, Stream, normal
from moto_pl.replay.sampler import SequenceBatch

from .base import ActMode, Agent, Batch, BatchPart, ParamGroup

# What a draw is for: keeps those of one gradient step apart.
_SHIFT, _NEXT_SHIFT, ACTOR, NEXT_ACTION = range(4)

T = TypeVar("T")


@dataclass
class PixelConfig:
    """Frames, encoder and heads (paper, appendix C.4; JAXRL2's defaults).

    Attributes:
        frame_stack: frames that make an observation; before an episode's start its first frame is repeated.
        shift: largest random shift of a training image, in pixels; 0 for none.
        channels: of the encoder's convolutions.
        latent: width of each head's bottleneck.
        layers: hidden layers of each head.
        units: their width.
    """

    frame_stack: int = 3
    shift: int = 4
    channels: tuple[int, ...] = (32, 64, 128, 256)
    latent: int = 50
    layers: int = 2
    units: int = 256

    def __post_init__(self) -> None:
        for name, least in (("frame_stack", 1), ("shift", 0), ("latent", 1), ("layers", 0), ("units", 1)):
            if getattr(self, name) < least:
                raise SettingError(f"pixels.{name}", getattr(self, name), f"Give at least {least}.")
        if not self.channels or min(self.channels) < 1:
            raise SettingError("pixels.channels", self.channels, "Give the channels of each convolution.")


@dataclass
class TDConfig:
    """Batch, optimiser and temporal differences (paper, appendix C.4; JAXRL2's defaults).

    Attributes:
        batch_size: transitions of a gradient step, over all ranks.
        lr: learning rate of every component.
        clip: largest gradient norm of each component.
        gamma: discount.
        tau: share of the critics that their targets take over at each step.
        weight_decay: share of every weight that a gradient step takes away, whatever the learning rate.
        adam_eps: Adam's epsilon.
        final_lr: share of the learning rates that is left when the online phase ends; they fall linearly over it.
        ema_decay: decay, a gradient step, of the moving average of the weights that acts; 0 acts with the weights.
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

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SettingError("td.batch_size", self.batch_size, "Give at least 1 transition.")
        for name, value in (("gamma", self.gamma), ("tau", self.tau)):
            if not 0 < value <= 1:
                raise SettingError(f"td.{name}", value, "Give a number in (0, 1].")


class Transitions(NamedTuple):
    """B steps: what was seen, done, received and seen next.

    Attributes:
        image: uint8 [B, 3 * stack, 64, 64], the oldest frame first.
        action: [B, A].
        reward: [B].
        goes_on: float [B], 0 where the episode terminated.
        next_image: uint8 [B, 3 * stack, 64, 64].
    """

    image: Tensor
    action: Tensor
    reward: Tensor
    goes_on: Tensor
    next_image: Tensor


class Head(nn.Module):
    """Bottleneck (linear, LayerNorm, tanh), ``layers`` hidden ReLU layers, a linear layer; ``extra`` joins them."""

    def __init__(self, features: int, out: int, config: PixelConfig, extra: int = 0) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(nn.Linear(features, config.latent), nn.LayerNorm(config.latent), nn.Tanh())
        self.mlp = _mlp(config.latent + extra, out, config)

    def forward(self, features: Tensor, *extra: Tensor) -> Tensor:
        """[..., E] and [..., extra] -> [..., out]."""
        return self.mlp(torch.cat((self.bottleneck(features), *extra), -1))


class TwinCritic(nn.Module):
    """An encoder, one bottleneck, and two critics Q_1(s, a), Q_2(s, a) on it."""

    def __init__(self, config: PixelConfig, action: int) -> None:
        super().__init__()
        self.encoder = PixelEncoder(3 * config.frame_stack, config.channels)
        features = self.encoder.out_features
        self.bottleneck = nn.Sequential(nn.Linear(features, config.latent), nn.LayerNorm(config.latent), nn.Tanh())
        self.critics = nn.ModuleList(_mlp(config.latent + action, 1, config) for _ in range(2))

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """The encoder's features [B, E], actions [..., B, A] -> [2, ..., B]."""
        latent = self.bottleneck(features)
        x = torch.cat((latent.expand(*action.shape[:-1], latent.shape[-1]), action), -1)
        return torch.stack([critic(x).squeeze(-1).float() for critic in self.critics])

    def frozen(self, features: Tensor, action: Tensor) -> Tensor:
        """As :meth:`forward`; the gradient passes to the inputs, not to the weights."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return cast(Tensor, functional_call(self, weights, (features, action)))


class ModelFreeAgent(Agent):
    """Learns from single transitions of stacked frames.

    Args:
        pixels: frames, encoder and heads.
        td: batch, optimiser and temporal differences.
        seed: keys initial weights and noise.
        settings: the subclass's further settings, for the checkpoint.
        filter: which episodes the transitions come from.
    """

    def __init__(
        self,
        pixels: PixelConfig,
        td: TDConfig,
        seed: int,
        settings: dict[str, Any] | None = None,
        filter: EpisodeFilter = "none",
    ) -> None:
        super().__init__(seed, td.weight_decay, td.adam_eps, td.final_lr, td.ema_decay)
        self.pixels, self.td, self.filter = pixels, td, filter
        self.settings = {"pixels": pixels, "td": td, "seed": seed, **(settings or {})}

    def parts(self) -> dict[str, BatchPart]:
        """Transitions: as many rows as make two stacks of frames, from an episode's very first step on."""
        stack = self.pixels.frame_stack
        return {"transitions": BatchPart(self.td.batch_size, stack + 1, self.filter, history=stack - 1)}

    def transitions(self, batch: Batch, key: Key) -> Transitions:
        """The batch's transitions, both observations shifted at random, each on its own."""
        rows: SequenceBatch = batch["transitions"]
        return Transitions(
            image=random_shift(rows.image[:, :-1].flatten(1, 2), self.pixels.shift, key.fold(_SHIFT)),
            action=rows.action[:, -1],
            reward=rows.reward[:, -1],
            goes_on=1 - rows.is_terminal[:, -1].float(),
            next_image=random_shift(rows.image[:, 1:].flatten(1, 2), self.pixels.shift, key.fold(_NEXT_SHIFT)),
        )

    def noise(self, like: Tensor, key: Key, count: int | None = None) -> Tensor:
        """Standard normal noise for actions of ``like``'s batch: [B, A], or [count, B, A]."""
        shape = (like.shape[0], cast(int, self.action_size))
        return normal(key, Stream.ACTION, shape if count is None else (count, *shape), like.device)

    def group(self, name: str, *modules: nn.Module) -> ParamGroup:
        """A parameter group at the one learning rate."""
        return ParamGroup(name, modules, self.td.lr, self.td.clip)

    # Acting.

    @abstractmethod
    def policy(self, image: Tensor) -> SquashedNormal | BoundedNormal:
        """The policy for stacked frames uint8 [n, 3 * stack, 64, 64]."""

    def initial_state(self, count: int) -> Tensor:
        """No frames yet: zeros, uint8 [count, 3 * stack, 64, 64]."""
        return torch.zeros(count, 3 * self.pixels.frame_stack, 64, 64, dtype=torch.uint8, device=self.device)

    @torch.no_grad()
    def act(self, image: Tensor, is_first: Tensor, state: Tensor, mode: ActMode, key: Key) -> tuple[Tensor, Tensor]:
        """Adds the frame to the stack and asks the policy; see :meth:`Agent.act`."""
        started = image.repeat(1, self.pixels.frame_stack, 1, 1)
        moved = torch.cat((state[:, 3:], image), 1)
        state = torch.where(is_first[:, None, None, None], started, moved)
        dist = self.policy(state)
        if mode == "mode":
            return dist.mode(), state
        sampled = dist.sample(self.noise(image, key))
        return sampled[0] if isinstance(sampled, tuple) else sampled, state


class TwinCriticAgent(ModelFreeAgent):
    """A model-free agent with twin critics and their slow targets."""

    def build(self, action_size: int) -> None:
        """Critics and targets; subclasses add their heads."""
        self.critic = TwinCritic(self.pixels, action_size)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)

    def after_step(self, step: int) -> None:
        """Moves the targets, their encoder included, by ``tau``."""
        track(self.critic, self.target, self.td.tau)

    @torch.no_grad()
    def target_q(self, image: Tensor, action: Tensor) -> Tensor:
        """The lesser of the target critics: stacked frames and actions [B, A] -> [B]."""
        return cast(Tensor, self.target(self.target.encoder(image), action).amin(0))

    def td_target(self, data: Transitions, next_value: Tensor) -> Tensor:
        """Reward plus the discounted value of what came next: [B], without gradient."""
        return (data.reward + self.td.gamma * data.goes_on * next_value).detach()


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of both critics [2, B] to one target [B]: the mean over the batch, summed over the critics."""
    return (q - target).square().mean(-1).sum()


def _mlp(inputs: int, out: int, config: PixelConfig) -> nn.Sequential:
    sizes = [inputs] + [config.units] * config.layers
    hidden = [layer for a, b in zip(sizes[:-1], sizes[1:], strict=True) for layer in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*hidden, nn.Linear(sizes[-1], out))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return net
