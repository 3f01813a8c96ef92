"""The commands of README and docs, and Python code do what they say."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from moto_pl import cli
from moto_pl.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
BLOCKS = re.findall(r"```bash\n(.*?)```", README + DOCS, re.S)
COMMANDS = [line.split(" #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
MOTO = [command for command in COMMANDS if command.startswith("moto ")]


def test_there_are_commands_to_check() -> None:
    assert len(MOTO) >= 8 and {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in MOTO if c.split()[1] in cli.LIGHTNING_VERBS])
def test_training_commands_are_understood(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(command)[1:], "--print_config"])
    assert stop.value.code == 0
    assert "class_path: moto_pl.agents." in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in MOTO if c.split()[1] not in cli.LIGHTNING_VERBS])
def test_other_commands_reach_their_function(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def note(*args: Any, **kwargs: Any) -> int:
        called.append((args, kwargs))
        return 0

    monkeypatch.setattr("moto_pl.doctor.run_doctor", note)
    monkeypatch.setattr("moto_pl.report.write_report", note)
    monkeypatch.setattr("moto_pl.demo.run_demo", note)
    monkeypatch.setattr("moto_pl.compare.run_compare", note)
    monkeypatch.setattr("moto_pl.reproduce.run_reproduce", note)
    for name in ("_bound", "_calibration", "_generalization"):
        monkeypatch.setattr(f"moto_pl.analysis.commands.{name}", note)
    for name in ("_build", "_import", "_render", "_info", "_view", "_list"):
        monkeypatch.setattr(f"moto_pl.data.commands.{name}", note)
    assert main(shlex.split(command)[1:]) == 0
    assert len(called) == 1


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_knows_the_targets(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("moto demo" if target == "demo" else "pytest") in done.stdout


def test_python_code_is_python_and_its_names_exist() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


def test_files_that_it_names_exist() -> None:
    for name in set(re.findall(r"configs/[\w/]+\.yaml", README)):
        assert (ROOT / name).is_file(), name
