"""The package's floors: a module imports rooms of lower floors alone, whatever kind of import it is.

And no file, of the package or beside it, is too long to be read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import moto_pl

ROOT = Path(moto_pl.__file__).parent
REPOSITORY = Path(__file__).parents[1]
#: From the ground up; rooms of one floor do not know each other. docs/architecture.md shows it.
FLOORS = (
    ("errors", "signals", "threads"),
    ("trust", "reading"),
    ("pickled",),
    ("files",),
    ("evaluations", "schedule", "checkpoints", "verbs", "hub", "ops", "envs"),
    ("replay",),
    ("rollout",),
    ("nn", "datasets"),
    ("agents",),
    ("callbacks",),
    ("training", "report"),
    ("analysis", "campaigns"),
    ("doctor", "demo", "deploy"),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("moto_pl", *path.relative_to(ROOT).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()
#: Python that is not the package's.
BESIDE = sorted(path for part in ("tests", "benchmarks", "scripts") for path in (REPOSITORY / part).rglob("*.py"))
BESIDE += [REPOSITORY / "setup.py"]
#: Of the longest file.
LINES = 500


def imports(name: str, source: str, is_package: bool) -> Iterator[str]:
    """Modules of ours that a source imports anywhere in it: at its top, in functions, for types alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([base] if base else [])])
            found = [f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names]
        else:
            continue
        yield from (module for module in found if module.split(".")[0] == "moto_pl")


def imported(name: str) -> set[str]:
    path = MODULES[name]
    return set(imports(name, path.read_text(), path.name == "__init__.py")) - {name}


def upward(name: str, targets: set[str]) -> list[str]:
    room = name.split(".")[1]
    wrong = []
    for target in sorted(targets - {"moto_pl"}):  # its version
        other = target.split(".")[1]
        if other != room and FLOOR[other] >= FLOOR[room]:
            wrong.append(f"{name} imports {target}")
    return wrong


def test_every_room_has_its_floor() -> None:
    assert {name.split(".")[1] for name in MODULES if name != "moto_pl"} == set(FLOOR)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "moto_pl"])
def test_imports_go_down(name: str) -> None:
    assert not upward(name, imported(name))


def test_no_circles_between_modules() -> None:
    """A package that gathers its own modules is no circle with them."""
    graph = {name: {t for t in imported(name) if not f"{name}.".startswith(f"{t}.")} for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_an_arrow_upward_is_seen_however_it_is_written() -> None:
    for line in (
        "from moto_pl.agents.base import Agent",
        "if TYPE_CHECKING:\n    from moto_pl.agents import Agent",
        "def f():\n    import moto_pl.agents.moto",
        "from ..agents.base import Agent",
    ):
        found = set(imports("moto_pl.nn.world_model", line, is_package=False))
        assert len(upward("moto_pl.nn.world_model", found)) == 1, line


def test_an_agent_knows_no_data_module_and_a_data_module_no_agent() -> None:
    """Nor is one reached by a way that no import shows."""
    for name, path in MODULES.items():
        if name.startswith("moto_pl.agents"):
            assert "datamodule" not in path.read_text(), name
        if name in ("moto_pl.training.datamodule", "moto_pl.training.loaders", "moto_pl.training.views"):
            assert not [target for target in imported(name) if target.startswith("moto_pl.agents")], name


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_and_no_function_is_too_long_to_be_read(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            assert lines <= 60, f"{node.name}: {lines} lines"


@pytest.mark.parametrize("path", BESIDE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_beside_the_package_is_too_long_to_be_read(path: Path) -> None:
    assert path.read_text().count("\n") <= LINES
