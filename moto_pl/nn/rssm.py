"""The ensemble recurrent state-space model: one GRU and posterior, K prior heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moto_pl.ops import CellWeights, Key, LatentSpec, Ops, PosteriorWeights, PriorWeights, observe, priors

from .mlp import glorot, stacked_glorot


class RSSM(nn.Module):
    """h_t = GRU(h_{t-1}, W_in [z_{t-1}, a_{t-1}]); q(z_t | h_t, e_t); p_k(z_t | h_t), k = 1..K (MOTO, section 4).

    Args:
        latent: kind and sizes of z.
        deter: D.
        hidden: U, width of the input layer and of the heads' hidden layer.
        action: A.
        embed: E.
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
