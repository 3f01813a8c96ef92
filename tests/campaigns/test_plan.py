"""The campaign's file: the grid that it comes to, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from campaigns_files import write
from moto_pl.campaigns.plan import KEYS, read_campaign
from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.training.configs import config_path


def test_the_grid(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        base=("debug", "--data.prefetch=1"),
        tasks={"a": {"data": {"env": "x/A-v0", "build_options": {"noise": 0.5}}}, "b": "tasks/metaworld/hammer"},
        agents={"MOTO": None, "BC small": ["--agent=bc", {"model.init_args.td.batch_size": 8}]},
        settings={"usual": [], "long": ["--data.online_steps=9"]},
        seeds=[3, 5],
    )
    runs = read_campaign(path).grid()
    assert len(runs) == len({run.name for run in runs}) == len({run.directory for run in runs}) == 2 * 2 * 2 * 2
    assert [run.seed for run in runs] == [3] * 8 + [5] * 8  # every cell has its first seed before any its second
    one = next(run for run in runs if run.name == "a/BC small/long/seed5")
    assert one.directory == tmp_path / "runs/a/BC small/long/seed5"
    assert one.arguments == (
        *("--config", str(config_path("debug")), "--data.prefetch=1", "--data.env=x/A-v0"),
        *("--data.build_options.noise=0.5", "--agent=bc"),
        *("--model.init_args.td.batch_size=8", "--data.online_steps=9"),
        *(f"--trainer.default_root_dir={one.directory}", "--seed_everything=5"),
    )


def test_paths_are_relative_to_the_file_and_packages_are_trusted_by_hand(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").write_text("{}")
    path = write(tmp_path, base=(), agents={"mine": "configs/mine.yaml"})
    (run,) = read_campaign(path, ["faults"]).grid()
    assert run.arguments[:2] == ("--trust", "faults") and str(tmp_path / "configs/mine.yaml") in run.arguments
    assert read_campaign(path).name == "tiny" and read_campaign(path).results_dir == tmp_path / "results/tiny"


def test_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("tasks: {a: []}\nagents: {M: []}\n")
    found = read_campaign(path)
    assert (found.name, found.seeds, found.slots, found.threads, found.nice) == ("some", (0,), 1, 1, 0)
    assert (found.runs, found.results, found.timeout) == (Path("runs/some"), Path("results"), None)
    assert [run.name for run in found.grid()] == ["a/M/default/seed0"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"slot": 2}, ["slot:", "slots"]),
        ({"tasks": None}, ["tasks:", "nothing"]),
        ({"agents": {}}, ["agents:"]),
        ({"agents": ["MOTO"]}, ["agents:", "by name"]),
        ({"agents": {"a/b": []}}, ["agents.a/b:"]),
        ({"agents": {"a=b": []}}, ["agents.a=b:"]),
        ({"agents": {"..": []}}, ["agents...:"]),
        ({"agents": {7: []}}, ["agents.7:", "quotes"]),
        ({"tasks": {"a": ["metaworld/dor_open"]}}, ["tasks.a[0]:", "dor_open"]),
        ({"tasks": {"a": "nowhere.yaml"}}, ["tasks.a:", "nowhere.yaml"]),
        ({"tasks": {"a": [["debug"]]}}, ["tasks.a:"]),
        ({"agents": {"M": [3]}}, ["agents.M[0]:", "3"]),
        ({"agents": {"M": ["--data.online_steps"]}}, ["agents.M[0]:", "--setting=value"]),
        ({"agents": {"M": ["--seed_everything=3"]}}, ["agents.M[0]:", "seeds"]),
        ({"agents": {"M": {"seed_everything": 3}}}, ["agents.M.seed_everything:", "seeds"]),
        ({"base": ["--trust=os"]}, ["base[0]:", "moto campaign"]),
        ({"base": ["--ckpt_path=best"]}, ["base[0]:"]),
        ({"seeds": [0, 0]}, ["seeds:", "once"]),
        ({"seeds": []}, ["seeds:"]),
        ({"seeds": [0, -1]}, ["seeds[1]:", "-1"]),
        ({"seeds": [True]}, ["seeds[0]:", "True"]),
        ({"seeds": 3}, ["seeds:"]),
        ({"slots": 0}, ["slots:"]),
        ({"threads": 1.5}, ["threads:"]),
        ({"nice": 20}, ["nice:", "19"]),
        ({"retries": -1}, ["retries:"]),
        ({"timeout": 0}, ["timeout:", "minutes"]),
        ({"runs": 3}, ["runs:"]),
        ({"slurm": ["x"]}, ["slurm:"]),
        ({"name": "a/b"}, ["name:"]),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_what_is_refused(
    keys: dict[str, Any], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, **keys)
    assert main(["campaign", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"moto: {said[0]}") and error.count("\n") == 1, error
    assert all(word in error for word in (*said, "tiny.yaml")), error
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: {a: []}\nagents: {M: [], M: [debug]}", "'M' stands twice"),
        ("tasks: [", "not YAML"),
        ("", "no keys"),
        ("- tasks", "no keys"),
        ("? [a]\n: 1", "not YAML"),
    ],
)
def test_a_file_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=said):
        read_campaign(path)
    with pytest.raises(SettingError, match="No such file"):
        read_campaign(tmp_path / "nowhere.yaml")


def test_our_own_campaigns_can_be_read() -> None:
    paths = sorted((Path(__file__).parents[2] / "benchmarks/campaigns").glob("*.yaml"))
    assert paths
    for path in paths:
        assert read_campaign(path).grid()
        assert set(yaml.safe_load(path.read_text())) <= set(KEYS)
