"""Checkpoints and configurations of earlier versions: what was no setting yet, and what is none any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moto_pl.errors import SettingError

_PIXELS = {"pixels.vector_layers": 2, "pixels.vector_units": 64}
_VECTORS = {"world_model.vector_layers": 2, "world_model.vector_units": 128, "world_model.vector_scale": 1.0}
_SHARED = {
    **_PIXELS,
    "pixels.share_encoder": True,
    "pixels.init": "glorot",
    "td.actor_lr": "constant",
    "td.target_value": "min",
}
_NORMAL = {"normal.std": "learned", "normal.mean": "tanh"}
_MODEL = {
    **_VECTORS,
    "world_model.latent_std": "sigmoid2",
    "world_model.conv_activation": "elu",
    "world_model.decoder_mlp_layers": None,
    "world_model.open_loop_steps": 0,
    "world_model.open_loop_rows": 64,
}
_MOTO = {
    "behaviour.real_return": "imagined",
    "behaviour.value_scale": 1.0,
    "behaviour.value_episodes": [0, 0],
    "behaviour.clone_least": 1,
    "behaviour.greedy": "mode",
    "behaviour.disagreement_unit": "one",
}
#: What agents had before there was a choice, by class. LOMPO and COMBO are no longer what they were: theirs is refused.
_BEFORE: dict[str, dict[str, Any]] = {
    "moto_pl.agents.moto.MOTO": {**_MODEL, **_MOTO},
    "moto_pl.agents.dreamer.DreamerV2": {**_MODEL, "behaviour.greedy": "mode"},
    "moto_pl.agents.lompo.LOMPO": _VECTORS,
    "moto_pl.agents.combo.COMBO": _VECTORS,
    "moto_pl.agents.bc.BC": {**_SHARED, **_NORMAL, "pixels.share_encoder": None, "td.target_value": None},
    "moto_pl.agents.iql.IQL": {**_SHARED, **_NORMAL},
    "moto_pl.agents.sac.SAC": {**_SHARED, "actor_value": "min"},
    "moto_pl.agents.cql.CQL": {**_SHARED, "actor_value": "min", "conservatism.next_state": True},
}
#: Settings of MOTO's that DreamerV2 had too, below ``behaviour``: at one value alone, or without effect.
_NOT_DREAMERS = (
    *("critic", "critics", "actor_value", "disagreement", "disagreement_scale"),
    *("clone_scale", "clone_filter", "clone_top", "clone_limit"),
)


def complete(agent: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its agent, in today's settings; ``agent`` is not changed."""
    settings = dict(agent["init_args"])
    if agent["class_path"].endswith(".DreamerV2"):
        behaviour = settings["behaviour"].items()
        settings["behaviour"] = {name: value for name, value in behaviour if name not in _NOT_DREAMERS}
    for name, value in _BEFORE.get(agent["class_path"], {}).items():
        argument, _, field = name.partition(".")
        if field:
            settings[argument] = {field: value, **settings.get(argument, {})}
        else:
            settings.setdefault(argument, value)
    return {**agent, "init_args": settings}


def check_settings(config: Any, path: Path) -> None:
    """Refuses a configuration whose agent does not have its settings any more, such as an earlier run's config.yaml.

    Args:
        config: what the file holds.
        path: the file.

    Raises:
        SettingError: where DreamerV2 has settings that are MOTO's.
    """
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or str(model.get("class_path")).rsplit(".", 1)[-1] != "DreamerV2":
        return
    settings = model.get("init_args")
    behaviour = settings.get("behaviour") if isinstance(settings, dict) else None
    wrong = [name for name in _NOT_DREAMERS if name in behaviour] if isinstance(behaviour, dict) else []
    if wrong:
        fix = f"Delete {', '.join(wrong)}, which DreamerV2 does not have; or train moto_pl.agents.MOTO."
        raise SettingError("model.init_args.behaviour", f"{', '.join(wrong)} in {path}", fix)
