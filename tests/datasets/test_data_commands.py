"""``moto data``: each dataset's own options, and the command lines of earlier versions."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moto_pl import cli
from moto_pl.datasets import commands
from moto_pl.datasets.builders import builder
from moto_pl.datasets.kitchen.demonstrations import build_kitchen
from moto_pl.datasets.minari_io import buildable_names

NAMES = ("reach", "metaworld/door-open", "kitchen/mixed", "kitchen/partial", "kitchen/replay")


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.run(["data", "build", name, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", NAMES)
def test_help_is_the_builders_signature(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, text = builder(name), help_of(name, capsys)
    parser, _ = commands.Build().named(name, "moto data build")
    for function in (found.environment.__init__, found.function):  # type: ignore[misc]
        for parameter in inspect.signature(function).parameters.values():
            settled = parameter.name in ("self", "objects", "episode_steps", "render_mode", *found.fixed)
            if settled or parameter.kind is parameter.VAR_KEYWORD:
                assert f"--{parameter.name} " not in text
                continue
            assert f"--{parameter.name}" in text, parameter.name
            if function is found.function:
                assert parser.get_default(parameter.name) == parameter.default
    assert text.startswith(f"usage: moto data build {name}")


def test_the_kitchen_has_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(build_kitchen).parameters.items()}
    text = help_of("kitchen/mixed", capsys)
    for option in ("episodes", "steps", "noise"):
        after = text.split(f"--{option} {option.upper()} ")[-1]
        assert f"default: {defaults[option]})" in after.split("--")[0], option
    assert "MetaWorld" not in text
    assert "complete" in help_of("kitchen/replay", capsys)


def test_every_dataset_that_can_be_built_has_help() -> None:
    for name in buildable_names():
        parser, _ = commands.Build().named(name, "moto data build")
        assert {"episodes", "seed", "workers", "image_size", "noise", "output", "overwrite"} <= parser.hints.keys()


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the builders are asked for."""
    seen: list[dict[str, Any]] = []
    episode = SimpleNamespace(length=1, total_reward=1.0, succeeded=True)

    def note(name: str, **options: Any) -> Any:
        seen.append({"name": name, **options})
        return SimpleNamespace(path=Path("x"), recording=SimpleNamespace(episodes=[episode], retries=0))

    monkeypatch.setattr(commands, "build", note)
    return seen


@pytest.mark.parametrize("spelling", ["-", "_"])
@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("metaworld/door-open --camera corner2 --action-repeat 1 --paper-reset", ("corner2", 1, True)),
        ("--episodes 3 --overwrite metaworld/door-open --render-quality full --image-size 32", (3, True, "full", 32)),
        ("kitchen/mixed --task-share 0.5 --keep-failures --camera topview", (0.5, True, "topview")),
        (
            "kitchen/replay --source reach --least 2 --task complete --noise 0 --seed 4",
            ("reach", 2, "complete", 0.0, 4),
        ),
        ("reach --output some-where/x --steps 9 --workers 2", ("some-where/x", 9, 2)),
    ],
)
def test_earlier_command_lines(line: str, asked: tuple[Any, ...], spelling: str, built: list[dict[str, Any]]) -> None:
    words = [word[:2] + word[2:].replace("-", spelling) if word.startswith("--") else word for word in line.split()]
    assert cli.run(["data", "build", *words]) == 0
    (options,) = built
    names = [word[2:].replace("-", "_") for word in line.split() if word.startswith("--")]
    assert tuple(options[name] for name in names) == asked
    assert options["name"] in line


def test_defaults_of_the_environment_are_left_to_it(built: list[dict[str, Any]]) -> None:
    cli.run(["data", "build", "kitchen/mixed"])
    cli.run(["data", "build", "kitchen/mixed", "--joint_noise", "0", "--state"])
    parameters = inspect.signature(build_kitchen).parameters
    of_builder = {name: p.default for name, p in parameters.items() if name not in ("kind", "env_options")}
    assert built == [
        {"name": "kitchen/mixed", **of_builder},
        {"name": "kitchen/mixed", **of_builder, "joint_noise": 0.0, "state": True},
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kitchen/mixed --least 3", "--least: found an unknown option. moto data build kitchen/mixed has --episodes"),
        ("reach --camera corner2", "--camera: found an unknown option."),
        ("metaworld/door-open --task-share 1", "--task_share: found an unknown option."),
        ("kitchen/mixed --objects kettle", "--objects: found an unknown option."),
        ("kitchen/mixed --episodes ten", "--episodes: found 'ten'. Give a whole number."),
        ("reach extra", "extra: found one argument too many"),
        ("", "name: found nothing"),
        ("--episodes 3", "name: found nothing. Give name. See moto data build --help."),
        ("kitchn/mixed", "Did you mean kitchen/mixed"),
    ],
)
def test_a_mistake_is_one_line_and_builds_nothing(
    line: str, said: str, built: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "build", *line.split()]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert not built
