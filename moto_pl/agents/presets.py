"""Named presets of the model-free agents: settings that are left null take a preset's values, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from moto_pl.errors import SettingError

Preset = Literal["paper", "jaxrl2"]
#: A preset's value of each setting that differs between presets, by the setting's name below ``model.init_args``.
Values = Mapping[str, Any]


def resolve(settings: dict[str, Any], preset: Preset, presets: Mapping[Preset, Values]) -> dict[str, Any]:
    """Settings in which a preset's values stand where there was None.

    Args:
        settings: an agent's arguments by name: plain values, and dataclasses of them, which are not changed.
        preset: which of ``presets``.
        presets: the agent's. A name has at most one dot: ``td.lr`` is field ``lr`` of the argument ``td``.

    Returns:
        The same names; what was given stays.
    """
    if preset not in presets:
        raise SettingError("preset", preset, f"Use one of {', '.join(get_args(Preset))}.")
    resolved = dict(settings)
    for name, value in presets[preset].items():
        if setting(resolved, name) is not None:
            continue
        argument, _, field = name.partition(".")
        resolved[argument] = replace(resolved[argument], **{field: value}) if field else value
    return resolved


def setting(settings: dict[str, Any], name: str) -> Any:
    """The value of ``argument`` or ``argument.field``."""
    argument, _, field = name.partition(".")
    return getattr(settings[argument], field) if field else settings[argument]


def describe(settings: dict[str, Any], preset: Preset, presets: Mapping[Preset, Values]) -> str:
    """The preset, the value of each of its settings, and which of them were set by themselves to another."""
    said = []
    for name, usual in presets[preset].items():
        value = setting(settings, name)
        said.append(f"{name} {value}" + ("" if value == usual else f" (set; the preset's is {usual})"))
    return f"preset {preset}: {', '.join(said)}"
