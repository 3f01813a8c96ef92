"""Every run is asked of the real parser, and what it refuses is placed in the campaign's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from campaigns_files import write
from moto_pl.campaigns.check import Checker, check, check_finished
from moto_pl.campaigns.plan import read_campaign
from moto_pl.cli import main
from moto_pl.errors import SettingError


@pytest.mark.parametrize(
    ("keys", "place", "said"),
    [
        ({"base": ["debug", "--data.nothing=3"]}, "base", "--data.nothing"),
        ({"tasks": {"x": {"data.env": "moto_pl/Nope-v0"}}}, "tasks.x", "moto_pl/Reach-v0"),
        ({"tasks": {"x": {"data.dataset": "reech"}}}, "tasks.x", "Did you mean to build: moto data build reach"),
        ({"tasks": {"x": {"data": {"dataset": "reech", "build_missing": False}}}}, "tasks.x", "reech"),
        ({"agents": {"A": {"model": "moto_pl.agents.NOPE"}}}, "agents.A", "NOPE"),
        ({"agents": {"A": {"model.init_args.behaviour.horizonn": 3}}}, "agents.A", "horizonn"),
        ({"agents": {"A": ["--model.init_args.behaviour.horizon=0"]}}, "agents.A", "behaviour.horizon: found 0"),
        ({"settings": {"s": {"data": {"online_steps": -3}}}}, "settings.s", "data.online_steps: found -3"),
        ({"settings": {"s": {"data": {"collect_mode": "both"}}}}, "settings.s", "data.collect_mode"),
        # The file may have come from somebody else: what stands in it was not typed.
        ({"base": ["debug", "--trainer.callbacks+=os.abort"]}, "base", "--trust os"),
        ({"base": ["debug", {"trainer.callbacks": [{"class_path": "os.abort"}]}]}, "base", "os.abort"),
        ({"settings": {"x": ["--trainer.callbacks=[{class_path: os.abort}]"]}}, "settings.x", "os.abort"),
        ({"tasks": {"x": {"data.env": "stranger:Env-v0"}}}, "tasks.x", "--trust stranger"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_refused_and_where(
    keys: dict[str, Any], place: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, **keys)
    assert main(["campaign", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"moto: {place}: ") and said in error and error.count("\n") == 1, error
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.yaml"]  # nothing was begun


def test_a_combination_is_placed_where_it_comes_about(tmp_path: Path) -> None:
    """Neither the agent nor the setting is wrong alone."""
    setting = {"s": {"model.init_args.behaviour.horizon": 5}}
    path = write(tmp_path, agents={"good": [], "BC": {"model": "moto_pl.agents.BC"}}, settings=setting)
    with pytest.raises(SettingError, match=r"^settings.s: .*behaviour"):
        check(read_campaign(path))


def test_what_a_campaign_knows_of_its_runs(tmp_path: Path, reach_dataset: Path) -> None:
    keys = {"settings": {"short": [], "long": ["--data.online_steps=8", "--data.eval_episodes=0"]}}
    found = check(read_campaign(write(tmp_path, reach_dataset, **keys)))
    short, long = found["reach", "MOTO", "short"], found["reach", "MOTO", "long"]
    assert (short.total_steps, short.evaluates, short.build) == (4, True, None)
    assert (long.total_steps, long.evaluates) == (10, False)
    missing = {"r": {"data": {"dataset": "reach", "build_options": {"output": str(tmp_path / "new")}}}}
    (one,) = check(read_campaign(write(tmp_path, tasks=missing))).values()
    assert one.build == str(tmp_path / "new")


def test_a_finished_run_that_was_another_is_refused(tmp_path: Path, reach_dataset: Path) -> None:
    (run,) = read_campaign(write(tmp_path, reach_dataset)).grid()
    run.directory.mkdir(parents=True)
    settings = Checker().settings(run.arguments)
    config: dict[str, Any] = {}
    for name, value in settings.model_and_data.items():
        at = config
        *parents, last = name.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    config["data"]["prefetch"] = 7  # changes nothing about what it came to
    (run.directory / "config.yaml").write_text(yaml.safe_dump(config))
    check_finished(run, settings)
    config["model"]["init_args"]["behaviour"]["horizon"] = 3
    (run.directory / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SettingError, match=r"behaviour.horizon 3 -> 5"):
        check_finished(run, settings)
    (run.directory / "config.yaml").unlink()
    with pytest.raises(SettingError, match="without its settings"):
        check_finished(run, settings)


def test_a_dry_run_starts_nothing(tmp_path: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, reach_dataset, seeds=[0, 1])
    assert main(["campaign", str(path), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("moto fit --config") == 2 and "2 runs, 1 at a time" in printed
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.yaml"]
