"""What an environment has to be and to return, checked as it is made and, cheaply, at every reset and step."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from moto_pl.envs.actions import SUCCESS_KEYS, ActionScale
from moto_pl.envs.observation import (
    IMAGE_ALONE,
    Observation,
    ObservationConfig,
    Seen,
    entry,
    joined,
    stacked,
)
from moto_pl.envs.resizing import resize
from moto_pl.errors import EnvironmentRaised, SettingError

OBJECT_KEYS = ("completed", "in_place")
"""Infos with one flag for each object."""
DEMONSTRATIONS = 4
"""An environment that sets no limit may take so many times the steps of the longest demonstration."""
MOST_STEPS = 10_000
"""Steps of an episode where nothing else says: 123 MB of 64x64 frames."""
# Files that lie between the loop and the environment.
_OURS = Path(__file__).parent
_PLUMBING = (
    str(_OURS / "__init__.py"),
    str(_OURS / "checks.py"),
    *(str(_OURS.parent / "rollout" / name) for name in ("pool.py", "host.py")),
    os.path.dirname(gym.__file__),
)


class EpisodeLimit(NamedTuple):
    """How long an episode may be before it is cut off.

    Attributes:
        steps: the user's own limit (``data.max_episode_steps``), or None.
        demonstrated: actions of the longest demonstration; None where there is none.
        action_repeat: steps for each action.
    """

    steps: int | None = None
    demonstrated: int | None = None
    action_repeat: int = 1

    def of(self, env: gym.Env[Any, Any]) -> int:
        """The limit for an environment: the user's, else its own, else from the demonstrations, else ``MOST_STEPS``."""
        own = env.spec.max_episode_steps if env.spec is not None else None
        own = own or getattr(env.unwrapped, "episode_steps", None)
        if self.steps is not None:
            return self.steps
        if isinstance(own, int | np.integer) and own > 0:
            return int(own)
        return MOST_STEPS if self.demonstrated is None else DEMONSTRATIONS * self.demonstrated * self.action_repeat


NO_LIMIT_SET = EpisodeLimit()


class Step(NamedTuple):
    """What a step came to. ``info`` holds no more than plain values and arrays; ``cut``: the limit truncated it.

    ``vector``: float32 [V], the state vectors that were seen after it; None where none is learned from.
    """

    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    cut: bool = False
    vector: np.ndarray | None = None

    @property
    def ended(self) -> bool:
        """Whether the episode ended with it."""
        return self.terminated or self.truncated


class Checks:
    """The checks of one environment; each failure is one line that names it.

    Args:
        name: its id, and which of several it is.
        env: the environment.
        wanted: what of its observations is learned from.
        scale: what policies' actions stand for; None: they span its Box.
        image_size: height and width to which images are resized; None leaves them as they are.

    Attributes:
        image_shape: height, width, channels of its cameras' images, stacked.
        observation: what is learned from, with the vectors' sizes.
        resized: which cameras' images are resized, and from what, in words; empty where none is.

    Raises:
        SettingError: it does not declare uint8 images of one size with three channels in a Dict, flat Boxes for the
            vectors, and a flat Box of actions that are floating-point numbers, with bounds unless ``scale`` says what
            they span.
    """

    def __init__(
        self,
        name: str,
        env: gym.Env[Any, Any],
        wanted: ObservationConfig = IMAGE_ALONE,
        scale: ActionScale | None = None,
        image_size: int | None = None,
    ) -> None:
        self.name, self.wanted, self._image_size = name, wanted, image_size
        shapes = {key: self._camera_shape(env.observation_space, key) for key in wanted.cameras}
        self._camera_shapes = shapes
        if image_size is None and len(set(shapes.values())) > 1:
            found = "observes " + " and ".join(f"'{key}' as uint8 {shape}" for key, shape in shapes.items())
            raise self.error(found, "Give all cameras one size.")
        shape = shapes[wanted.cameras[0]] if image_size is None else (image_size, image_size, 3)
        self.resized = ", ".join(f"'{key}' of {own[0]}x{own[1]}" for key, own in shapes.items() if own != shape)
        self.image_shape = (*shape[:2], 3 * len(shapes))
        sizes = {vector: self._vector_size(env.observation_space, vector) for vector in wanted.state}
        self.observation = Observation.of(wanted, sizes, shape[0])
        self._check_actions(env.action_space, scale)
        self._objects: dict[str, tuple[int, ...]] = {}

    # What it declares.

    def _camera_shape(self, space: gym.Space[Any], key: str) -> tuple[int, int, int]:
        if not isinstance(space, gym.spaces.Dict):
            found = f"observes {_describe_space(space)}, not a Dict with a key '{key}'"
            raise self.error(found, _wrapped(f"{{'{key}': o}}"))
        image = entry(space, key)
        if image is None:
            found = f"observes {', '.join(map(repr, space)) or 'nothing'}, and no '{key}'"
            raise self.error(found, _wrapped(f"{{'{key}': o['the one to learn from']}}"))
        shape = image.shape if isinstance(image, gym.spaces.Box) else ()
        if not isinstance(image, gym.spaces.Box) or len(shape) != 3 or shape[2] != 3 or image.dtype != np.uint8:
            wanted = "where uint8 (height, width, 3) is wanted"
            found = f"declares its observation '{key}' as {_describe_space(image)}, {wanted}"
            raise self.error(found, _image_fix(key, image.dtype, shape))
        if np.max(image.high) <= 1:
            found = f"declares values of its observation '{key}' from 0 to {np.max(image.high)}, where 255 is white"
            raise self.error(found, _wrapped_image(key, f"255 * o['{key}']"))
        return int(shape[0]), int(shape[1]), 3

    def _vector_size(self, space: gym.Space[Any], key: str) -> int:
        vector = entry(space, key)
        if vector is None:
            found = f"observes {', '.join(map(repr, space))}, and no '{key}'"  # type: ignore[call-overload]
            raise self.error(found, "Name what it observes in data.observation.state, or leave that out.")
        if not isinstance(vector, gym.spaces.Box) or len(vector.shape) != 1 or vector.dtype.kind not in "fiu":
            found = f"declares its observation '{key}' as {_describe_space(vector)}, where a flat Box is wanted"
            raise self.error(found, "Flatten it, or name another in data.observation.state.")
        return int(vector.shape[0])

    def _check_actions(self, space: gym.Space[Any], scale: ActionScale | None) -> None:
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise self.error(f"takes actions {space}", "Use an environment with a flat Box of actions.")
        if not np.issubdtype(space.dtype, np.floating):
            fix = "Declare a Box of float32."
            raise self.error(f"takes actions {space}, where policies act in [-1, 1]", fix)
        if scale is None and ActionScale.of_box(space) is None:
            fix = "Declare the Box of actions that it takes, or set data.action_scale: percentile."
            raise self.error(f"takes actions {space}, where policies act in [-1, 1]", fix)
        if scale is not None and len(scale.low) != space.shape[0]:
            found = f"takes actions of size {space.shape[0]}, and the dataset's have {len(scale.low)}"
            raise self.error(found, "Choose the dataset of that environment.")

    # What it returns.

    def reset(self, result: Any) -> Seen:
        """What is seen in a reset's result."""
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            found = f"returned {_describe_result(result)} from reset, where (observation, info) is wanted"
            raise self.error(found, "Write it for the API of gymnasium.")
        return self.seen(result[0], "at reset")

    def step(self, result: Any) -> tuple[np.ndarray, Step]:
        """The image and the rest of a step's result."""
        if not isinstance(result, tuple) or len(result) != 5:
            wanted = "(observation, reward, terminated, truncated, info)"
            found = f"returned {_describe_result(result)} from step, where {wanted} is wanted"
            raise self.error(found, "Write it for the API of gymnasium, or wrap it with shimmy.GymV21CompatibilityV0.")
        observation, reward, terminated, truncated, info = result
        if not isinstance(info, Mapping):
            raise self.error(f"returned {_describe(info)} as a step's info", "Return a dict, empty if need be.")
        image, vector = self.seen(observation, "in a step")
        return image, Step(
            self._reward(reward),
            self._flag("terminated", terminated),
            self._flag("truncated", truncated),
            self._info(info),
            vector=vector,
        )

    def seen(self, observation: Any, moment: str) -> Seen:
        """Image and vectors of an observation, which are what was declared."""
        image = stacked([self._image(observation, name, moment) for name in self.wanted.cameras])
        return Seen(image, joined([self._vector(observation, name, moment) for name in self.wanted.state]))

    def _image(self, observation: Any, key: str, moment: str) -> np.ndarray:
        """One image, of the size that is wanted."""
        image, shape = entry(observation, key) if isinstance(observation, Mapping) else None, self._camera_shapes[key]
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == shape:
            return image if self._image_size is None else resize(image, self._image_size)
        wanted = f"where it declares uint8 {shape}"
        if image is None:
            keys = ", ".join(map(repr, observation)) if isinstance(observation, Mapping) else _describe(observation)
            raise self.error(f"observes {keys} {moment}, and no '{key}', {wanted}", "Return what it declares.")
        fix = _image_fix(key, image.dtype, image.shape) if isinstance(image, np.ndarray) else "Return a NumPy array."
        raise self.error(f"observes '{key}' as {_describe(image)} {moment}, {wanted}", fix)

    def _vector(self, observation: Any, name: str, moment: str) -> np.ndarray:
        """One vector, as float32; finite there too."""
        size = self.observation.state[name]
        vector = entry(observation, name)
        if vector is None:
            found = f"observes {', '.join(map(repr, observation))} {moment}, and no '{name}'"
            raise self.error(found, "Return what it declares.")
        if not isinstance(vector, np.ndarray) or vector.shape != (size,) or vector.dtype.kind not in "fiu":
            found = f"observes '{name}' as {_describe(vector)} {moment}, where it declares {size} numbers"
            raise self.error(found, "Return what it declares.")
        if not (np.abs(vector) <= np.finfo(np.float32).max).all():
            raise self.error(f"observes '{name}' as {_describe(vector)} {moment}", "Return finite numbers.")
        return vector.astype(np.float32)

    def _reward(self, value: Any) -> float:
        number = _single(value)
        if number is None or number.dtype.kind not in "biuf" or not np.abs(number) <= np.finfo(np.float32).max:
            raise self.error(f"returned the reward {_describe(value)}", "Return one finite number.")
        return float(number)

    def _flag(self, name: str, value: Any) -> bool:
        flag = as_flag(value)
        if flag is None:
            raise self.error(f"returned {name} {_describe(value)}", "Return True or False.")
        return flag

    def _info(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """What can be sent and kept of an info; its success under one name, as a bool."""
        plain = {str(key): value for key, value in info.items() if _plain(value)}
        for key in SUCCESS_KEYS:
            if key in info:
                success = as_flag(info[key])
                if success is None:
                    raise self.error(f"returned info['{key}'] {_describe(info[key])}", "Give True or False.")
                plain[key] = success
                plain.setdefault("success", success)
        for key in OBJECT_KEYS:
            if key in info:
                plain[key] = self._object_flags(key, info[key])
        return plain

    def _object_flags(self, key: str, value: Any) -> np.ndarray:
        """One flag for each object, as many at every step."""
        try:
            flags = np.asarray(value)
        except ValueError:  # ragged
            flags = np.array(None)
        shape = self._objects.setdefault(key, flags.shape)
        if flags.ndim != 1 or flags.shape != shape or flags.dtype.kind not in "biuf" or np.isnan(flags).any():
            before = f", after {shape[0]} flags before" if len(shape) == 1 and flags.shape != shape else ""
            fix = "Give one flag for each object, as many at every step."
            raise self.error(f"returned info['{key}'] {_describe(value)}{before}", fix)
        return flags.astype(bool)

    def error(self, found: str, fix: str) -> SettingError:
        """The error about this environment."""
        return SettingError("data.env", f"{self.name}, which {found}", fix)


@contextmanager
def named(name: str, moment: str) -> Iterator[None]:
    """Names the environment in whatever it raises; ``moment``: when that was."""
    try:
        yield
    except SettingError:
        raise
    except ImportError as error:
        raise SettingError("data.env", f"{name}, which raised {_line(error)} {moment}", "Install it.") from error
    except Exception as error:
        raise EnvironmentRaised(
            f"{name}, which raised {_line(error)} {moment}",
            "Its traceback says where; the same command goes on from the last checkpoint.",
            _own_traceback(error),
        ) from None


def as_flag(value: Any) -> bool | None:
    """A bool, a number (above 0 is true), or an array of one of them, as a bool; None where it is anything else."""
    number = _single(value)
    if number is None or number.dtype.kind not in "biuf" or np.isnan(number):
        return None
    return bool(number > 0)


def check_image_size(env_id: str, key: str, shape: tuple[int, int, int], size: int) -> None:
    """Raises a SettingError where an environment's images are not of the size that is trained on.

    Args:
        env_id: its id.
        key: the image's name.
        shape: of its image: height, width, channels.
        size: wanted height and width, in pixels.
    """
    if shape[:2] != (size, size):
        raise SettingError(
            "data.env",
            f"{env_id}, whose observation '{key}' is uint8 {shape}, where uint8 {(size, size, 3)} is wanted",
            f"Make it draw {size}x{size} (data.image_size), or w"
            + _wrapped_image(key, f"cv2.resize(o['{key}'], ({size}, {size}), interpolation=cv2.INTER_AREA)")[1:],
        )


def close(env: gym.Env[Any, Any], env_id: str) -> None:
    """Closes an environment. What it raises is a warning: its work is done."""
    try:
        env.close()
    except Exception as error:
        warnings.warn(f"{env_id} raised {_line(error)} when it was closed", stacklevel=2)


def _single(value: Any) -> np.ndarray | None:
    """A value or an array of one value as an array without dimensions."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array.reshape(()) if array.size == 1 and array.dtype != object else None


def _plain(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufSU"
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _wrapped(observation: str) -> str:
    """The instruction to make ``observation`` of an observation ``o``."""
    return f"Wrap it: gymnasium.wrappers.TransformObservation(env, lambda o: {observation}, space)."


def _wrapped_image(key: str, image: str) -> str:
    return _wrapped(f"{{**o, '{key}': {image}}}")


def _image_fix(key: str, dtype: Any, shape: tuple[int, ...]) -> str:
    """What makes a frame of this type and shape one that can be used."""
    image = f"o['{key}']"
    if len(shape) == 3 and shape[0] == 3 and shape[2] != 3:
        return _wrapped_image(key, f"{image}.transpose(1, 2, 0)")
    if dtype is not None and np.issubdtype(dtype, np.floating):
        return _wrapped_image(key, f"(255 * {image}).astype('uint8')")  # of values in [0, 1]
    if dtype is not None and dtype != np.uint8:
        return _wrapped_image(key, f"{image}.clip(0, 255).astype('uint8')")
    if len(shape) == 3 and shape[2] == 1:
        return _wrapped_image(key, f"{image}.repeat(3, axis=2)")
    return "Return frames as it declares them."


def _describe(value: Any) -> str:
    """A value in a few words: its type, its shape and its range."""
    if isinstance(value, np.ndarray):
        array = np.asarray(value)
        words = f"{array.dtype} {array.shape}"
        if array.size <= 4:
            return f"{words}: {_shorten(array.tolist())}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{words} with NaN or infinity"
        return f"{words} with values from {array.min():g} to {array.max():g}" if array.dtype.kind in "iuf" else words
    if value is None or isinstance(value, bool | int | float | str):
        return _shorten(repr(value))
    return f"{type(value).__name__} {_shorten(repr(value))}"


def _describe_space(space: gym.Space[Any]) -> str:
    return f"{space.dtype} {space.shape}" if isinstance(space, gym.spaces.Box) else _shorten(str(space))


def _describe_result(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else f"one {type(result).__name__}"


def _shorten(text: Any) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= 60 else f"{words[:57]}..."


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _own_traceback(error: BaseException) -> str:
    """The traceback from the environment's first line on; empty where it is not its code that raised."""
    frames = list(traceback.extract_tb(error.__traceback__))
    while frames and frames[0].filename.startswith(_PLUMBING):
        del frames[0]
    if not frames:
        return ""
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return f"Traceback of the environment (most recent call last):\n{''.join(lines)}"
