"""Checkpoints of earlier versions: what is a setting now, and was how things were done then."""

from __future__ import annotations

from typing import Any

_SHARED = {"pixels.share_encoder": True, "pixels.init": "glorot", "td.actor_lr": "constant", "td.target_value": "min"}
_NORMAL = {"normal.std": "learned", "normal.mean": "tanh"}
#: The model-free agents' settings before there were presets, by class.
_BEFORE_PRESETS: dict[str, dict[str, Any]] = {
    "moto_pl.agents.bc.BC": {**_SHARED, **_NORMAL, "pixels.share_encoder": None, "td.target_value": None},
    "moto_pl.agents.iql.IQL": {**_SHARED, **_NORMAL},
    "moto_pl.agents.sac.SAC": {**_SHARED, "actor_value": "min"},
    "moto_pl.agents.cql.CQL": {**_SHARED, "actor_value": "min", "conservatism.next_state": True},
}


def complete(agent: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its agent, with the settings that it does not know yet; ``agent`` is not changed."""
    settings = dict(agent["init_args"])
    for name, value in _BEFORE_PRESETS.get(agent["class_path"], {}).items():
        argument, _, field = name.partition(".")
        if field:
            settings[argument] = {field: value, **settings.get(argument, {})}
        else:
            settings.setdefault(argument, value)
    return {**agent, "init_args": settings}
