"""Every block of code in README.md and docs/ is run; where RULES says why not, its exact arguments are parsed."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest

import small_agents
from moto_pl import cli
from moto_pl.campaigns.check import check
from moto_pl.campaigns.plan import read_campaign
from moto_pl.datasets import commands
from moto_pl.envs.rendering import select_backend
from moto_pl.errors import SettingError
from moto_pl.training.configs import LIGHTNING_VERBS, config_names, config_path, settings_of
from moto_pl.verbs import Verb
from test_house import FLOORS

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.S | re.M)

#: What is done with a command, by its longest beginning here: ``run``, or another check and why it is not run.
RULES: dict[str, tuple[str, str]] = {
    "make": ("make -n", "make demo and make test take minutes and run this test"),
    ". .venv/bin/activate": ("nothing", "make setup makes it"),
    "export PYTHONPATH=.": ("nothing", "of a page that is run whole; tests/test_own_robot.py"),
    "python record.py": ("nothing", "the same; tests/test_own_robot.py"),
    "python scripts/results.py": ("nothing", "writes the page that it stands on; tests/test_results_page.py"),
    "python act.py": ("nothing", "the same; tests/test_own_robot.py"),
    "moto fit": ("parse", "trains for hours; tests/test_cli.py trains the debug configuration"),
    "moto validate": ("parse", "needs the run; tests/test_cli.py"),
    "moto test": ("parse", "needs the run; tests/test_cli.py"),
    "moto doctor": ("parse", "renders for seconds; tests/test_doctor.py"),
    "moto data build": ("parse", "renders for minutes; tests/datasets/test_builders.py"),
    "moto data info": ("run", ""),
    "moto data list": ("run", ""),
    "moto data view": ("parse", "needs the dataset; tests/datasets/test_info_and_view.py"),
    "moto data repair": ("parse", "needs damaged files; tests/datasets/test_repair.py"),
    "moto data import": ("parse", "needs others' files; tests/datasets/formats/test_importing.py"),
    "moto data export": ("parse", "needs a run or a dataset; tests/datasets/formats/test_exporting.py"),
    "moto data render": ("parse", "needs others' data; tests/datasets/kitchen/test_kitchen_render.py"),
    "moto watch": ("parse", "needs the run; tests/report/test_watch.py"),
    "moto report": ("parse", "needs the run; tests/report/test_report.py"),
    "moto compare": ("parse", "needs runs; tests/report/test_compare.py"),
    "moto --version": ("run", ""),
    "moto completion": ("run", ""),
    "moto campaign": ("parse", "trains for hours; tests/campaigns/test_campaign.py"),
    "moto analyze": ("parse", "needs a checkpoint; tests/analysis/test_commands.py"),
    "moto play": ("parse", "needs a run; tests/deploy/test_play_command.py"),
    "moto push": ("parse", "needs a run; tests/deploy/test_push.py"),
    "moto export": ("parse", "needs a checkpoint; tests/deploy/test_export.py"),
    "moto serve": ("parse", "needs a checkpoint, and does not end; tests/deploy/test_serve.py"),
    "moto reproduce": ("run", ""),
    "moto reproduce figure5": ("parse", "builds data and trains for minutes; tests/analysis/test_reproduce.py"),
    "torchrun": ("parse", "needs two machines; tests/distributed/test_ddp.py"),
    "sbatch scripts/slurm.sh": ("parse", "needs SLURM"),
    "python -m benchmarks": ("benchmark", "measures for minutes"),
}
#: What a page's Python must not do in a test, by page: it is noted instead, and has to be reached.
NOTED = {"runs.md": (L.Trainer, "fit", "trains for hours")}


class Code(NamedTuple):
    """A block of a page, or a command in its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Code]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            found.append(Code(page.name, text[: match.start()].count("\n") + 1, match[1].strip(), match[2]))
    return found


def commands_of(block: Code) -> list[Code]:
    lines = block.text.replace("\\\n", " ").splitlines()
    stripped = [shlex.join(shlex.split(line, comments=True)) for line in lines]
    return [block._replace(text=line) for line in stripped if line]


def inline() -> list[Code]:
    """Commands that stand in a page's text, between backticks."""
    found = []
    for page in PAGES:
        text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text())
        for match in re.finditer(r"`((?:moto|make|sbatch|torchrun|python -m)\s[^`]+)`", text):
            line = text[: match.start()].count("\n") + 1
            found.append(Code(page.name, line, "inline", " ".join(match[1].split())))
    return found


def rule(command: str) -> tuple[str, str]:
    """How a command is checked; one for which there is no rule fails: add one, with its reason."""
    if command.startswith("moto ") and command.endswith(" --help"):
        return "help", ""
    fitting = [start for start in RULES if f"{command} ".startswith(f"{start} ") or command.startswith(f"{start}.")]
    assert fitting, f"no rule for: {command}"
    return RULES[max(fitting, key=len)]


def noted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Lets every verb note its arguments rather than run."""
    seen: list[dict[str, Any]] = []

    def instead(function: Any) -> Any:
        @functools.wraps(function)
        def note(*args: Any, **options: Any) -> int:
            seen.append(options)
            return 0

        return note

    class Noted(Exception):
        pass

    def note_build(name: str, **options: Any) -> Any:
        seen.append({"name": name, **options})
        raise Noted

    for verbs in (cli.VERBS, *(importlib.import_module(module).VERBS for module, _ in cli.GROUPS.values())):
        for verb in verbs.values():
            if isinstance(verb, Verb):
                monkeypatch.setattr(verb, "function", instead(verb.function))
    monkeypatch.setattr(commands, "build", note_build)
    monkeypatch.setattr(commands.Build, "__call__", _until(commands.Build.__call__, Noted))
    return seen


def _until(call: Any, stop: type[Exception]) -> Any:
    def called(*args: Any) -> int:
        try:
            return int(call(*args))
        except stop:
            return 0

    return called


def arguments(words: list[str]) -> list[str]:
    """What ``moto`` is given, also where another program starts it."""
    if words[0] == "torchrun":
        return words[words.index("moto_pl.cli") + 1 :]
    if words[0] == "sbatch":
        script = (ROOT / words[1]).read_text()
        assert 'moto fit "$@"' in script
        return ["fit", *words[2:]]
    return words[1:]


def is_a_name(words: Sequence[str]) -> bool:
    """Whether a command in a text only names a verb, such as ``moto data render``."""
    if words[0] in cli.GROUPS and len(words) > 1:
        return len(words) == 2 and words[1] in importlib.import_module(cli.GROUPS[words[0]][0]).VERBS
    return len(words) == 1 and words[0] in cli.VERBS


BLOCKS = blocks()
COMMANDS = [command for block in BLOCKS if block.language == "bash" for command in commands_of(block)] + inline()
# The blocks of own_robot.md are files that need each other: tests/test_own_robot.py runs them.
PYTHON = [block for block in BLOCKS if block.language == "python" and block.page != "own_robot.md"]


def test_the_pages_have_blocks_and_no_unknown_ones() -> None:
    assert len(COMMANDS) >= 40 and len(PYTHON) >= 2
    assert sum(page.read_text().count("```") for page in PAGES) == 2 * len(BLOCKS), "a fence that is not found"
    for block in BLOCKS:
        assert block.language in ("bash", "python", "yaml"), f"{block}: a block of '{block.language}' has no test"


def test_every_rule_has_its_reason_and_its_command() -> None:
    for start, (how, why) in RULES.items():
        assert (how == "run") == (why == ""), start
        assert any(rule(command.text) is RULES[start] for command in COMMANDS), f"no command needs the rule '{start}'"
        for path in re.findall(r"tests/[\w/]+\.py", why):
            assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_commands(
    command: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.text)
    how, _ = rule(command.text)
    if how == "run":
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
        monkeypatch.chdir(tmp_path)
        assert cli.main(words[1:]) == 0, capsys.readouterr().err
    elif how == "help":
        with pytest.raises(SystemExit) as stop:
            cli.run(words[1:])
        assert stop.value.code == 0 and "usage: moto" in capsys.readouterr().out
    elif how == "parse":
        parse(command, arguments(words), monkeypatch, capsys)
    elif how == "make -n":
        make(words)
    elif how == "benchmark":
        source = (ROOT / f"{words[2].replace('.', '/')}.py").read_text()
        for option in words[3:]:
            assert not option.startswith("--") or f'"{option}"' in source, option


def parse(command: Code, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    if command.language == "inline" and is_a_name(words):
        return
    if words[0] in LIGHTNING_VERBS:
        with pytest.raises(SystemExit) as stop:
            cli.run([*words, "--print_config"])
        assert stop.value.code == 0
        assert "class_path: moto_pl.agents." in capsys.readouterr().out
        return
    seen = noted(monkeypatch)
    assert cli.run(words) == 0
    assert len(seen) == 1


def make(words: list[str]) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    ran = {
        "docs": "mkdocs build",
        "demo": "moto demo",
        "test": "bin/pytest",
        "soak": "tests/soak.py",
        "soak KILLS": "tests/kills.py --kills",
        "soak FUZZ": "tests/fuzz.py --attempts",
        "setup": "",
        "pretrained RUN": "scripts/pretrained.py",
    }  # it may be done already
    assert ran[" ".join(words[1:]).partition("=")[0]] in done.stdout


def test_a_changed_entry_point_or_dependency_is_installed() -> None:
    """``make setup`` installs anew where pyproject.toml changes."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    rules = subprocess.run(["make", "-pn", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    (line,) = [line for line in rules.splitlines() if line.startswith(".venv/.built:")]
    assert {"pyproject.toml", "setup.py", "CMakeLists.txt"} <= set(line.split())


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python(block: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "gymnasium.make" in block.text:
        try:
            select_backend()
        except SettingError as error:
            pytest.skip(f"no OpenGL: {error}")
    if block.page == "policy.md":
        checkpoint = small_agents.save(small_agents.make("MOTO"), tmp_path / "runs/debug/checkpoints/best.ckpt")
        if "onnxruntime" in block.text:
            pytest.importorskip("onnxruntime", reason="ONNX is an extra")
            assert cli.main(["export", str(checkpoint), "policy.onnx", "--steps", "1"]) == 0
    seen: list[tuple[Any, ...]] = []
    if block.page in NOTED:
        owner, name, _ = NOTED[block.page]
        monkeypatch.setattr(owner, name, lambda *args, **options: seen.append(args))
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
    assert bool(seen) == (block.page in NOTED)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_yaml(block: Code, tmp_path: Path) -> None:
    """A campaign, or some of its keys; its runs are what moto fit takes."""
    path = tmp_path / "campaign.yaml"
    path.write_text(block.text if "tasks:" in block.text else f"tasks: {{a: debug}}\nagents: {{M: []}}\n{block.text}")
    campaign = read_campaign(path)
    assert len(check(campaign)) == len(campaign.tasks) * len(campaign.agents) * len(campaign.settings)


def test_a_command_without_a_rule_fails() -> None:
    for text in ("motor fit", "pip install x", "moto dance", "moto data push", "./train"):
        with pytest.raises(AssertionError, match="no rule"):
            rule(text)


def test_files_that_the_pages_name_exist() -> None:
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for name in set(
            re.findall(r"(?:configs|scripts|docs|tests|benchmarks)/[\w/]+\.(?:yaml|sh|md|py)\b", page.read_text())
        ):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def anchors(page: Path) -> set[str]:
    """What a link may name after #: headings, as GitHub writes them."""
    text = FENCE.sub("", page.read_text())
    names: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.M):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        found.add(f"{name}-{names[name]}" if names[name] else name)
        names[name] += 1
    return found


def broken(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere, and paths that a clone does not have."""
    wrong = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(f"{page.name}: {target}")
    return wrong


def test_links_lead_somewhere() -> None:
    pages = (*PAGES, ROOT / "CONTRIBUTING.md")
    assert sum(len(LINK.findall(page.read_text())) for page in pages) > 60
    assert [link for page in pages for link in broken(page)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `thing`, another\n\n## Twice\n\n## Twice\n")
    (tmp_path / "page.md").write_text(
        "[a](other.md) [b](other.md#one-thing-another) [c](other.md#twice-1) [d](https://x.org/y) [e](#here)\n\n"
        "# Here\n"
        "[f](nothing.md) [g](other.md#thing) ![h](picture.png) [i](#there) [j](other.md#twice-2)\n"
    )
    wrong = [
        f"page.md: {target}" for target in ("nothing.md", "other.md#thing", "picture.png", "#there", "other.md#twice-2")
    ]
    assert broken(tmp_path / "page.md") == wrong


def test_every_page_is_reached() -> None:
    """From the index by a link, and from the README, which stays short."""
    names = {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"}
    index = {target.partition("#")[0] for target in LINK.findall((ROOT / "docs/index.md").read_text())}
    readme = {target.partition("/")[2] for target in LINK.findall((ROOT / "README.md").read_text())}
    assert names - index == set() and names - readme == set()
    assert len((ROOT / "README.md").read_text().splitlines()) < 130


def test_the_architecture_page_has_the_floors() -> None:
    """Its picture has the rooms of tests/test_house.py on their floors."""
    lines = (ROOT / "docs/architecture.md").read_text().splitlines()
    picture = {int(match[1]): match[2] for line in lines if (match := re.match(r" +(\d+)  (\S.*)", line))}
    assert sorted(picture) == list(range(1, len(FLOORS) + 1))
    for number, rooms in enumerate(FLOORS, 1):
        shown = set(re.findall(r"[a-z]+", picture[number]))
        assert shown - {"the", "verbs"} == set(rooms) - {"verbs"}, number


def test_the_configurations_page_has_the_words() -> None:
    page = (ROOT / "docs/configurations.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+\| ([^|]+) \| ([^|]+) \|$", page, re.M)
    assert {name for name, *_ in rows} == set(config_names("sizes"))
    defaults = {"offline_steps": 1000, "online_steps": 20_000}
    for size, *budgets in rows:
        for task, budget in zip(("metaworld/hammer", "kitchen/mixed"), budgets, strict=True):
            data = defaults | settings_of("--config", str(config_path(f"tasks/{task}")), "--size", size)["data"]
            assert budget == f"{data['offline_steps']:,}, {data['online_steps']:,}", (size, task)
    for text in (page, (ROOT / "README.md").read_text()):
        assert all(f"`{word}`" in text for word in (*config_names("sizes"), *config_names("agents")))
