"""What acts in environments, and on robots: one seam between an agent and all that it acts in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from moto_pl.envs.observation import Seen, unstacked
from moto_pl.errors import SettingError
from moto_pl.ops import Key

ActMode = Literal["sample", "mode"]
Array = TypeVar("Array", np.ndarray, Tensor)
_KEY = Key(0, 0)


class ArraySpec(NamedTuple):
    """One array of an observation, of a single environment.

    Attributes:
        shape: an image's is height, width, colours.
        dtype: NumPy's name of its type.
    """

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class Acting(Protocol):
    """What a :class:`Policy` needs of an agent; :class:`moto_pl.agents.Agent` says what each method means."""

    training: bool

    @property
    def device(self) -> torch.device:
        """Where frames are wanted."""

    @property
    def observes(self) -> Mapping[str, ArraySpec]:
        """The arrays of an observation, by name."""

    def train(self, mode: bool = True) -> Any:
        """Sets the mode of its networks."""

    def acting_weights(self) -> AbstractContextManager[None]:
        """Within it the weights are those that act."""

    def initial_state(self, count: int) -> Any:
        """The acting state of ``count`` environments before their first frame."""

    def act(
        self, image: Tensor, is_first: Tensor, state: Any, mode: ActMode, key: Key, vector: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Actions [n, A] for frames uint8 [n, 3 * M, H, W] and state vectors [n, V], and the next state."""

    def executed(self, state: Any, action: Tensor) -> Any:
        """The state that knows what the environments got."""


class Policy:
    """Gives an action for each observation, and remembers what it has to between them.

    An observation is what an environment of the run gives: a dictionary of arrays by name, or, where only cameras are
    seen, their images stacked in one array, ``uint8 [H, W, 3 * M]``; or n of them at once, with n in front. NumPy
    arrays are answered with float32 ``[A]`` or ``[n, A]`` of NumPy, tensors with tensors on their own device. Actions
    lie in [-1, 1].

    Args:
        agent: acts, with its present weights, in its present mode of training or evaluation.
        mode: ``mode`` for the likeliest action, ``sample`` for a draw. With a world model the latent state is drawn in
            either.
        key: names the draws; call t of :meth:`act`, counted from when the policy was made, folds t in.

    Attributes:
        state: what it remembers, as the agent's methods have it; None before an episode's first observation.
    """

    def __init__(self, agent: Acting, mode: ActMode = "mode", key: Key = _KEY) -> None:
        if mode not in get_args(ActMode):
            raise SettingError("mode", repr(mode), f"Use {' or '.join(get_args(ActMode))}.")
        self.agent, self.mode, self.key = agent, mode, key
        self._calls = 0
        self.reset()

    @property
    def observes(self) -> Mapping[str, ArraySpec]:
        """The arrays of a single observation, by name."""
        return self.agent.observes

    def reset(self, which: np.ndarray | Tensor | None = None) -> None:
        """Says that the next observation is an episode's first.

        Args:
            which: bool [n], the environments of n in which an episode begins; None: all, and there may be another n.
        """
        if which is None:
            self.state: Any = None
            self._is_first: Tensor | None = None  # [n]
            self._asked: torch.Size | None = None  # of the last actions, [n, A]
            return
        begins = torch.as_tensor(which)
        if self._is_first is None:
            return  # all begin
        if begins.dtype != torch.bool or begins.shape != self._is_first.shape:
            wanted = f"Give bool ({len(self._is_first)},), true where an episode begins."
            raise SettingError("which", _described(begins), wanted)
        self._is_first = self._is_first | begins.to(self._is_first.device)

    @torch.no_grad()
    def act(self, observation: Array | Mapping[str, Array]) -> Array:
        """The action for an observation, or those for n of them; it counts as executed unless :meth:`executed` follows.

        Args:
            observation: an array, or arrays by name; others than those of :attr:`observes` may be there.

        Raises:
            SettingError: one is missing, of another type or of another size.
        """
        arrays = self._arrays(observation)
        tensors = {name: self._tensor(array) for name, array in arrays.items()}
        alone = _alone(arrays, self.observes)
        if alone:
            tensors = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
        images, vectors = (
            [tensor for name, tensor in tensors.items() if (self.observes[name].dtype == "uint8") is image]
            for image in (True, False)
        )
        action = self._act(torch.cat(images, -1), torch.cat(vectors, -1) if vectors else None)
        return _like(action[0] if alone else action, next(iter(arrays.values())))

    @torch.no_grad()
    def act_seen(self, seen: Seen) -> Tensor:
        """As :meth:`act`, for what n environments show: images uint8 [n, H, W, 3 * M], vectors float32 [n, V] or None.

        Returns:
            Actions [n, A] on the agent's device.
        """
        return self._act(self._tensor(seen.image), None if seen.vector is None else self._tensor(seen.vector))

    def _act(self, image: Tensor, vector: Tensor | None) -> Tensor:
        """Actions [n, A] for images uint8 [n, H, W, 3 * M], and vectors float32 [n, V] where the agent sees any."""
        count = len(image)
        if self._is_first is None:
            self.state = self.agent.initial_state(count)
            self._is_first = torch.ones(count, dtype=torch.bool, device=self.agent.device)
        elif count != len(self._is_first):
            found = f"{count} at once, after {len(self._is_first)}"
            raise SettingError("observation", found, "Call reset() before observations of another number.")
        frames = image.movedim(-1, -3).contiguous()  # [n, 3 * M, H, W]
        key = self.key.fold(self._calls)
        vectors = () if vector is None else (vector,)
        action, self.state = self.agent.act(frames, self._is_first, self.state, self.mode, key, *vectors)
        action = action.float().clamp(-1, 1)  # [n, A]
        self._asked = action.shape
        self.state = self.agent.executed(self.state, action)
        self._is_first = torch.zeros_like(self._is_first)
        self._calls += 1
        return action

    def executed(self, action: np.ndarray | Tensor) -> None:
        """Says that something else was executed than :meth:`act` asked for: ``action`` [A] or [n, A], in [-1, 1].

        Raises:
            SettingError: nothing was asked for in this episode yet, or the action has another size.
        """
        if self._asked is None:
            raise SettingError("action", "one before an episode's first", "Call act first.")
        given = self._tensor(action)
        given = given.unsqueeze(0) if given.dim() == 1 else given
        if given.shape != self._asked:
            raise SettingError("action", f"shape {tuple(action.shape)}", f"Give it as {tuple(self._asked)}, as asked.")
        self.state = self.agent.executed(self.state, given)

    def _tensor(self, array: np.ndarray | Tensor) -> Tensor:
        if isinstance(array, np.ndarray):  # of its own memory in order, which a tensor may be made of
            array = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        return array.to(self.agent.device)

    def _arrays(self, observation: Array | Mapping[str, Array]) -> dict[str, Array]:
        """What the agent looks at of an observation, each of its type and size."""
        specs = self.observes
        if not isinstance(observation, Mapping):
            observation = _unstacked(observation, specs)
        found: dict[str, Array] = {}
        for name, spec in specs.items():
            if name not in observation:
                there = ", ".join(map(repr, observation)) or "nothing"
                raise SettingError("observation", f"{there}, and no '{name}'", f"Give '{name}', {spec}.")
            found[name] = _checked(name, observation[name], spec)
        return found


def _unstacked(array: Array, specs: Mapping[str, ArraySpec]) -> dict[str, Array]:
    """The cameras' images in one array, [..., 3 * M], by their names."""
    if len(specs) == 1:
        return dict.fromkeys(specs, array)
    shape = tuple(getattr(array, "shape", ()))
    cameras = all(spec.dtype == "uint8" for spec in specs.values())
    if not cameras or len(shape) < 3 or shape[-1] != 3 * len(specs):
        stacked = f", or their images stacked, [..., {3 * len(specs)}]" if cameras else ""
        fix = f"Give a dictionary of {', '.join(specs)}{stacked}."
        raise SettingError("observation", f"one {_described(array)}", fix)
    return dict(zip(specs, unstacked(array, len(specs)), strict=True))


def _checked(name: str, array: Array, spec: ArraySpec) -> Array:
    """An array of an observation, which is what the agent looks at, or a stack of them."""
    known = isinstance(array, np.ndarray | Tensor)
    if known and str(array.dtype).removeprefix("torch.") == spec.dtype:
        beyond = len(array.shape) - len(spec.shape)
        whole = beyond == 0 or (beyond == 1 and array.shape[0] > 0)
        if whole and tuple(array.shape[beyond:]) == spec.shape:
            return array
    fix = f"Give an array {spec}, or {spec.dtype} {('n', *spec.shape)} for n environments".replace("'n'", "n")
    raise SettingError("observation", f"'{name}' as {_described(array)}", f"{fix}.")


def _alone(arrays: Mapping[str, Any], specs: Mapping[str, ArraySpec]) -> bool:
    """Whether the arrays are a single observation's; they are all, or none of them."""
    lengths = {
        name: None if len(array.shape) == len(specs[name].shape) else len(array) for name, array in arrays.items()
    }
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"'{name}' of {length or 'one'}" for name, length in lengths.items())
        raise SettingError("observation", found, "Give as many of each.")
    return None in lengths.values()


def _like(action: Tensor, array: Array) -> Array:
    """The action in the form of the observation's array."""
    if isinstance(array, Tensor):
        return action.to(array.device)
    return action.cpu().numpy()


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray | Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
