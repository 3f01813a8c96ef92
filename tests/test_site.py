"""The site that ``make docs`` makes of the pages: nothing is left out, nothing is loaded from elsewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without making what it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def entries(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in entries(part)]


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    source = (ROOT / "scripts/docs_hooks.py").read_text()
    others = re.findall(r'"(\w+\.md)": "([A-Z]+\.md)"', source)
    assert len(others) == 3 and all((ROOT / name).is_file() for _, name in others)
    expected = [page.name for page in DOCS.glob("*.md")] + [name for name, _ in others]
    assert sorted(entries(settings["nav"])) == sorted(expected)
    assert settings["strict"] is True and settings["theme"]["font"] is False


def quoted(page: str) -> list[tuple[str, list[str]]]:
    """Files that a page names on a line of their own, each with the lines of code below it."""
    found = re.findall(r"^`(moto_pl/[\w/]+\.py)`:\n\n((?: {4}[^\n]+\n)+)", page, re.M)
    return [(path, [line.strip() for line in code.splitlines()]) for path, code in found]


def absent(path: str, lines: list[str]) -> list[str]:
    """Lines that a file does not have, in their order."""
    rest = [line.strip() for line in (ROOT / path).read_text().splitlines()]
    missing = []
    for line in lines:
        if line in rest:
            rest = rest[rest.index(line) + 1 :]
        else:
            missing.append(line)
    return missing


def test_the_lines_beside_the_equations_are_in_their_files() -> None:
    page = (DOCS / "equations.md").read_text()
    found = quoted(page)
    assert len(found) >= 8 and len(found) == page.count("\n`moto_pl/") >= page.count("$$\n\n`moto_pl/") >= 7
    assert [(path, missing) for path, lines in found if (missing := absent(path, lines))] == []


def test_a_line_that_has_changed_is_seen() -> None:
    ((path, lines), *_) = quoted("`moto_pl/agents/moto.py`:\n\n    mean = log_prob.mean()\n    mean = log_prob.sum()\n")
    assert absent(path, lines) == ["mean = log_prob.sum()"]
    assert absent(path, list(reversed(lines))) == ["mean = log_prob.sum()"]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    for package in ("mkdocs", "griffe", "latex2mathml"):
        pytest.importorskip(package, reason="make docs has an environment of its own")
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts/docs_hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("markdown", "in_docs", "expected"),
    [
        ("[a](runs.md#x) and [b](#y) and [c](https://x.org)", True, None),
        ("[a](../README.md#start)", True, "[a](overview.md#start)"),
        ("[a](docs/runs.md#x) [b](CONTRIBUTING.md)", False, "[a](runs.md#x) [b](contributing.md)"),
        ("[`a/b.yaml`](../a/b.yaml) [b](../a/b.yaml)", True, "`a/b.yaml` b (`a/b.yaml`)"),
        ("[a/b.yaml](../a/b.yaml)", True, "a/b.yaml"),
        ("![a](../a/b.png)", True, "![a](a/b.png)"),
    ],
)
def test_links(hooks: ModuleType, markdown: str, in_docs: bool, expected: str | None) -> None:
    found = hooks.LINK.sub(lambda match: hooks.link(match, in_docs), markdown)
    assert found == (markdown if expected is None else expected)


def test_formulas_become_mathml_and_prices_stay(hooks: ModuleType) -> None:
    class Page:
        class file:
            src_uri = "page.md"

    text = "It is\n$a_i$, see [a](../README.md).\n\n    code = $x$\n\nMore $b$.\n\n$$\n\\frac{a}{b}\n$$\n"
    made = hooks.on_page_markdown(text, Page)
    assert made.count("<math") == 3 and "\n<span><math" in made and "<mfrac>" in made and "(overview.md)" in made
    assert made.count("$") == 2 and "    code = $x$" in made
    # Without a font for mathematics an index would not be lowered.
    assert '<msub><mpadded depth="0.2em"><mi>a</mi></mpadded><mi>i</mi></msub>' in made
    assert hooks.on_page_markdown("From $1 to $2", Page) == "From $1 to $2"


@pytest.mark.slow
def test_the_site_is_whole_and_loads_nothing_from_elsewhere(hooks: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]  # strict: a link that leads nowhere is a failure
    pages = {page.relative_to(tmp_path).as_posix(): page.read_text() for page in tmp_path.rglob("*.html")}
    assert {f"{page.stem}.html" for page in DOCS.glob("*.md")} <= set(pages)
    loaded = re.compile(r"<(?:script|img|iframe|video|source|link)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*")
    assert {name: found for name, text in pages.items() if (found := loaded.findall(text))} == {}
    assert pages["equations.html"].count("<math") > 20
    assert 'id="moto_pl.agents.moto.MOTO.losses_of"' in pages["reference/agents.html"]
    # Docstrings set nothing in italics: what is, was a product's signs taken for Markdown's.
    italics = {name: set(re.findall("<em>(.*?)</em>", text)) - {"required"} for name, text in pages.items()}
    assert {name: found for name, found in italics.items() if name.startswith("reference/") and found} == {}
    assert ":class:" not in pages["reference/agents.html"]
