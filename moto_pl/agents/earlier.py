"""Checkpoints of earlier versions: what is a setting now, and was how things were done then."""

from __future__ import annotations

from typing import Any

_SHARED = {"pixels.share_encoder": True, "pixels.init": "glorot", "td.actor_lr": "constant", "td.target_value": "min"}
_NORMAL = {"normal.std": "learned", "normal.mean": "tanh"}
_MODEL = {
    "world_model.latent_std": "sigmoid2",
    "world_model.conv_activation": "elu",
    "world_model.decoder_mlp_layers": None,
}
#: What agents had before there was a choice, by class. LOMPO and COMBO are no longer what they were: theirs is refused.
_BEFORE: dict[str, dict[str, Any]] = {
    "moto_pl.agents.moto.MOTO": _MODEL,
    "moto_pl.agents.dreamer.DreamerV2": _MODEL,
    "moto_pl.agents.bc.BC": {**_SHARED, **_NORMAL, "pixels.share_encoder": None, "td.target_value": None},
    "moto_pl.agents.iql.IQL": {**_SHARED, **_NORMAL},
    "moto_pl.agents.sac.SAC": {**_SHARED, "actor_value": "min"},
    "moto_pl.agents.cql.CQL": {**_SHARED, "actor_value": "min", "conservatism.next_state": True},
}


def complete(agent: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its agent, with the settings that it does not know yet; ``agent`` is not changed."""
    settings = dict(agent["init_args"])
    for name, value in _BEFORE.get(agent["class_path"], {}).items():
        argument, _, field = name.partition(".")
        if field:
            settings[argument] = {field: value, **settings.get(argument, {})}
        else:
            settings.setdefault(argument, value)
    return {**agent, "init_args": settings}
