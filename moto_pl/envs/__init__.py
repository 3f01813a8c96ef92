"""Environments from pixels, as registered gymnasium ids. Importing this imports neither simulator nor renderer.

``import moto_pl`` imports this, and so registers them. ``import gymnasium`` alone cannot: gymnasium loads no plugins
since its version 1.0. ``gymnasium.make("moto_pl:moto_pl/Reach-v0")`` is its way to name the package in the id.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from moto_pl.errors import SettingError, did_you_mean
from moto_pl.trust import check_entry_point, check_environment

NAMESPACE = "moto_pl"
# Written out, because asking MetaWorld would import the simulator.
METAWORLD_TASKS: tuple[str, ...] = tuple(
    """
    assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open
    door-unlock drawer-close drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side
    handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall
    plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall reach reach-wall
    shelf-place soccer stick-pull stick-push sweep sweep-into window-close window-open
    """.split()
)
PAPER_TASKS: tuple[str, ...] = (
    "assembly", "bin-picking", "box-close", "coffee-push", "disassemble",
    "door-open", "drawer-open", "hammer", "plate-slide", "window-open",
)  # fmt: skip
"""The ten MetaWorld tasks of the paper's Table 1."""
KITCHEN_OBJECTS: tuple[str, ...] = (
    "microwave", "kettle", "bottom burner", "top burner", "light switch", "slide cabinet", "hinge cabinet",
)  # fmt: skip
"""Everything that can be operated in Franka Kitchen."""
KITCHEN_ORDER: tuple[str, ...] = (
    "microwave", "kettle", "top burner", "bottom burner", "light switch", "hinge cabinet", "slide cabinet",
)  # fmt: skip
"""The canonical order: whatever four objects a recorded demonstration operates, it takes them in this order."""
KITCHEN_TASKS: dict[str, tuple[str, ...]] = {
    "mixed": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "bottom burner", "light switch"),
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
}
"""Objects of each kitchen task, in the order in which demonstrations operate them. ``mixed`` and ``partial`` are the
paper's; D4RL and Minari name these two the other way round. ``complete`` is D4RL's: the objects of ``mixed``, under the
name of the dataset in which every episode operates all of them."""


def metaworld_id(task: str) -> str:
    """The gymnasium id of a MetaWorld task, such as ``"door-open"``."""
    return f"{NAMESPACE}/MetaWorld-{task}-v0"


def kitchen_id(task: str) -> str:
    """The gymnasium id of a kitchen task: ``"mixed"``, ``"partial"`` or ``"complete"``."""
    return f"{NAMESPACE}/Kitchen-{task}-v0"


def task_objects(env_id: str, env_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The objects whose completion an environment reports as ``info["completed"]``; empty where it has none."""
    spec = gym.registry.get(env_id)
    objects = {**(spec.kwargs if spec is not None else {}), **env_kwargs}.get("objects", ())
    return tuple(str(name).replace("_", " ") for name in objects)


def _register() -> None:
    gym.register(f"{NAMESPACE}/Reach-v0", entry_point="moto_pl.envs.reach:ReachEnv")
    for task in METAWORLD_TASKS:
        gym.register(metaworld_id(task), entry_point="moto_pl.envs.metaworld:MetaWorldEnv", kwargs={"task": task})
    for task, objects in KITCHEN_TASKS.items():
        gym.register(kitchen_id(task), entry_point="moto_pl.envs.kitchen:KitchenEnv", kwargs={"objects": objects})


def unknown_name(setting: str, found: str, known: Iterable[str], listing: str | None = None) -> SettingError:
    """The error for a name that is not known: what is near it, and ``listing`` or how to list all environments."""
    guess = did_you_mean(found, known, n=3, cutoff=0.5)
    if listing is None:
        listing = "List all with: python -c 'from moto_pl.envs import list_envs; print(*list_envs(), sep=chr(10))'"
    return SettingError(setting, repr(found), f"{guess}{listing}")


def unknown_argument(setting: str, name: str, owner: str, known: Iterable[str]) -> SettingError:
    """The error for an argument that ``owner``, an environment or a dataset, does not take; ``known`` are its own."""
    known = list(known)
    guess = did_you_mean(name, known)
    return SettingError(
        setting, f"{name}, which {owner} does not take", f"{guess}It takes {', '.join(known) or 'nothing'}."
    )


def check_arguments(setting: str, env_id: str, arguments: Mapping[str, Any]) -> None:
    """Refuses what one of this package's environments does not take, before any is made.

    Others' are asked when they are made: what they take may not stand in their signature.

    Args:
        setting: that holds the arguments.
        env_id: the environment's id; one that is not registered has no say here.
        arguments: by name.

    Raises:
        SettingError: names the first that it does not take, or whose value is of another type.
    """
    if env_id.rpartition(":")[2].startswith(f"{NAMESPACE}/") and _specs(env_id):
        check_given(setting, env_id, _taken(env_id), arguments)


def check_given(setting: str, owner: str, known: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that are unknown or of another type; those of ``gymnasium.make`` itself are known.

    Args:
        setting: that holds the arguments.
        owner: what takes them, in words.
        known: their types by name.
        arguments: their values by name.

    Raises:
        SettingError: names the first such argument.
    """
    for name, value in arguments.items():
        if name in known and (wanted := _misfit(value, known[name])):
            raise SettingError(setting, f"{name}: {value!r}", f"Give {wanted}.")
        if name not in known and name not in inspect.signature(gym.make).parameters:
            raise unknown_argument(setting, str(name), owner, known)


def _misfit(value: Any, hint: Any) -> str | None:
    """What is wanted in place of a value that its type rules out; None where it does not. Texts check themselves."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = {bool: "true or false", int: "a whole number", float: "a number", types.NoneType: "null"}
    if any(kind not in plain and get_origin(kind) is not Sequence for kind in kinds):
        return None
    kind_of = {bool: bool, int: Integral, float: Real, types.NoneType: types.NoneType}
    number = not isinstance(value, bool)
    for kind in kinds:
        if isinstance(value, kind_of.get(kind, Sequence)) and (number or kind not in (int, float)):
            return None
    return " or ".join(plain.get(kind, "a list") for kind in kinds)


def _taken(env_id: str) -> dict[str, Any]:
    """The arguments of a registered environment, as far as its signature says, and their types."""
    for spec in _specs(env_id):
        creator = spec.entry_point
        made_by = load_env_creator(creator) if isinstance(creator, str) else creator
        if made_by is not None:
            found = inspect.signature(made_by).parameters.values()
            named = [one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
            try:
                hints = get_type_hints(made_by.__init__ if isinstance(made_by, type) else made_by)  # type: ignore[misc]
            except (NameError, TypeError, AttributeError):  # of others, who need not have theirs at hand
                hints = {}
            return {name: hints.get(name, Any) for name in named}
    return {}


def list_envs() -> list[str]:
    """The ids of all environments of this package."""
    return sorted(env_id for env_id in gym.registry if env_id.startswith(f"{NAMESPACE}/"))


def make(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Create an environment by its id, as ``gymnasium.make`` does.

    Args:
        env_id: a registered id, such as ``"moto_pl/MetaWorld-door-open-v0"``, or ``"module:id"`` for one that
            importing ``module`` registers.
        **kwargs: the environment's own arguments.

    Raises:
        SettingError: no such id, code that the command does not trust, or an argument that the environment does not
            take.
    """
    check_environment("data.env", env_id)
    try:
        for spec in _specs(env_id):
            for entry_point in (spec.entry_point, *(wrapper.entry_point for wrapper in spec.additional_wrappers)):
                check_entry_point("data.env", env_id, entry_point)
        # Gymnasium's passive checker is off: it costs time at every step, and the tests run the full one.
        return gym.make(env_id, disable_env_checker=True, **kwargs)
    except gym.error.Error as error:
        if isinstance(error, gym.error.UnregisteredEnv) or "Malformed environment ID" in str(error):
            raise unknown_name("env_id", env_id, list_envs()) from error
        raise
    except TypeError as error:
        wrong = re.search(r"(?:unexpected|multiple values for) keyword argument '(\w+)'", str(error))
        if wrong and wrong[1] in kwargs:
            raise unknown_argument("data.env_options", wrong[1], env_id, _taken(env_id)) from error
        raise


def _specs(env_id: str) -> list[EnvSpec]:
    """What gymnasium may make of an id, whose module it imports; an id may have no version."""
    module, colon, name = env_id.partition(":")
    wanted = name if colon else env_id
    if colon:
        import_module(module)
    return [spec for spec in gym.registry.values() if wanted in (spec.id, spec.id.rpartition("-v")[0])]


_register()
