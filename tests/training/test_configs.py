"""Configurations: a task, a size and an agent, what each file sets, and how words become settings."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from jsonargparse import ArgumentParser

from moto_pl import agents
from moto_pl.agents import Agent
from moto_pl.campaigns.check import Checker
from moto_pl.cli import main
from moto_pl.envs import PAPER_TASKS
from moto_pl.errors import SettingError
from moto_pl.training.configs import config_names, config_path, expand_configs, lineage, merge, settings_of
from moto_pl.training.datamodule import OfflineToOnlineDataModule

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
AGENTS, SIZES = sorted(config_names("agents")), sorted(config_names("sizes"))
#: Those that name an environment; what tasks share has files of its own.
TASKS = [name for name in sorted(config_names("tasks")) if name not in ("metaworld", "kitchen")]
FILES = sorted([*CONFIGS.rglob("*.yaml"), *(ROOT / "benchmarks/suite").glob("*.yaml")])


@cache
def checker() -> Checker:
    return Checker()


def config(name: str) -> list[str]:
    return ["--config", str(config_path(name))]


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """What ``moto fit --print_config`` says."""
    with pytest.raises(SystemExit) as stop:
        main(["fit", *args, "--print_config"])
    assert stop.value.code == 0
    content: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return content


def parsed(*args: str) -> tuple[dict[str, Any], Any]:
    """The agent's description and the data module that ``moto fit`` makes of its arguments."""
    parser = checker()._cli.parser
    made = parser.instantiate_classes(parser.parse_args(expand_configs(["fit", *args])))["fit"]
    return made["model"].description(), made["data"]


# What comes along.


def test_the_tree() -> None:
    assert {name.removeprefix("metaworld/").replace("_", "-") for name in TASKS if "metaworld/" in name} == set(
        PAPER_TASKS
    )
    assert {"kitchen/mixed", "kitchen/partial", "reach"} <= set(TASKS) and len(TASKS) == 13
    assert SIZES == ["cpu", "debug", "paper", "small"]
    ours = {name for name in agents.__all__ if isinstance(getattr(agents, name), type)} - {"Agent", "BatchPart"}
    assert {settings_of("--agent", agent)["model"]["class_path"].split(".")[-1] for agent in AGENTS} == ours
    assert config_path("debug").name == "debug.yaml"
    with pytest.raises(SettingError, match="nothing"):
        config_path("nothing")


@cache
def agent_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Agent, "model")
    return parser


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", ["metaworld/drawer_open", "kitchen/mixed", "kitchen/partial", "reach"])
def test_every_combination_starts(task: str, size: str) -> None:
    """A task, a size and an agent make an agent and a data module, whatever they are."""
    for agent in AGENTS:
        settings = settings_of(*config(f"tasks/{task}"), "--size", size, "--agent", agent)
        made = agent_parser().instantiate(agent_parser().parse_object({"model": settings["model"]})).model
        assert made.parts()
        OfflineToOnlineDataModule(**settings["data"])


def test_metaworlds_tasks_differ_in_their_names_alone() -> None:
    whole = [settings_of(*config(f"tasks/{task}"), "--size", "cpu") for task in TASKS if "metaworld/" in task]
    for settings in whole:
        del settings["data"]["env"], settings["data"]["dataset"], settings["trainer"]["default_root_dir"]
    assert all(settings == whole[0] for settings in whole) and len(whole) == 10


@pytest.mark.parametrize("size", SIZES)
def test_words_are_what_the_parser_takes(size: str) -> None:
    for index, agent in enumerate(AGENTS):
        task = TASKS[index * len(TASKS) // len(AGENTS)]
        found, data = parsed(*config(f"tasks/{task}"), "--size", size, "--agent", agent)
        assert found["class_path"].split(".")[-2] == agent
        assert data.collecting.env == settings_of(*config(f"tasks/{task}"))["data"]["env"]
        assert (data.schedule.pretrain == "model_first") == (agent in ("lompo", "combo"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "agent"), [*(("debug", agent) for agent in AGENTS), ("cpu", "moto"), ("cpu", "iql"), ("small", "bc")]
)
def test_a_step_of_each(size: str, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths of a size are cut where the reach's 31 rows are fewer."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    arguments = [*config("tasks/reach"), "--size", size, "--agent", agent, "--trainer.fast_dev_run", "true"]
    here = ("--trainer.accelerator", "cpu", "--data.env_workers", "0", "--data.num_envs", "1")
    assert main(["fit", *arguments, *here, "--data.value_steps", "0"]) == 0


def test_the_papers_settings() -> None:
    for task in TASKS[:-1]:
        found, data = parsed(*config(f"tasks/{task}"))
        kitchen = task.startswith("kitchen/")
        schedule = data.schedule
        steps = (schedule.offline_steps, schedule.online_steps, schedule.updates_per_episode)
        assert steps == ((10_000, 66_300, 50) if kitchen else (1000, 20_000, 20))
        usual = agents.MOTO().description()
        changed = {"clone_filter": "progress"} if kitchen else {"clone_filter": "success", "clone_limit": 0.9}
        usual["init_args"]["behaviour"] |= changed
        assert found == usual
        name = task.split("/")[1].replace("_", "-")
        assert data.dataset == task.replace("_", "-")
        assert data.collecting.env == (f"moto_pl/Kitchen-{name}-v0" if kitchen else f"moto_pl/MetaWorld-{name}-v0")


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("task", ["metaworld/drawer_open", "kitchen/mixed"])
def test_another_agent_on_a_tasks_data(task: str, agent: str) -> None:
    """At the paper's size an agent's word is its class and no more, but for the two whose model learns first."""
    with_word, data = parsed(*config(f"tasks/{task}"), "--agent", agent)
    with_class, usual = parsed(
        *config(f"tasks/{task}"), "--model", settings_of("--agent", agent)["model"]["class_path"]
    )
    assert with_word == with_class
    if agent in ("lompo", "combo"):  # whose replay is never encoded again
        assert (usual.schedule.pretrain, data.schedule.pretrain) == ("joint", "model_first")
        assert (data.schedule.model_steps, data.schedule.offline_round_steps) == (25_000, 200)
    else:
        assert data.schedule == usual.schedule


@pytest.mark.parametrize("ablation", ["no_penalty", "no_cloning", "cloning_only", "single_model", "dv2_sizes"])
@pytest.mark.parametrize("task", ["tasks/metaworld/drawer_open", "tasks/kitchen/partial", "demo"])
def test_an_ablation_changes_what_it_says(task: str, ablation: str) -> None:
    whole, ablated = (parsed(*config(task), *more)[0] for more in ([], config(f"ablations/{ablation}")))
    changes = settings_of(*config(f"ablations/{ablation}"))["model"]["init_args"]
    for group, values in changes.items():
        assert all(whole["init_args"][group][name] != value for name, value in values.items() if name != "mlp_layers")
        whole["init_args"][group] |= {name: value for name, value in values.items()}
    assert whole == ablated


# Defaults stand in the code alone.

#: Settings that equal a default and are needed all the same, by file.
NEEDED = {
    **{(f"benchmarks/suite/{name}.yaml", "data.collect_mode"): "the protocol's is mode" for name in ("cql", "sac")},
    ("configs/sizes/cpu.yaml", "data.offline_steps"): "the kitchen's, where MetaWorld takes fewer",
}


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and content and name != "data.build_options":
        for key, value in content.items():
            yield from leaves(value, f"{name}.{key}" if name else key)
    else:
        yield name, content


def agent_default(agent: str, name: str) -> Any:
    """The default of ``behaviour.horizon``, say, as the class of an agent has it."""
    kind: Any = getattr(agents, settings_of("--agent", agent)["model"]["class_path"].split(".")[-1])
    argument, _, field = name.partition(".")
    hints = get_type_hints(kind.__init__)
    for part in get_args(hints[argument]) or (hints[argument],):
        if field and dataclasses.is_dataclass(part):
            (found,) = (one for one in dataclasses.fields(part) if one.name == field)
            return found.default
    return kind.__init__.__kwdefaults__ and kind.__init__.__kwdefaults__.get(argument)


def repeated(path: Path) -> Iterator[str]:
    """Settings of a file that the code has anyway."""
    content = yaml.safe_load(path.read_text())
    defaults = checker()._cli._parser("fit").get_defaults()
    ours = content.get("agent", "moto")
    if path.parent.name == "agents":
        ours = path.stem
    parts = [({key: value for key, value in content.items() if key not in ("for", "extends", "size", "agent")}, ours)]
    parts += [(section, words) for words, section in content.get("for", {}).items()]
    for part, words in parts:
        chosen = [word for word in words.split() if word in AGENTS] or ["moto"]
        for name, value in leaves(part):
            if name == "model.class_path":
                continue
            if name.startswith("model.init_args."):
                usual = [agent_default(agent, name.removeprefix("model.init_args.")) for agent in chosen]
            else:
                usual = [defaults.get(name)]
            given = tuple(value) if isinstance(value, list) else value
            if all(given == one for one in usual):
                yield name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_setting_repeats_a_default(path: Path) -> None:
    file = path.relative_to(ROOT).as_posix()
    assert sorted(repeated(path)) == sorted(name for other, name in NEEDED if other == file)


def test_a_repeated_default_is_found(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    content = {
        "checkpoint_every": 1,
        "trainer": {"accelerator": "auto", "max_time": "00:01:00:00"},
        "data": {"num_envs": 1, "online_steps": 7},
        "model": {"init_args": {"world_model": {"deter": 1024, "stoch": 3, "encoder_channels": [48, 96, 192, 384]}}},
        "for": {"bc iql": {"model": {"init_args": {"td": {"lr": 3e-4, "clip": 1.0}}}}},
    }
    path.write_text(yaml.safe_dump(content))
    assert sorted(repeated(path)) == [
        *("checkpoint_every", "data.num_envs", "model.init_args.td.lr", "model.init_args.world_model.deter"),
        *("model.init_args.world_model.encoder_channels", "trainer.accelerator"),
    ]


# Words.


def test_words_stand_anywhere() -> None:
    words = [config("tasks/kitchen/mixed"), ["--size", "cpu"], ["--agent=iql"], ["--data.num_envs", "3"]]
    found = []
    for order in itertools.permutations(words):
        settings, data = parsed(*(word for part in order for word in part)) if not found else (None, None)
        expanded = expand_configs(["fit", *(word for part in order for word in part)])
        if not found:
            assert (
                data.collecting.num_envs == 3
                and data.schedule.online_steps == 480
                and settings["init_args"]["td"]["lr"] == 1e-3
            )
        # Settings on the command line stay where they were among configurations, as ever.
        found.append([word for word in expanded if word not in ("--data.num_envs", "3", "--size=cpu", "--agent=iql")])
    assert all(one == found[0] for one in found) and len(found) == 24


def test_files_and_settings_override_words(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: {config_path('tasks/reach')}\nsize: cpu\ndata: {{online_steps: 7}}\n")
    for order in (["--size", "small", "--config", str(mine)], ["--config", str(mine), "--size", "small"]):
        settings = settings_of(*order)
        assert settings["data"]["online_steps"] == 7  # the file's own
        assert "num_envs" not in settings["data"]  # cpu's, whose place small has taken
        assert settings["model"]["init_args"]["world_model"]["deter"] == 256
    found, data = parsed("--config", str(mine), "--data.online_steps", "9", "--model.init_args.world_model.deter", "64")
    assert data.schedule.online_steps == 9 and data.collecting.num_envs == 2
    assert found["init_args"]["world_model"]["deter"] == 64 and found["init_args"]["world_model"]["hidden"] == 128


def test_the_last_task_is_the_task() -> None:
    settings = settings_of(*config("demo"), *config("tasks/kitchen/mixed"), "--size", "cpu")
    assert settings["data"]["updates_per_episode"] == 8 and settings["data"]["env"] == "moto_pl/Kitchen-mixed-v0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "huge"], r"--size: found huge\. Give one of cpu, debug, paper, small\."),
        (["--agent", "ppo"], r"--agent: found ppo\. Give one of bc, combo, cql, dreamer, iql, lompo, moto, sac\."),
        (["--size", "cpu", "--size=debug"], r"--size: found cpu, then debug\. Give one\."),
        (["--agent=bc", "--agent", "bc"], r"--agent: found bc, then bc\. Give one\."),
        (["--size"], r"--size: found nothing"),
        (["--agent", "bc", "--model", "moto_pl.agents.IQL"], r"--agent: found bc, beside the class moto_pl.agents.IQL"),
        (
            ["--size", "cpu", "--model=moto_pl.agents.IQL"],
            r"--size: found cpu, beside .*IQL\. Give --agent iql in place",
        ),
        (["--config", "{tmp}/size.yaml"], r"size: found \['cpu'\]\. Give one of"),
        (["--config", "{tmp}/for.yaml"], r"for: found kitchn in .*for.yaml\. Name some of bc, "),
        (["--config", "{tmp}/list.yaml"], r"for: found \[1\] in .*list.yaml\. Give agents or tasks"),
        (
            ["--config", "{tmp}/whole.yaml", "--size", "paper"],
            r"--size: found paper\. It would change nothing: .*whole",
        ),
        (["--config", "{tmp}/class.yaml", "--agent", "bc"], r"--agent: found bc, beside the class moto_pl.agents.MOTO"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "size.yaml").write_text("size: [cpu]\n")
    (tmp_path / "for.yaml").write_text("for: {moto kitchn: {data: {num_envs: 2}}}\n")
    (tmp_path / "list.yaml").write_text("for: [1]\n")
    (tmp_path / "whole.yaml").write_text("data: {eval_every: 5}\n")
    (tmp_path / "class.yaml").write_text("model: {class_path: moto_pl.agents.MOTO}\n")
    first = config("tasks/metaworld/hammer")
    assert main(["fit", *first, *(word.format(tmp=tmp_path) for word in arguments)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, error), error


def test_a_class_of_ones_own_keeps_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    found, _ = parsed(*config("demo"), "--model", "configs_agent.Mine")
    assert found["class_path"] == "configs_agent.Mine" and found["init_args"]["world_model"]["deter"] == 128


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_words_are_in_the_help_and_taken(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--size SIZE" in text and ", ".join(SIZES) in text and ", ".join(AGENTS) in text
    with pytest.raises(SystemExit):
        main([verb, *config("tasks/kitchen/partial"), "--size", "cpu", "--agent", "bc", "--print_config"])
    content = yaml.safe_load(capsys.readouterr().out)
    assert (content["size"], content["agent"], content["data"]["online_steps"]) == ("cpu", "bc", 480)


def test_what_is_printed_can_be_given_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So can a run's ``config.yaml``, which is the same."""
    arguments = ["--model.init_args.behaviour.clone_limit", "0.5", "--data.online_steps", "30"]
    first = printed(capsys, *config("demo"), *arguments)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first))
    assert first["model"]["init_args"]["behaviour"]["clone_limit"] == 0.5 and first["size"] == "cpu"
    assert printed(capsys, "--config", str(tmp_path / "config.yaml")) == first


def test_lengths_of_a_size_are_not_given() -> None:
    cli = checker()._cli
    for arguments, lengths in (
        (["--size", "cpu"], set()),
        (["--size", "cpu", "--model.init_args.batch.agent_length", "32"], {"batch.agent_length"}),
        (config("ablations/no_cloning"), set()),
    ):
        cli._args = ["fit", *config("tasks/reach"), *arguments]
        given = type(cli).given_settings(cli)
        assert {name for name in given if "length" in name} == lengths
        assert ("behaviour.clone_scale" in given) == (arguments == config("ablations/no_cloning"))


# Extending.


def test_extends_puts_the_base_first(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: 1\n")
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\nb: 1e-05\n")
    (tmp_path / "leaf.yaml").write_text("extends: [middle.yaml]\na: 2\n")
    args = expand_configs(["fit", "--config", str(tmp_path / "leaf.yaml"), "--x", "1"])
    base = str(tmp_path / "base.yaml")
    assert args == ["fit", "--config", base, "--config", "{b: 1e-05}", "--config", "{a: 2}", "--x", "1"]
    assert expand_configs([f"--config={base}"]) == ["--config", base]
    assert settings_of("--config", str(tmp_path / "leaf.yaml"))["a"] == 2


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(SettingError, match="circle"):
        expand_configs(["--config", str((tmp_path / "a.yaml").resolve())])


def test_a_section_of_its_own_lies_beside_the_file_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.yaml").write_text("env: moto_pl/Reach-v0\ndataset: reach\nnum_envs: 5\n")
    (tmp_path / "mine.yaml").write_text("agent: moto\ndata: data.yaml\n")
    assert printed(capsys, "--config", str(tmp_path / "mine.yaml"))["data"]["num_envs"] == 5


def test_an_unknown_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("datta: {env: x}\n", f"extends: {config_path('debug')}\ndatta: {{env: x}}\n"):
        (tmp_path / "mine.yaml").write_text(text)
        assert main(["fit", "--config", str(tmp_path / "mine.yaml")]) == 2
        assert "datta" in capsys.readouterr().err


def test_a_moved_configuration_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "configs/metaworld/door_open.yaml"]) == 2
    assert "Did you mean" in (error := capsys.readouterr().err) and "tasks/metaworld/door_open.yaml" in error


def test_merge() -> None:
    settings: dict[str, Any] = {"a": {"b": 1}, "c": 2}
    merge(settings, {"a": {"d": 3}, "c": {"e": 4}})
    assert settings == {"a": {"b": 1, "d": 3}, "c": {"e": 4}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_ours_need_no_trust(path: Path) -> None:
    assert lineage(path)[-1].path == path
