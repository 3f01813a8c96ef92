"""A page of docs/ that a script writes: how it is written, or compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def write_or_compare(script: str, path: Path, page: Callable[[], str]) -> int:
    """Writes the page, or with ``--check`` on the command line says whether it is what would be written.

    Args:
        script: what the script is called, without ``.py``.
        path: of the page.
        page: makes its text; a LookupError says what it lacks.

    Returns:
        The exit status: 0; 1 where the page is stale; 2 where it cannot be made.
    """
    try:
        text = page()
    except LookupError as error:
        print(f"{script}: {error}", file=sys.stderr)
        return 2
    if "--check" in sys.argv[1:]:
        stale = not path.is_file() or path.read_text() != text
        found = f"stale: run python scripts/{script}.py" if stale else "as it should be"
        print(f"{script}: docs/{path.name} is {found}")
        return int(stale)
    path.write_text(text)
    return 0
