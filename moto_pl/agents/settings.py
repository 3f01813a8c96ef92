"""Settings of the agents with a world model: MOTO, DreamerV2, LOMPO and COMBO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moto_pl.errors import SettingError, check_above_zero, check_least
from moto_pl.nn import WorldModelConfig
from moto_pl.nn.actor_critic import ActorValue
from moto_pl.nn.image import ConvActivation
from moto_pl.ops import ActionKind, Disagreement, LatentKind, LatentStd, MemberChoice
from moto_pl.replay.filters import EpisodeFilter


@dataclass
class OptimConfig:
    """Learning rates and clip norms of the components.

    Attributes:
        model_lr: the world model's learning rate, 0 or more.
        actor_lr: the actor's learning rate, 0 or more.
        critic_lr: the critics' learning rate, 0 or more.
        clip: largest gradient norm of each component, above 0.
        weight_decay: share of every weight that a gradient step takes away, whatever the learning rate (DreamerV2's),
            in [0, 1): w <- (1 - weight_decay) w.
        adam_eps: Adam's epsilon, 0 or more.
        final_lr: share of the learning rates that is left when the online phase ends, in [0, 1]; they fall linearly
            over it.
        ema_decay: decay, a gradient step, of the moving average of the weights that collects and is evaluated, in [0,
            1); 0 acts with the weights themselves, as the paper does.
    """

    model_lr: float = 1e-4
    actor_lr: float = 8e-5
    critic_lr: float = 8e-5
    clip: float = 100.0
    weight_decay: float = 1e-6
    adam_eps: float = 1e-5
    final_lr: float = 1.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        check_least("optim", self, model_lr=0, actor_lr=0, critic_lr=0, adam_eps=0)
        check_above_zero("optim", self, "clip")


@dataclass
class BatchConfig:
    """Sizes of a training batch's parts, over all ranks (paper: 16 for the model, 128 for the agent).

    Attributes:
        model_size: sequences that train the world model, 1 or more.
        model_length: rows of each of these sequences, 2 or more.
        agent_size: sequences in whose states imagination starts, 1 or more.
        agent_length: rows of each of these sequences, 2 or more (25 in the authors' code).
        clone_size: sequences that are cloned, 1 or more.
        clone_length: rows of each of these sequences, 2 or more.
    """

    model_size: int = 16
    model_length: int = 50
    agent_size: int = 128
    agent_length: int = 25
    clone_size: int = 128
    clone_length: int = 25

    def __post_init__(self) -> None:
        check_least("batch", self, model_size=1, agent_size=1, clone_size=1)
        check_least("batch", self, model_length=2, agent_length=2, clone_length=2)


@dataclass
class ImaginationConfig:
    """Actor, critic and imagination. Defaults: the MOTO paper (C.3), and DreamerV2's where it is silent.

    Attributes:
        horizon: H, steps of an imagined rollout, 1 or more.
        gamma: discount, in (0, 1].
        lambda_: weight of longer returns, in [0, 1].
        critic_layers: hidden layers of a critic, 0 or more.
        critic_units: width of a critic's hidden layers, 1 or more.
        actor_layers: hidden layers of the actor, 0 or more.
        actor_units: width of the actor's hidden layers, 1 or more.
        action: the actor's distribution.
        min_std: smallest standard deviation of the actor's distribution, above 0.
        greedy: what the policy does where it does not sample. ``mode``: the likeliest action. ``mean``: the expected
            one, with ``action: trunc_normal``. After demonstrations with noise the distribution is wide, and its mode
            lies far beyond what was done on average.
        entropy_scale: eta, weight of the policy's entropy, 0 or more.
        target_every: gradient steps between copies of the critics to their targets, 1 or more.
        imagine_rows: start states of imagination, over all ranks, drawn from the agent sequences' posterior states, 1
            or more; null takes all. The cost of imagination is proportional to it.
        imagine_member: who steps: ``step``, one prior head a step for the whole batch (authors' code), or ``row``, one
            a row.
    """

    horizon: int = 15
    gamma: float = 0.99
    lambda_: float = 0.95
    critic_layers: int = 4
    critic_units: int = 400
    actor_layers: int = 4
    actor_units: int = 400
    action: ActionKind = "trunc_normal"
    min_std: float = 0.1
    greedy: Literal["mode", "mean"] = "mode"
    entropy_scale: float = 1e-4
    target_every: int = 100
    imagine_rows: int | None = 800
    imagine_member: MemberChoice = "step"

    def __post_init__(self) -> None:
        check_least("behaviour", self, horizon=1, target_every=1, imagine_rows=1, actor_units=1, critic_units=1)
        check_least("behaviour", self, actor_layers=0, critic_layers=0, entropy_scale=0)
        check_above_zero("behaviour", self, "min_std")
        if not 0 < self.gamma <= 1:
            raise SettingError("behaviour.gamma", self.gamma, "Give a number in (0, 1].")
        if not 0 <= self.lambda_ <= 1:
            raise SettingError("behaviour.lambda_", self.lambda_, "Give a number in [0, 1].")
        if self.greedy == "mean" and self.action != "trunc_normal":
            raise SettingError("behaviour.greedy", f"mean with action: {self.action}", "It needs action: trunc_normal.")


@dataclass
class BehaviourConfig(ImaginationConfig):
    """MOTO's actor, critics, imagination and cloning.

    Attributes:
        horizon: H, states of an imagined rollout, the start included, 2 or more (``q_ensemble``); its steps, 1 or more
            (``v``).
        disagreement_scale: alpha, the penalty's weight, 0 or more; 0 turns it off. The right value depends on the
            estimator: the logs show ``imagined/reward`` beside ``imagined/penalty``.
        disagreement: the estimator of u; see :func:`moto_pl.ops.disagreement`.
        disagreement_unit: what u is counted in. ``one``: as it is (the paper's). ``data``: in what it is on average
            along the real transitions of the batch, so that alpha means the same for every estimator and at every
            time: a step into what the members know as well as the data costs alpha.
        critic: ``q_ensemble``, critics Q(s, a) with model-based value expansion on imagined and real transitions; the
            paper's own equations could not be read, so this follows the authors' public code. ``v``: DreamerV2's single
            V(s), on imagined transitions alone.
        critics: how many critics Q(s, a) there are, 1 or more.
        real_return: what real transitions teach the critics Q(s, a). ``imagined``: their reward, then the imagined
            value of the state that they led to (the authors' code). ``data``: their reward, then what was earned after
            it in the sequence: the lambda-return along its rows, with the value of the policy's action in each.
        actor_value: which of the critics' values the actor maximises.
        value_scale: weight of the value in the actor's loss, 0 or more; 0 leaves cloning alone.
        value_episodes: collected episodes between which the value's weight rises from 0 to ``value_scale``, 0 or more
            each, the first not above the second. Before the first of them the actor clones, and critics learn what it
            is worth; from the second on it hears all of it. ``[0, 0]``: all of it from the first gradient step on, as
            in the paper.
        clone_scale: beta_bc, weight of behaviour cloning, 0 or more; 0 turns it off.
        clone_filter: which data is cloned; see :func:`moto_pl.replay.filters.keep_rows`. ``advantage`` clones steps
            whose lambda-return is at least the critics' value of the policy's own action.
        clone_top: share of the episodes that ``clone_filter: return`` keeps, in (0, 1].
        clone_least: how many episodes it keeps at least, 1 or more, so that few demonstrations are not made fewer.
        clone_limit: cloned actions are clipped to [-clone_limit, clone_limit], in (0, 1]. Scripted demonstrations are
            clipped to exactly -1 and 1 at many steps; their likelihood grows without end as the mean is driven to the
            edge, where the gradient through tanh dies, for all other states too. Below 1 the optimum is inside.
    """

    disagreement_scale: float = 10.0
    disagreement: Disagreement = "mean"
    disagreement_unit: Literal["one", "data"] = "one"
    critic: Literal["q_ensemble", "v"] = "q_ensemble"
    critics: int = 5
    real_return: Literal["imagined", "data"] = "imagined"
    actor_value: ActorValue = "min"
    value_scale: float = 1.0
    value_episodes: tuple[int, int] = (0, 0)
    clone_scale: float = 10.0
    clone_filter: EpisodeFilter = "auto"
    clone_top: float = 0.1
    clone_least: int = 1
    clone_limit: float = 1.0

    def __post_init__(self) -> None:
        if self.horizon < (2 if self.critic == "q_ensemble" else 1):
            raise SettingError("behaviour.horizon", self.horizon, "Give at least 2 (1 with critic: v).")
        super().__post_init__()
        if not 0 < self.clone_top <= 1:
            raise SettingError("behaviour.clone_top", self.clone_top, "Give a share in (0, 1].")
        if not 0 < self.clone_limit <= 1:
            raise SettingError("behaviour.clone_limit", self.clone_limit, "Give a number in (0, 1].")
        check_least("behaviour", self, critics=1, clone_least=1, disagreement_scale=0, value_scale=0, clone_scale=0)
        begin, end = self.value_episodes
        if not 0 <= begin <= end:
            fix = "Give two numbers of episodes, 0 or more, the first not above the second."
            raise SettingError("behaviour.value_episodes", [begin, end], fix)
        if self.real_return != "imagined" and self.critic != "q_ensemble":
            raise SettingError("behaviour.real_return", "data with critic: v", "It needs critic: q_ensemble.")
        if self.clone_filter == "advantage" and self.critic != "q_ensemble":
            raise SettingError("behaviour.clone_filter", "advantage with critic: v", "It needs critic: q_ensemble.")


@dataclass
class LatentModelConfig(WorldModelConfig):
    """The world model at LOMPO's sizes (MOTO's appendix C.3; LOMPO's public code).

    Attributes:
        latent: kind of the stochastic latent; ``gaussian`` alone.
        deter: D, size of the deterministic state, 1 or more.
        hidden: E, width of the RSSM's dense layers, 1 or more.
        stoch: S, number of latent variables, 1 or more.
        latent_std: how a latent's standard deviation comes from the network.
        encoder_channels: channels of the encoder's convolutions, 1 or more each.
        conv_activation: the function after each convolution of encoder and decoder, but the last.
        mlp_layers: dense layers after the encoder's convolutions, 0 or more.
        mlp_units: width of these dense layers, 1 or more.
        decoder_mlp_layers: dense layers before the decoder's convolutions, 0 or more; null is ``mlp_layers``. Here
            there are none: the linear layer that makes the decoder's 1x1 maps, of 1024, is LOMPO's only one.
        head_layers: hidden layers of the reward and discount heads, 0 or more.
        head_units: width of these hidden layers, 1 or more.
        kl_balance: share of the KL's gradient that trains the prior, in [0, 1]; null is the plain KL, LOMPO's.
        free_nats: the KL is not pushed below this, in nats, 0 or more; LOMPO has none.
    """

    latent: LatentKind = "gaussian"
    deter: int = 256
    hidden: int = 256
    stoch: int = 64
    latent_std: LatentStd = "softplus"
    encoder_channels: tuple[int, ...] = (32, 64, 128, 256)
    conv_activation: ConvActivation = "relu"
    mlp_layers: int = 1
    mlp_units: int = 1024
    decoder_mlp_layers: int | None = 0
    head_layers: int = 2
    head_units: int = 256
    kl_balance: float | None = None
    free_nats: float = 0.0

    def __post_init__(self) -> None:
        if self.latent != "gaussian":
            raise SettingError(
                "world_model.latent", self.latent, "LOMPO and COMBO have Gaussian latents; leave it out."
            )
        super().__post_init__()


@dataclass
class LatentBehaviourConfig:
    """Policy, critics, imagination and the latent replay (LOMPO's public code).

    Attributes:
        horizon: steps of an imagined rollout, 1 or more.
        replay: ``persistent`` is the papers': each episode is encoded once, by the model of the round that first sees
            it, and rollouts are added as each round begins; nothing is encoded again. ``fresh`` is ours: the replay is
            made anew as each round begins.
        replay_capacity: real transitions that are kept, and imagined ones, each, 1 or more; when a half is full, its
            oldest go.
        imagine_rows: rollouts that a round adds, 1 or more; null starts one in every posterior state of its
            ``replay_size`` sequences, as in the papers. No rollout starts where an episode has terminated.
        gamma: discount, in (0, 1].
        tau: share of the critics that their targets take over at each step, in (0, 1].
        critic_layers: hidden layers of a critic, 0 or more.
        critic_units: width of a critic's hidden layers, 1 or more.
        actor_layers: hidden layers of the policy, 0 or more.
        actor_units: width of the policy's hidden layers, 1 or more.
        noise: standard deviation of the noise on the policy's actions, while it collects and in imagination, 0 or more.
    """

    horizon: int = 5
    replay: Literal["persistent", "fresh"] = "persistent"
    replay_capacity: int = 500_000
    imagine_rows: int | None = None
    gamma: float = 0.99
    tau: float = 0.005
    critic_layers: int = 3
    critic_units: int = 256
    actor_layers: int = 4
    actor_units: int = 256
    noise: float = 0.2

    def __post_init__(self) -> None:
        check_least("behaviour", self, horizon=1, replay_capacity=1, imagine_rows=1, actor_units=1, critic_units=1)
        check_least("behaviour", self, actor_layers=0, critic_layers=0, noise=0)
        for name in ("gamma", "tau"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingError(f"behaviour.{name}", getattr(self, name), "Give a number in (0, 1].")


@dataclass
class LatentBatchConfig:
    """Sizes of a training batch, over all ranks, and of what a round adds to the replay.

    Attributes:
        model_size: sequences that train the world model, 1 or more.
        model_length: rows of each of these sequences, 2 or more.
        agent_size: real latent transitions that train critics and policy, 1 or more; as many imagined ones join them.
        replay_size: sequences of ``model_length`` rows in whose posterior states a round's rollouts start, 1 or more
            (``fresh``: they are its real half, too).
    """

    model_size: int = 64
    model_length: int = 50
    agent_size: int = 256
    replay_size: int = 64

    def __post_init__(self) -> None:
        check_least("batch", self, model_size=1, model_length=2, agent_size=1, replay_size=1)


@dataclass
class LatentOptimConfig(OptimConfig):
    """Learning rates and clip norms of the components.

    Attributes:
        model_lr: the world model's learning rate, 0 or more.
        actor_lr: the policy's learning rate, 0 or more.
        critic_lr: the critics' learning rate, 0 or more.
        weight_decay: share of every weight that a gradient step takes away, in [0, 1); 0 as in their sources.
    """

    model_lr: float = 6e-4
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    weight_decay: float = 0.0
