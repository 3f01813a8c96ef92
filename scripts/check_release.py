"""What must agree before a version is released; each fault is one line, and the exit status says whether there is any.

python scripts/check_release.py             # versions, changes, licences: a second
python scripts/check_release.py --tagged    # the commit too: nothing uncommitted, and the version's own tag
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def disagreements(root: Path = ROOT) -> list[str]:
    """What the files of a clone say of the version that does not fit together."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    version, faults = project["version"], []
    package = re.search(r'^__version__ = "(.+)"$', (root / "moto_pl/__init__.py").read_text(), re.M)
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.M)
    for name, found in (("moto_pl/__init__.py", package), ("CITATION.cff", cited)):
        if found is None or found[1] != version:
            faults.append(f"{name}: found {found and found[1]}. pyproject.toml has version {version}.")
    headings = re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), re.M)
    if version not in headings or headings[0] not in (version, "Unreleased"):
        faults.append(f"CHANGELOG.md: found {', '.join(headings)}. The newest version is {version}.")
    lowest = project["requires-python"].removeprefix(">=")
    named = sorted(re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"])), key=lambda text: int(text[2:]))
    if named[0] != lowest:
        faults.append(f"pyproject.toml: found classifiers from {named[0]} on. requires-python says {lowest}.")
    return faults


def stale_licences() -> list[str]:
    """Whether docs/licences.md has to be written anew; nothing where another environment runs this."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/licences.py"), "--check"], capture_output=True, text=True
    )
    if done.returncode == 2:
        print(f"skipped: {done.stderr.strip()}")
    return [done.stdout.strip()] if done.returncode == 1 else []


def untagged(root: Path = ROOT) -> list[str]:
    """What keeps a commit from being a release."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    faults = []
    if changed := _git(root, "status", "--porcelain"):
        faults.append(f"git: found {len(changed.splitlines())} uncommitted changes. Commit them.")
    if f"v{version}" not in _git(root, "tag", "--points-at", "HEAD").split():
        faults.append(f"git: found no tag v{version} at this commit. Make it: git tag v{version}.")
    if "## Unreleased" in (root / "CHANGELOG.md").read_text():
        faults.append(f"CHANGELOG.md: found Unreleased. Call it {version}.")
    return faults


def _git(root: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Prints the faults."""
    faults = disagreements() + stale_licences() + (untagged() if "--tagged" in sys.argv[1:] else [])
    for fault in faults:
        print(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
