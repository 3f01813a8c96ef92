"""The world model: encoder, ensemble RSSM, decoder, reward and discount heads, and their loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moto_pl.envs.observation import Observation
from moto_pl.ops import (
    CellWeights,
    Disagreement,
    Key,
    LatentSpec,
    Ops,
    PosteriorWeights,
    PriorWeights,
    Stream,
    choose,
    disagreement,
    draw_noise,
    entropy,
    in_turn,
    integers,
    kl,
    observe,
    priors,
    sample,
    squared_error,
    transition,
)
from moto_pl.ops.precision import full
from moto_pl.ops.share import at_least, common_mean
from moto_pl.replay.sampler import SequenceBatch

from .image import Decoder, Encoder
from .mlp import MLP, glorot, stacked_glorot
from .settings import WorldModelConfig
from .vector import VectorEncoder

_OPEN_LOOP = 0x09E7  # the open-loop loss has draws of its own


class States(NamedTuple):
    """Latent states s = (h, z) with any leading dimensions."""

    deter: Tensor  # [..., D]
    stoch: Tensor  # [..., Z], Z = S * C (categorical) or S (Gaussian)

    @property
    def features(self) -> Tensor:
        """[..., F], F = D + Z: what heads, actor and critics see."""
        return torch.cat((self.deter, self.stoch), -1)

    def map(self, function: Callable[[Tensor], Tensor]) -> States:
        """The same function on both parts."""
        return States(function(self.deter), function(self.stoch))


#: Gives the actions [B, A] of a rollout's step i in its states [B, ...].
Act = Callable[[int, States], Tensor]


def replayed(action: Tensor) -> Act:
    """Takes recorded actions [H, B, A], whatever the states are."""
    return lambda step, _: action[step]


#: Gives the parameters [B, P] of step i's prior at h [B, D].
Head = Callable[[int, Tensor], Tensor]


class Posterior(NamedTuple):
    """What :meth:`WorldModel.observe` gives for a batch, time first."""

    states: States  # [T, B, ...]
    params: Tensor  # [T, B, P]


class Rollout(NamedTuple):
    """H steps of the prior from B states."""

    states: States  # [H + 1, B, ...], the start first
    action: Tensor  # [H, B, A], action i taken in state i
    prior: Tensor  # [K, H, B, P], each member's prediction of state i + 1


class RSSM(nn.Module):
    """h_t = GRU(h_{t-1}, W_in [z_{t-1}, a_{t-1}]); q(z_t | h_t, e_t); p_k(z_t | h_t), k = 1..K (MOTO, section 4).

    Args:
        latent: kind and sizes of z.
        deter: D.
        hidden: E, width of the input layer and of the heads' hidden layer.
        action: A.
        embed: width of the embeddings of what is seen.
        ensemble: K >= 1, number of prior heads.
        ops: which form of ``observe`` runs; see :func:`moto_pl.ops.observe`.
    """

    def __init__(
        self, latent: LatentSpec, deter: int, hidden: int, action: int, embed: int, ensemble: int, ops: Ops = "auto"
    ) -> None:
        super().__init__()
        self.latent, self.deter, self.action, self.ensemble, self.ops = latent, deter, action, ensemble, ops
        self.input = nn.Linear(latent.size + action, hidden)
        self.gru = nn.Linear(hidden + deter, 3 * deter, bias=False)
        self.norm = nn.LayerNorm(3 * deter)
        self.posterior_hidden = nn.Linear(deter + embed, hidden)
        self.posterior_out = nn.Linear(hidden, latent.params)
        self.apply(glorot)
        self.prior_hidden = stacked_glorot(ensemble, deter, hidden)
        self.prior_hidden_bias = nn.Parameter(torch.zeros(ensemble, 1, hidden))
        self.prior_out = stacked_glorot(ensemble, hidden, latent.params)
        self.prior_out_bias = nn.Parameter(torch.zeros(ensemble, 1, latent.params))

    def initial(self, batch: int) -> tuple[Tensor, Tensor]:
        """The zero state before an episode: deter [B, D], stoch [B, Z]."""
        zeros = self.prior_out_bias.new_zeros
        return zeros(batch, self.deter), zeros(batch, self.latent.size)

    def cell(self, frozen: bool = False) -> CellWeights:
        """Input layer and GRU, as the ops take them; ``frozen``: without gradient."""
        weights = CellWeights(self.input.weight, self.input.bias, self.gru.weight, self.norm.weight, self.norm.bias)
        return CellWeights(*(w.detach() for w in weights)) if frozen else weights

    def prior(self, frozen: bool = False) -> PriorWeights:
        """The K prior heads, as the ops take them; ``frozen``: without gradient."""
        weights = PriorWeights(self.prior_hidden, self.prior_hidden_bias, self.prior_out, self.prior_out_bias)
        return PriorWeights(*(w.detach() for w in weights)) if frozen else weights

    def posterior(self) -> PosteriorWeights:
        """The posterior head, as the ops take it."""
        return PosteriorWeights(
            self.posterior_hidden.weight, self.posterior_hidden.bias, self.posterior_out.weight, self.posterior_out.bias
        )

    def observe(
        self, action: Tensor, embed: Tensor, is_first: Tensor, key: Key, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior states of a sequence; see :func:`moto_pl.ops.observe`. Time comes first: [T, B, ...]."""
        deter, stoch = self.initial(action.shape[1]) if state is None else state
        weights = (self.cell(), self.posterior())
        return observe(action, embed, is_first, deter, stoch, *weights, self.latent, key, self.ops)

    def priors(self, deter: Tensor) -> Tensor:
        """All members' parameters over a sequence, one batched product after the scan: [T, B, D] -> [K, T, B, P]."""
        return priors(deter.flatten(0, 1), self.prior()).unflatten(1, deter.shape[:2])


class WorldModel(nn.Module):
    """Encoder, ensemble RSSM, decoder and heads (MOTO, section 4; DreamerV2's losses).

    Args:
        config: sizes and loss weights.
        action: A.
        ops: which operators observe.
        terminates: whether demonstrations end early, for ``discount_head: auto``.
        observation: what is seen. The cameras' images are one, of stacked channels. State vectors have an encoder,
            whose output joins the image's, and a head; without any there is neither.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        action: int,
        ops: Ops = "auto",
        terminates: bool = False,
        observation: Observation | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.latent = LatentSpec(config.latent, config.stoch, config.classes, config.latent_std)
        activation, seen = config.conv_activation, observation or Observation()
        self.image_shape = (seen.channels, seen.image_size, seen.image_size)
        self.encoder = Encoder(
            config.encoder_channels,
            config.encoder_kernels,
            config.mlp_layers,
            config.mlp_units,
            activation,
            ops,
            seen.channels,
            seen.image_size,
        )
        embed = self.encoder.out_features
        self.vector_encoder: VectorEncoder | None = None
        if seen.vector_size:
            self.vector_encoder = VectorEncoder(seen.mean, seen.std, config.vector_layers, config.vector_units)
            embed += self.vector_encoder.out_features
        self.rssm = RSSM(self.latent, config.deter, config.hidden, action, embed, config.ensemble, ops)
        self.feature_size = config.deter + self.latent.size
        self.decoder = Decoder(
            self.feature_size,
            config.decoder_channels,
            config.decoder_kernels,
            4 * config.encoder_channels[-1],
            config.mlp_layers if config.decoder_mlp_layers is None else config.decoder_mlp_layers,
            config.mlp_units,
            activation,
            ops,
            seen.channels,
            seen.image_size,
        )
        self.reward = MLP(self.feature_size, 1, config.head_layers, config.head_units)
        ends = terminates if config.discount_head == "auto" else config.discount_head
        self.discount = MLP(self.feature_size, 1, config.head_layers, config.head_units) if ends else None
        self.vector: MLP | None = None
        if seen.vector_size:
            self.vector = MLP(self.feature_size, seen.vector_size, config.head_layers, config.head_units)

    def embed(self, image: Tensor, vector: Tensor | None) -> Tensor:
        """What is seen, as the posterior takes it: uint8 [..., 3 * M, H, W] and [..., V] -> [..., E]."""
        embed: Tensor = self.encoder(image)
        if self.vector_encoder is None:
            return embed
        assert vector is not None and vector.shape[:-1] == embed.shape[:-1]
        return torch.cat((embed, self.vector_encoder(vector).to(embed.dtype)), -1)

    def observe(self, batch: SequenceBatch, key: Key) -> Posterior:
        """Posterior states of a batch of sequences [B, T], in time-first order [T, B]."""
        B, T = batch.is_first.shape
        assert batch.image.shape == (B, T, *self.image_shape) and batch.action.shape == (B, T, self.rssm.action)
        embed = self.embed(batch.image, batch.vector)  # [B, T, E]
        deter, stoch, params = self.rssm.observe(
            batch.action.transpose(0, 1), embed.transpose(0, 1), batch.is_first.transpose(0, 1), key
        )
        return Posterior(States(deter, stoch), params)

    def step(
        self, state: States, action: Tensor, image: Tensor, is_first: Tensor, key: Key, vector: Tensor | None = None
    ) -> States:
        """One step of acting: the posterior after ``action`` [n, A] led to ``image`` uint8 [n, 3 * M, H, W], ``vector``
        [n, V].
        """
        deter, stoch, _ = self.rssm.observe(
            action.unsqueeze(0),
            self.embed(image, vector).unsqueeze(0),
            is_first.unsqueeze(0),
            key,
            (state.deter, state.stoch),
        )
        return States(deter[0], stoch[0])

    @torch.no_grad()
    def predict(
        self, batch: SequenceBatch, context: int, key: Key, act: Act | None = None, steps: int | None = None
    ) -> States:
        """Open-loop: filters ``context`` frames, then rolls actions alone through the prior.

        Args:
            batch: sequences [B, T]; of what follows the first ``context`` rows the actions alone are read.
            context: frames that are seen, 1 <= context <= T.
            key: names the draws; each step draws its own member of the ensemble.
            act: gives the actions, as for :meth:`roll`; None takes the sequences' own.
            steps: H, steps after the context; None goes to the sequences' end. With ``act`` there may be more.

        Returns:
            States [context + H, B, ...]; the first ``context`` saw their frames.
        """
        ahead = batch.action[:, context:].transpose(0, 1)  # [T - context, B, A]
        steps = len(ahead) if steps is None else steps
        seen = self.observe(batch.map(lambda part: part[:, :context]), key).states
        if steps == 0:
            return seen
        rolled = self.roll(seen.map(lambda x: x[-1]), act or replayed(ahead), steps, key.fold(1)).states
        return States(*(torch.cat((past, new[1:])) for past, new in zip(seen, rolled, strict=True)))

    @torch.no_grad()
    def roll(self, start: States, act: Act, steps: int, key: Key) -> Rollout:
        """Rolls actions through the prior, for analyses and replays; training uses :func:`moto_pl.ops.imagine`.

        Args:
            start: states [B, ...].
            act: gives the actions.
            steps: H, at least 1.
            key: names the draws: latents, and a member a step for the whole batch.
        """
        noise = draw_noise(self.latent, key, (steps, len(start.deter)), start.deter)
        member = integers(key, Stream.MEMBER, self.rssm.ensemble, (steps,), start.deter.device)
        prior, members = self.rssm.prior(), []

        def head(i: int, deter: Tensor) -> Tensor:
            members.append(priors(deter, prior))  # [K, B, P]
            return choose(members[-1], member[i])

        states, action = self._rolled(start, act, head, noise)
        return Rollout(states, action, torch.stack(members, 1))

    def _rolled(self, start: States, act: Act, head: Head, noise: Tensor) -> tuple[States, Tensor]:
        """States [H + 1, B, ...] and actions [H, B, A]; ``noise`` [H, B, ...] are the latents' draws."""
        cell, states, actions = self.rssm.cell(), [start], []
        for i in range(len(noise)):
            actions.append(act(i, states[-1]))
            deter = transition(*states[-1], actions[-1], cell)
            states.append(States(deter, sample(self.latent, head(i, deter), noise[i])))
        return States(*(torch.stack(parts) for parts in zip(*states, strict=True))), torch.stack(actions)

    def predict_reward(self, states: States, frozen: bool = False) -> Tensor:
        """[...], the mean of r(s); ``frozen``: gradient to the states only."""
        return full(self.reward(states.features, frozen).squeeze(-1))

    def predict_continuation(self, states: States) -> Tensor:
        """[...], d(s), the probability that the episode goes on after s; without gradient."""
        if self.discount is None:
            return torch.ones_like(states.deter[..., 0])
        return torch.sigmoid(full(self.discount(states.features.detach(), frozen=True).squeeze(-1))).detach()

    @property
    def scales(self) -> dict[str, float]:
        """What each of :meth:`loss`'s is multiplied with, by its name."""
        config = self.config
        scales = {"model/image": config.image_scale, "model/reward": config.reward_scale, "model/kl": config.kl_scale}
        if self.vector is not None:
            scales["model/vector"] = config.vector_scale
        if self.discount is not None:
            scales["model/discount"] = config.discount_scale
        if config.open_loop_steps > 0:
            scales |= {"model/open_loop_reward": config.reward_scale, "model/open_loop_kl": config.kl_scale}
        return scales

    def loss(self, batch: SequenceBatch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The negative evidence lower bound of a batch, by parts.

        Additive constants of the Gaussian log-likelihoods are left out; image, vector and latent terms are sums over
        their dimensions and means over batch and time. Vectors are predicted as they are normalised.

        Args:
            batch: sequences [B, T].
            key: names the draws of latents and members.

        Returns:
            Losses, each to be multiplied with its entry in :attr:`scales`, and metrics to log.
        """
        post = self.observe(batch, key)
        features = post.states.features  # [T, B, F]
        B, T = batch.is_first.shape
        assert features.shape == (T, B, self.feature_size) and batch.reward.shape == batch.is_terminal.shape == (B, T)
        reconstruction = full(self.decoder(features))
        image = squared_error(reconstruction, batch.image.transpose(0, 1), self.decoder.ops).mean()
        reward_error = self.predict_reward(post.states) - batch.reward.transpose(0, 1)
        reward = 0.5 * reward_error.square().mean()
        prior = self.rssm.priors(post.states.deter)  # [K, T, B, P]
        assert prior.shape == (self.rssm.ensemble, *post.params.shape)
        divergence, raw_kl = self._kl(post.params, prior, key)
        losses = {"model/image": image, "model/reward": reward, "model/kl": divergence}
        if self.vector is not None:
            losses["model/vector"] = self._vector_loss(batch, features)
        if self.discount is not None:
            logit = full(self.discount(features).squeeze(-1))
            goes_on = 1 - batch.is_terminal.transpose(0, 1).to(logit)
            losses["model/discount"] = F.binary_cross_entropy_with_logits(logit, goes_on)
        if self.config.open_loop_steps > 0:
            losses |= self._open_loop(batch, post, key.fold(_OPEN_LOOP))
        with torch.no_grad():
            metrics = {
                "model/kl_nats": raw_kl,
                "model/posterior_entropy": entropy(self.latent, post.params).mean(),
                "model/data_disagreement": self.disagreement(prior, post.states.stoch, "mean").mean(),
            }
        return losses, metrics

    def _vector_loss(self, batch: SequenceBatch, features: Tensor) -> Tensor:
        """Half the squared error of the normalised vectors [T, B, V], summed over V: a Gaussian of unit variance."""
        assert self.vector is not None and self.vector_encoder is not None and batch.vector is not None
        target = self.vector_encoder.normalised(batch.vector).transpose(0, 1)
        return 0.5 * (full(self.vector(features)) - target).square().sum(-1).mean()

    def _open_loop(self, batch: SequenceBatch, post: Posterior, key: Key) -> dict[str, Tensor]:
        """What the prior, rolled along the actions of a batch [B, T], misses of the rewards and states that followed.

        The other losses look one step ahead, from states that have seen every frame. Imagination looks further, from
        states of its own making, and the actor goes wherever these promise what is not there.
        """
        config, device, (B, T) = self.config, batch.reward.device, batch.is_first.shape
        steps, count = min(config.open_loop_steps, T - 1), config.open_loop_rows
        common, share, (first, rows) = key.common, key.share, key.share.rows(B)
        t = integers(common, Stream.ROWS, T - steps, (count,), device)
        b = integers(common.fold(1), Stream.ROWS, rows, (count,), device) - first
        turn = integers(common, Stream.MEMBER, self.rssm.ensemble, (steps,), device)
        noise = draw_noise(self.latent, common, (steps, count), post.params)
        own = (b >= 0) & (b < B)  # of the whole batch's states those in these sequences
        b = b.clamp(0, B - 1)
        at = t + 1 + torch.arange(steps, device=device).unsqueeze(1)  # [H, N] rows that followed
        prior, params = self.rssm.prior(), []

        def head(i: int, deter: Tensor) -> Tensor:
            params.append(in_turn(deter, prior, turn[i]))  # [N, P]: all heads roll
            return params[-1]

        states, _ = self._rolled(post.states.map(lambda x: x[t, b]), replayed(batch.action[b, at]), head, noise)
        reward = self.predict_reward(states.map(lambda x: x[1:]))  # [H, N]
        followed = own * (1 - batch.is_first[b, at].float()).cumprod(0)  # 0 from where another episode begins
        error = (reward - batch.reward[b, at]).square()
        gap = kl(self.latent, post.params[at, b].detach(), torch.stack(params))
        return {
            "model/open_loop_reward": common_mean(followed * 0.5 * error, steps * count, share),
            "model/open_loop_kl": common_mean(followed * gap, steps * count, share),
        }

    def disagreement(self, prior: Tensor, stoch: Tensor, kind: Disagreement) -> Tensor:
        """The spread of the members' predictions [K, ..., P] of the latent ``stoch`` [..., Z]: [...]."""
        return disagreement(self.latent, prior, stoch, kind)

    def _kl(self, post: Tensor, prior: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Balanced KL (DreamerV2, Eq. 2) to one drawn member a time step, or summed over all; and its plain mean.

        Without a balance it is the plain KL: one value, whose gradient goes to both sides.
        """
        if self.config.kl_member == "sampled":
            member = integers(key, Stream.MEMBER, prior.shape[0], (len(post),), post.device)
            # Time is choose's row dimension here: each step has its own member.
            prior = choose(prior, member).unsqueeze(0)  # [1, T, B, P]
        balance, free = self.config.kl_balance, self.config.free_nats
        post = post.expand_as(prior)
        if balance is None:
            plain = kl(self.latent, post, prior).mean((1, 2))  # [1 or K]
            return at_least(plain, free, key.share).sum(), plain.detach().mean()
        to_prior = kl(self.latent, post.detach(), prior).mean((1, 2))  # [1 or K]
        to_post = kl(self.latent, post, prior.detach()).mean((1, 2))
        loss = balance * at_least(to_prior, free, key.share) + (1 - balance) * at_least(to_post, free, key.share)
        return loss.sum(), to_post.detach().mean()
