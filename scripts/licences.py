"""Writes docs/licences.md: what the pinned packages of constraints.txt are licensed as, by their own metadata.

python scripts/licences.py            # in an environment that has them: make setup
python scripts/licences.py --check    # only says whether the page is what would be written
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from written_page import write_or_compare

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Packages and their licences

What `constraints.txt` pins, and what each package says of its licence. *Use* is what the package needs to run, *work*
what building, testing and linting need. `scripts/licences.py` writes this page; a test fails where it is stale. A CUDA
build of torch brings NVIDIA's libraries besides, under NVIDIA's licence. The project's own licence is MIT.

| package | version | licence | for |
|---|---|---|---|
"""
#: The page is the same whichever Python writes it.
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}
#: Names that classifiers and free texts give to the same licence.
SHORT = {
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache-2": "Apache-2.0",
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "BSD License": "BSD",
    "Python Software Foundation License": "PSF-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def pinned() -> dict[str, str]:
    """The versions of constraints.txt by name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def needed(requirements: list[str]) -> set[str]:
    """Packages that some requirements come to, those of their own requirements included."""
    found: dict[str, set[str]] = {}  # with the extras that were asked for
    queue = [Requirement(text) for text in requirements]
    while queue:
        requirement = queue.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras | {""}
        if extras <= found.get(name, set()):
            continue
        found[name] = found.get(name, set()) | extras
        try:
            own = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        asked = [{**PYTHON, "extra": extra} for extra in extras]
        queue += [one for one in own if one.marker is None or any(map(one.marker.evaluate, asked))]
    return set(found)


def licence(name: str) -> str:
    """What an installed package says of its licence, in a word or two."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return str(expression)
    classified = [text for text in about.get_all("Classifier", []) if text.startswith("License :: ")]
    names = sorted(
        {SHORT.get(text.split(" :: ")[-1], text.split(" :: ")[-1]) for text in classified}
        - {"OSI Approved", "DFSG approved"}
    )
    stated = (about.get("License") or "").strip().splitlines()
    first = SHORT.get(stated[0].strip(), stated[0].strip()) if stated else ""
    if names and not (names == ["BSD"] and first.startswith("BSD-")):
        return ", ".join(names)
    return first if 0 < len(first) <= 40 else ", ".join(names) or "see the package"


def page() -> str:
    """The page, from the environment that runs this.

    Raises:
        LookupError: a pinned package is not installed, or in another version.
    """
    used = needed(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    rows = []
    for name, version in sorted(pinned().items(), key=lambda item: canonicalize_name(item[0])):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "nothing"
        if found.split("+")[0] != version:
            raise LookupError(
                f"{name}: found {found} where constraints.txt has {version}. Use the environment of make setup."
            )
        rows.append(
            f"| {name} | {version} | {licence(name)} | {'use' if canonicalize_name(name) in used else 'work'} |\n"
        )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    sys.exit(write_or_compare("licences", PAGE, page))
