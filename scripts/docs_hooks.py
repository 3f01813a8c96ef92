"""What MkDocs does beyond ``docs/*.md``: the clone's other pages, the reference, formulas as MathML, links out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Pages of the clone that are pages of the site too, by what they are called there.
PAGES = {"overview.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
BLOCK = re.compile(r"(^```.*?^```|^(?: {4}[^\n]*\n)+)", re.M | re.S)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


class PlainRoles(griffe.Extension):
    """Docstrings without Sphinx's roles, which Markdown does not know."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites one docstring."""
        if obj.docstring:
            plain = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = plain.replace("][", "]\\[")  # shapes side by side are no links


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the reference to the navigation."""
    assert config.nav is not None
    config.nav.append({"Reference": [{room: f"reference/{room}.md"} for room in rooms()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages that are not in docs/, and pictures that pages show from elsewhere in the clone."""
    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    for room in rooms():
        files.append(File.generated(config, f"reference/{room}.md", content=f"# {room}\n\n::: moto_pl.{room}\n"))
    for page in (ROOT / "docs").glob("*.md"):
        for picture in re.findall(r"!\[[^\]]*\]\(\.\./([^)\s]+)\)", page.read_text()):
            if files.get_file_from_path(picture) is None:
                files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites links and formulas, outside of blocks of code."""
    source = PAGES.get(page.file.src_uri)
    parts = BLOCK.split(markdown)
    has_formulas = "$$" in markdown
    for place in range(0, len(parts), 2):
        text = formulas(parts[place]) if has_formulas else parts[place]
        parts[place] = LINK.sub(lambda found: link(found, in_docs=source is None), text)
    return "".join(parts)


def rooms() -> list[str]:
    """The package's rooms: subpackages, and modules beside them."""
    found = [path.stem for path in sorted((ROOT / "moto_pl").iterdir()) if (path / "__init__.py").is_file()]
    return found + [path.stem for path in sorted((ROOT / "moto_pl").glob("[a-z]*.py"))]


def link(found: re.Match[str], in_docs: bool) -> str:
    """A link as the site has it; one to a file that is no page becomes its path."""
    mark, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, hash_, anchor = target.partition("#")
    path = path.removeprefix("../") if in_docs and path.startswith("../") else f"docs/{path}" if in_docs else path
    if path.startswith("docs/"):
        return f"{mark}[{text}]({path.removeprefix('docs/')}{hash_}{anchor})"
    ours = {source: name for name, source in PAGES.items()}
    if path in ours:
        return f"[{text}]({ours[path]}{hash_}{anchor})"
    if mark:
        return f"![{text}]({path})"
    return text if text.strip("`") == path else f"{text} (`{path}`)"


def formulas(markdown: str) -> str:
    """TeX between dollars as MathML, which browsers draw by themselves."""
    block = re.sub(
        r"^\$\$\s*(.+?)\s*\$\$$",
        lambda tex: f'<div class="formula">{_mathml(tex[1], "block")}</div>',
        markdown,
        flags=re.M | re.S,
    )
    # In a span: Markdown takes a line that begins with an element it does not know for a block.
    return re.sub(r"\$([^$\n]+)\$", lambda tex: f"<span>{_mathml(tex[1], 'inline')}</span>", block)


def _mathml(tex: str, display: str) -> str:
    """TeX as MathML.

    Where no font for mathematics is installed, a browser lowers an index by no more than the letter before it reaches
    down: that of an s would stand beside it. So each such letter is said to reach down.
    """
    lowered = r'<\1><mpadded depth="0.2em">\2</mpadded>'
    return re.sub(r"<(msub|msubsup)>(<mi>[^<]*</mi>)", lowered, convert(tex, display=display))
