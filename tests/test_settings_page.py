"""docs/settings.md explains every setting, with a range that holds."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import settings
import yaml

from moto_pl import agents
from moto_pl.agents.lompo import PenaltyConfig
from moto_pl.errors import SettingError
from moto_pl.training.cli import MotoCLI
from moto_pl.training.configs import config_names
from moto_pl.training.datamodule import OfflineToOnlineDataModule

ROOT = Path(__file__).parents[1]
DEBUG = str(ROOT / "configs/debug.yaml")


PAGE = settings.PAGE.read_text()
ROWS = [
    settings.Row(*(cell.strip() for cell in found.groups()))
    for found in re.finditer(r"^\| `([\w.]+)` \|([^|]*)\|([^|]*)\|([^|]*)\|$", PAGE, re.M)
]


def test_the_page_is_not_stale() -> None:
    assert settings.page() == PAGE, "run python scripts/settings.py"


def leaves(content: Any, name: str = "") -> Iterator[str]:
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, f"{name}.{key}")
    else:
        yield name.removeprefix(".")


@pytest.mark.parametrize("word", [*config_names("agents")])
def test_every_key_of_a_configuration_is_on_the_page(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        MotoCLI.run(["fit", "--config", DEBUG, "--agent", word, "--print_config"])
    content = yaml.safe_load(capsys.readouterr().out)
    agent = getattr(agents, content["model"]["class_path"].rpartition(".")[2])
    keys = set(leaves(content)) - {"model.class_path"}
    for name, hint in get_type_hints(agent.__init__).items():
        for part in filter(dataclasses.is_dataclass, (hint, *get_args(hint))):
            keys = keys - {f"model.init_args.{name}"} | {
                f"model.init_args.{name}.{field.name}" for field in dataclasses.fields(part)
            }
    assert len(keys) > 100
    explained = {row.key for row in ROWS} | set(re.findall(r"`(trainer\.\w+)`", PAGE))
    refused = {
        f"trainer.{name}" for name in re.findall(r"`(\w+)`", PAGE.split("those that are refused:")[1].split("|")[0])
    }
    assert {key for key in keys if key.removeprefix("model.init_args.") not in explained | refused} == set()


def test_a_setting_without_an_explanation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PenaltyConfig, "__doc__", "A penalty.\n\nAttributes:\n    disagreement: the estimator.\n")
    with pytest.raises(LookupError, match=r"penalty\.scale"):
        settings.page()


def test_a_setting_of_data_without_a_group_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATA, "Memory and disk", "residency prefetch")
    with pytest.raises(LookupError, match=r"data\.replay_limit_gb"):
        settings.page()


#: What a range is called, and values outside of it.
RANGES: dict[str, tuple[float, ...]] = {
    r"\b0 or more": (-1,),
    r"\b1 or more": (0, -1),
    r"\b2 or more": (1,),
    r"\babove 0": (0, -1),
    r"\(0, 1\]": (0, 1.5),
    r"\[0, 1\]": (-0.5, 1.5),
    r"\[0, 1\)": (-0.5, 1),
    r"\(0, 1\)": (0, 1),
    r"\b0 to 0\.9": (-0.1, 1),
    r"\b64, 96 or 128": (0, 65),
    r"\b0 to 4294967295": (-1, 2**32),
}
NUMBERS = [
    row
    for row in ROWS
    if "number" in row.values and ("." in row.key or row.key in {r.key for r in settings.top_level()})
]


def outside(row: Any) -> tuple[float, ...]:
    """Values that a setting's explanation leaves out; those of its first range."""
    for pattern, values in RANGES.items():
        if re.search(pattern, row.meaning):
            return (*values, math.nan) if re.search(r"(?<!whole )number", row.values) else values
    return ()


def test_every_number_has_a_range() -> None:
    assert len(NUMBERS) > 100
    assert {row.key for row in NUMBERS if not outside(row)} == {"entropy.target_entropy"}  # any number


def refusal(key: str, value: float) -> str | None:
    """The setting that is named when one has a value; None where it is taken."""
    try:
        if key.startswith("data."):
            OfflineToOnlineDataModule("moto_pl/Reach-v0", "reach", **{key.removeprefix("data."): value})
        elif "." in key:
            raise AssertionError(key)
        else:
            MotoCLI.run(["fit", "--config", DEBUG, f"--{key}={value}"])
    except SettingError as error:
        return error.setting
    return None


@pytest.mark.parametrize(
    "row", [row for row in NUMBERS if not re.match(r"(?!data\.)\w+\.", row.key)], ids=lambda row: row.key
)
def test_a_number_out_of_its_range_is_refused(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MotoCLI, "_run_subcommand", lambda self, subcommand: None)
    for value in outside(row):
        if math.isnan(value) and not row.key.startswith("data."):
            continue  # which the parser does not take
        assert refusal(row.key, value) == row.key, value


def parts() -> Iterator[tuple[str, type, str, type]]:
    for word in settings.AGENTS:
        agent = getattr(agents, word)
        for name, part in settings.parts_of(agent).items():
            yield word, agent, name, part


def taken(agent: type, name: str, part: type) -> Iterator[str]:
    """Settings of an agent's part with values out of their range that are not refused."""
    for row in settings.fields(part, f"{name}."):
        for value in outside(row) if "number" in row.values else ():
            several = re.match(r"list|(\d+) ", row.values)
            given: Any = (value,) * int(several[1] or 4) if several else value
            try:
                agent(**{name: part(**{row.key.removeprefix(f"{name}."): given})})
            except SettingError as error:
                assert error.setting.endswith(row.key), error
            else:
                yield f"{name} of {part.__name__}: {row.key.partition('.')[2]}"


def test_a_number_of_an_agent_out_of_its_range_is_refused() -> None:
    assert {one for _, agent, name, part in parts() for one in taken(agent, name, part)} == set()
