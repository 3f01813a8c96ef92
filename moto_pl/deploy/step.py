"""One step of a policy as a function of arrays: what is exported."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

import moto_pl
from moto_pl.agents.base import Agent
from moto_pl.agents.model_based import ActingState, ModelBasedAgent
from moto_pl.agents.model_free import ModelFreeAgent
from moto_pl.errors import SettingError
from moto_pl.nn import States
from moto_pl.nn.image import Seen, Stacked
from moto_pl.ops import Key, draw_noise
from moto_pl.ops.observe import observe_drawn

_BORDER = 1e-5  # of probabilities
_MODE_KEY = Key(0, 0)  # the likeliest action is no draw


class Part(NamedTuple):
    """An array that goes in or comes out.

    Attributes:
        name: of the input.
        example: of its shape and type, without a batch.
        source: of a state, the output that it is at the next step.
    """

    name: str
    example: Tensor
    source: str = ""

    def facts(self) -> dict[str, Any]:
        """Its type and shape, as plain values."""
        return {"dtype": str(self.example.dtype).removeprefix("torch."), "shape": list(self.example.shape)}


def action_facts(agent: Agent) -> dict[str, Any]:
    """An agent's action, as plain values, and what -1 and 1 stand for in its environment, if not themselves."""
    facts = {"dtype": "float32", "shape": [int(agent.action_size or 0)], "low": -1.0, "high": 1.0}
    scale = agent.action_scale
    return facts if scale is None else {**facts, "stands_for": {"low": list(scale.low), "high": list(scale.high)}}


class PolicyStep(nn.Module):
    """The likeliest action for one robot's observation, without a memory: the state comes in and goes out.

    Inputs: the observation's arrays; ``is_first``, bool, true on an episode's first; the state's parts; and the draws
    of the latent state, where there is a world model. Outputs: the action, then the next state's parts. No array has a
    batch. Nothing is drawn inside, so that the step is a function: who calls it draws.

    Args:
        agent: acts; its weights are shared.

    Attributes:
        state: the state's parts.
        draws: the draws' parts.
    """

    state: tuple[Part, ...]
    draws: tuple[Part, ...] = ()

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent
        self._exact: tuple[PolicyStep] | None = None  # in a tuple, for it is no part of this module
        self.observation = tuple(
            Part(name, torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)))
            for name, spec in agent.observes.items()
        )

    @property
    def inputs(self) -> tuple[Part, ...]:
        """What goes in, in order."""
        return (*self.observation, Part("is_first", torch.ones((), dtype=torch.bool)), *self.state, *self.draws)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what comes out, in order."""
        sources = dict.fromkeys(part.source for part in self.state)
        return ("action", *(source for source in sources if source != "action"))

    def metadata(self, control_rate: float | None) -> dict[str, Any]:
        """What has to be known to run it.

        Args:
            control_rate: actions a second that it was trained at; None: not known.
        """
        return {
            "format": "moto_pl policy step",
            "version": 1,
            "moto_pl": moto_pl.__version__,
            "agent": f"{type(self.agent).__module__}.{type(self.agent).__qualname__}",
            "gradient_steps": self.agent.loaded_step,
            "control_rate_hz": control_rate,
            "observation": {part.name: {**part.facts(), **self._layout(part)} for part in self.observation},
            "action": action_facts(self.agent),
            "inputs": [part.name for part in self.inputs],
            "outputs": list(self.outputs),
            "state": {part.name: {**part.facts(), "from": part.source} for part in self.state},
            "draws": {part.name: {**part.facts(), "distribution": self.distribution} for part in self.draws},
        }

    def _layout(self, part: Part) -> dict[str, str]:
        """What the numbers of an observation's array are."""
        if part.example.dtype != torch.uint8:
            said = "none: numbers as they are measured; the step normalises them by the demonstrations' statistics"
            return {"layout": "numbers in the order of the environment's vector", "normalisation": said}
        said = f"none: pixels as they are; the step takes x / 255 - {self.offset}"
        return {"layout": "height, width, colours (red, green, blue)", "normalisation": said}

    def seen(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
        """What the agent sees, the cameras stacked and the vectors joined, with a batch of 1; and the other inputs.

        Returns:
            uint8 [1, 3 * M, H, W], [1, V] or None, and what follows the observation.
        """
        found = list(zip(self.observation, inputs, strict=False))
        images = [array for part, array in found if part.example.dtype == torch.uint8]
        vectors = [array for part, array in found if part.example.dtype != torch.uint8]
        image = torch.cat(images, -1).permute(2, 0, 1).unsqueeze(0)
        vector = torch.cat(vectors, -1).unsqueeze(0) if vectors else None
        return image, vector, inputs[len(self.observation) :]

    #: What is taken from scaled pixels.
    offset = 0.0
    #: Of the draws.
    distribution = ""

    def state_of(self, state: Any) -> list[np.ndarray]:
        """The agent's acting state of one robot as the state's parts."""
        raise NotImplementedError

    def draw(self, key: Key) -> list[np.ndarray]:
        """The draws that the agent makes in a call of ``act`` under a key."""
        return []

    @torch.no_grad()
    def exactly(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs in double precision."""
        if self._exact is None:
            self._exact = (copy.deepcopy(self).double(),)
        tensors = [torch.from_numpy(array) for array in inputs]
        given = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
        return [output.numpy() for output in self._exact[0](*given)]

    def tied(self, inputs: Sequence[np.ndarray]) -> bool:
        """Whether a draw lies so near the border of two outcomes that rounding decides between them."""
        return False


class LatentStep(PolicyStep):
    """Encoder, one step of the RSSM, policy."""

    offset = 0.5

    def __init__(self, agent: ModelBasedAgent) -> None:
        super().__init__(agent)
        self.latent = agent.world_model.latent
        self.distribution = "uniform in (0, 1)" if self.latent.kind == "categorical" else "standard normal"
        deter, stoch = (part[0] for part in agent.world_model.rssm.initial(1))
        action = torch.zeros(int(agent.action_size or 0))
        self.state = (
            Part("deter", deter, "next_deter"),
            Part("stoch", stoch, "next_stoch"),
            Part("previous_action", action, "action"),
        )
        self.draws = (Part("latent_noise", torch.full((self.latent.stoch,), 0.5)),)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The observation's arrays, bool [], [D], [Z], [A], [S] -> the action [A], the next [D] and [Z]."""
        deter, stoch, _ = self.observe(*inputs)
        agent = cast(ModelBasedAgent, self.agent)
        action = agent.latent_action(States(deter, stoch).features, "mode", _MODE_KEY)
        return action[0].float().clamp(-1, 1), deter[0], stoch[0]

    def observe(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The posterior state [1, ...], and the parameters of its distribution; see :meth:`forward`."""
        model = cast(ModelBasedAgent, self.agent).world_model
        image, vector, (is_first, deter, stoch, previous_action, latent_noise) = self.seen(inputs)
        embed = model.embed(image, vector)
        found = observe_drawn(
            previous_action[None, None],
            embed[None],
            is_first[None, None],
            deter[None],
            stoch[None],
            model.rssm.cell(),
            model.rssm.posterior(),
            self.latent,
            latent_noise[None, None],
        )
        return found[0][0], found[1][0], found[2][0]

    def state_of(self, state: ActingState) -> list[np.ndarray]:
        """See :meth:`PolicyStep.state_of`."""
        return [part[0].cpu().numpy() for part in (*state.states, state.action)]

    def draw(self, key: Key) -> list[np.ndarray]:
        """See :meth:`PolicyStep.draw`."""
        return [draw_noise(self.latent, key, (1, 1), self.state[0].example)[0, 0].numpy()]

    @torch.no_grad()
    def tied(self, inputs: Sequence[np.ndarray]) -> bool:
        """See :meth:`PolicyStep.tied`."""
        if self.latent.kind != "categorical":
            return False
        tensors = [torch.from_numpy(array) for array in inputs]
        params = self.observe(*tensors)[2][0]
        borders = self.latent.logits(params).softmax(-1).cumsum(-1)  # [S, C]
        return bool((borders - tensors[-1].unsqueeze(-1)).abs().min() < _BORDER)


class StackStep(PolicyStep):
    """The stack of frames, and of the vectors seen with them, policy."""

    def __init__(self, agent: ModelFreeAgent) -> None:
        super().__init__(agent)
        frames, *vectors = _stacks(agent.initial_state(1))
        self.state = (
            Part("frames", frames[0], "next_frames"),
            *(Part("vectors", vector[0], "next_vectors") for vector in vectors),
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The observation's arrays, bool [], the frames [stack * 3 * M, H, W] and, if any are seen, the vectors
        [stack * V] so far -> the action [A], the next frames and vectors.
        """
        image, vector, (is_first, frames, *vectors) = self.seen(inputs)
        stack: Seen = Stacked(frames.unsqueeze(0), vectors[0].unsqueeze(0)) if vectors else frames.unsqueeze(0)
        action, state = self.agent.act(image, is_first[None], stack, "mode", _MODE_KEY, vector)
        return (action[0].float().clamp(-1, 1), *(part[0] for part in _stacks(state)))

    def state_of(self, state: Seen) -> list[np.ndarray]:
        """See :meth:`PolicyStep.state_of`."""
        return [part[0].cpu().numpy() for part in _stacks(state)]


def _stacks(state: Seen) -> tuple[Tensor, ...]:
    """Frames, and vectors where there are any."""
    return tuple(state) if isinstance(state, Stacked) else (state,)


def policy_step(agent: Agent) -> PolicyStep:
    """The step of an agent on the CPU.

    Raises:
        SettingError: it is of another kind than ours are, or what it sees has the name of another input.
    """
    step: PolicyStep
    if isinstance(agent, ModelBasedAgent):
        step = LatentStep(agent)
    elif isinstance(agent, ModelFreeAgent):
        step = StackStep(agent)
    else:
        found = f"an agent {type(agent).__name__}"
        raise SettingError("checkpoint", found, "Give one of an agent that moto_pl exports.")
    names = [part.name for part in step.inputs] + list(step.outputs)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        found = f"an agent that observes '{twice[0]}', as an input of the step is called"
        raise SettingError("checkpoint", found, "Train one whose environment calls it something else.")
    return step
