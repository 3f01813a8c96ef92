"""Which tests failed, and by how much, of pytest's JUnit report: ``python -m benchmarks.gpu_parity REPORT.xml``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

_DIFFERENCE = re.compile(r"(Mismatched elements: .*|Greatest (?:absolute|relative) difference: \S+.*?\(.*?\))")


def summary(report: str) -> list[str]:
    """A line for each failed test, with what differs and by how much, or else its error's first line."""
    root = ElementTree.fromstring(report)
    cases = list(root.iter("testcase"))
    lines, skipped = [], 0
    for case in cases:
        skipped += case.find("skipped") is not None
        for kind in ("failure", "error"):
            for fault in case.findall(kind):
                text = f"{fault.get('message') or ''}\n{fault.text or ''}"
                found = list(dict.fromkeys(match.strip() for match in _DIFFERENCE.findall(text)))
                first = next((line for line in text.splitlines() if line.strip()), "no message")
                lines.append(f"{case.get('classname')}::{case.get('name')}: {'; '.join(found) or first[:200]}")
    count = len(cases)
    return [f"{count} tests, {count - skipped - len(lines)} passed, {skipped} skipped, {len(lines)} failed", *lines]


def main() -> None:
    """Prints the summary."""
    path = Path(sys.argv[1])
    print("\n".join(summary(path.read_text())) if path.exists() else "no report: pytest was stopped, or did not begin")


if __name__ == "__main__":
    main()
