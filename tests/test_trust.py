"""Who is trusted to be code: what a file may name, what a user types, and what workers know of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import lightning.pytorch
import pytest
import yaml
from jsonargparse import ArgumentParser

from moto_pl.cli import main
from moto_pl.envs import make
from moto_pl.errors import SettingError
from moto_pl.trust import TRUSTED, VARIABLE, gate, split_trust

CONFIGS = Path(__file__).parents[1] / "configs"

MARKER = """import pathlib
pathlib.Path({path!r}).touch()
import gymnasium as gym
import lightning
class Anything(lightning.pytorch.callbacks.Callback):
    pass
"""


@pytest.mark.parametrize(
    "content",
    [
        {"trainer": {"callbacks": [{"class_path": "stranger.Anything"}]}},
        {"trainer": {"callbacks": "stranger.Anything"}},
        {"model": "stranger.Anything"},
        {"model": {"class_path": "stranger.Anything"}},
        {"data": {"env": "stranger:Env-v0"}},
        {"data": {"env": "stranger.:Env-v0"}},
        {"trainer": "section.yaml"},
        {"trainer": "section.txt"},
        {"trainer": "section.YAML"},
        {"extends": ["base.yaml"]},
    ],
)
def test_a_file_cannot_name_code_of_others(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(MARKER.format(path=str(marker)))
    section = {"callbacks": [{"class_path": "stranger.Anything"}]}
    for suffix in ("yaml", "txt", "YAML"):
        (tmp_path / f"section.{suffix}").write_text(yaml.safe_dump(section))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"trainer": section}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    assert main(["fit", "--config", str(CONFIGS / "debug.yaml"), "--config", str(tmp_path / "config.yaml")]) == 2
    assert "--trust stranger" in capsys.readouterr().err
    assert not marker.exists() and "stranger" not in sys.modules


def test_trust_allows_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(MARKER.format(path=str(marker)))
    config = {"trainer": {"callbacks": [{"class_path": "stranger.Anything"}]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.syspath_prepend(tmp_path)
    args = ["fit", "--config", str(tmp_path / "config.yaml")]
    for trust in (["--trust", "stranger"], ["--trust=stranger"]):
        packages, others = split_trust([*args, *trust])
        assert others == args and packages == (*TRUSTED, "stranger")
    with pytest.raises(SettingError, match="--trust"):
        split_trust([*args, "--trust"])
    debug = ["--config", str(CONFIGS / "debug.yaml")]
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *debug, *args[1:], "--trust", "stranger", "--print_config"])
    assert marker.exists()


def test_what_is_typed_is_the_users_own_and_what_a_file_says_is_not(tmp_path: Path) -> None:
    nested = tmp_path / "nested.txt"
    nested.touch()
    assert split_trust(["fit", "--data.env", "mine:A-v0", "--data", str(nested)])[0] == (*TRUSTED, "mine")
    assert split_trust(["fit", "--config", "other.yaml", "--x=[{class_path: own.A}]"])[0] == (*TRUSTED, "own")


def test_what_a_command_starts_was_not_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign's arguments come from its file."""
    with gate((*TRUSTED, "given")):
        assert split_trust(["fit", "--data.env", "mine:A-v0", "--trust", "more"])[0] == (*TRUSTED, "given", "more")
        with gate((*TRUSTED, "given", "more")):
            pass
        assert split_trust(["fit", "mine.A"])[0] == (*TRUSTED, "given")
    assert VARIABLE not in os.environ


@pytest.mark.parametrize(
    "function", ["moto_pl.files.write_whole", "lightning.fabric.utilities.cloud_io.get_filesystem"]
)
def test_no_setting_names_a_function(function: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = {"class_path": "lightning.pytorch.callbacks.BackboneFinetuning", "init_args": {"lambda_func": function}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    assert main(["fit", "--config", str(CONFIGS / "debug.yaml"), "--config", str(tmp_path / "config.yaml")]) == 2
    assert f"class_path: found {function}" in capsys.readouterr().err


def test_what_looks_like_a_class_where_anything_may_stand_is_not_made() -> None:
    """Such as among an environment's arguments."""
    given = {"class_path": "lightning.pytorch.callbacks.RichModelSummary"}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=Any)
    with gate(TRUSTED):
        made = parser.instantiate(parser.parse_object({"x": given})).x
    assert not isinstance(made, lightning.pytorch.Callback) and made["class_path"] == given["class_path"]


def test_a_registered_environment_of_others_needs_trust() -> None:
    gym.register("robust/Stranger-v0", entry_point="stranger:Env")
    try:
        for env_id in ("robust/Stranger-v0", "robust/Stranger"):
            with gate(TRUSTED), pytest.raises(SettingError, match="made by stranger:Env.*--trust stranger"):
                make(env_id)
    finally:
        gym.registry.pop("robust/Stranger-v0")
    with gate(TRUSTED):
        make("CartPole-v1").close()
        make("moto_pl:moto_pl/Reach-v0").close()


@pytest.mark.parametrize(
    "name", ["lightning.pytorch.callbacks.LambdaCallback", "LambdaCallback", "moto_pl.training.os.abort"]
)
def test_no_file_may_name_what_calls_anything(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = {"class_path": name, "init_args": {"setup": "moto_pl.training.os.abort"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    assert main(["fit", "--config", str(CONFIGS / "debug.yaml"), "--config", str(tmp_path / "config.yaml")]) == 2
    assert "class_path" in capsys.readouterr().err


def test_workers_know_who_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(MARKER.format(path=str(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    code = "import moto_pl.envs; moto_pl.envs.make('stranger:Env-v0')"
    with gate(TRUSTED):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--trust stranger" in done.stderr and not marker.exists()
