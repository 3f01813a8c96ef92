"""What a checkpoint says of its agent, and whether it is the one that a run trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation, ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.reading import flatten

from .earlier import complete

Parsed = TypeVar("Parsed")


def plain(value: Any) -> Any:
    """Dataclasses, tuples and dicts as dicts, lists and scalars, which ``torch.load(weights_only=True)`` accepts."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def observation_of(description: dict[str, Any]) -> Observation:
    """What the agent of a checkpoint sees; in those of earlier versions the image alone.

    Raises:
        SettingError: it is not what an agent says of that.
    """
    found = description.get("observation")
    return Observation() if found is None else _parsed(Observation.from_plain, found)


def scale_of(description: dict[str, Any]) -> ActionScale | None:
    """What the actions of a checkpoint's agent stand for; None: themselves, as in those of earlier versions.

    Raises:
        SettingError: it is not what an agent says of that.
    """
    return _parsed(ActionScale.from_plain, description.get("action_scale"))


def _parsed(from_plain: Callable[[Any], Parsed], found: Any) -> Parsed:
    try:
        return from_plain(found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SettingError("ckpt_path", f"a checkpoint with {error}", "Give a whole checkpoint.") from None


#: Settings of an agent that may change on resume: they say how it is computed, not what the weights mean.
FREE_SETTINGS = frozenset({"ops"})
#: Before the networks are made, these match whatever a checkpoint's run found out.
UNDECIDED = (("init_args.world_model.discount_head", "auto"),)


def check_same_agent(found: dict[str, Any] | None, ours: dict[str, Any]) -> None:
    """Raises a :class:`SettingError` where a checkpoint's agent is not ours, listing each setting that differs."""
    if found is None:
        raise SettingError("ckpt_path", "a checkpoint without an agent", "Give a checkpoint that moto fit wrote.")
    if found["class_path"] != ours["class_path"]:
        raise SettingError(
            "ckpt_path",
            f"a checkpoint of {found['class_path']}",
            f"This run trains {ours['class_path']}: use another trainer.default_root_dir.",
        )
    saved, present = observation_of(found), observation_of(ours)
    if saved.layout != present.layout:
        raise _other_observation(str(present), saved)
    before, after = (flatten({**part, "observation": None}) for part in (complete(found), ours))
    changed = [
        f"{name.removeprefix('init_args.')}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and name.split(".")[1:2] not in [[free] for free in FREE_SETTINGS]
        and (name, after.get(name)) not in UNDECIDED
    ]
    if changed:
        raise SettingError(
            "model",
            "settings other than the checkpoint's (" + "; ".join(changed) + ")",
            "Restore them, or start a new run in another trainer.default_root_dir.",
        )


def check_same_names(found: dict[str, Any], wanted: ObservationConfig, image_size: int) -> None:
    """Raises a :class:`SettingError` where a checkpoint's agent saw other observations than a run asks for."""
    saved = observation_of(found)
    if saved.config != wanted:
        raise _other_observation(", ".join(wanted.names), saved)
    if saved.image_size != image_size:
        fix = "Restore it, or start a new run in another trainer.default_root_dir."
        found_sizes = f"{image_size}, where the checkpoint's agent sees {saved.image_size}x{saved.image_size}"
        raise SettingError("data.image_size", found_sizes, fix)


def _other_observation(present: str, saved: Observation) -> SettingError:
    fix = "Restore data.observation, or start a new run in another trainer.default_root_dir."
    return SettingError("data.observation", f"{present}, where the checkpoint's agent sees {saved}", fix)
