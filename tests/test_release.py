"""What a release needs: versions that agree, a page of licences that is not stale."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import check_release as check
import licences
import pytest

ROOT = Path(__file__).parents[1]


FILES = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md", "moto_pl/__init__.py")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_this_clone_agrees() -> None:
    assert check.disagreements() == []


@pytest.mark.parametrize(
    ("name", "before", "after", "faults"),
    [
        ("moto_pl/__init__.py", '__version__ = "', '__version__ = "9.', ["moto_pl/__init__.py"]),
        ("CITATION.cff", "\nversion: ", "\nversion: 9.", ["CITATION.cff"]),
        ("pyproject.toml", '\nversion = "', '\nversion = "9.', ["moto_pl/__init__.py", "CITATION.cff", "CHANGELOG.md"]),
        ("pyproject.toml", '>=3.11"\nlicense', '>=3.12"\nlicense', ["pyproject.toml"]),
        ("CHANGELOG.md", "## ", "## 9.9.9\n\n## ", ["CHANGELOG.md"]),
    ],
)
def test_a_file_that_disagrees_is_named(clone: Path, name: str, before: str, after: str, faults: list[str]) -> None:
    text = (clone / name).read_text()
    assert before in text
    (clone / name).write_text(text.replace(before, after, 1))
    assert [fault.split(":")[0] for fault in check.disagreements(clone)] == faults


def test_a_release_is_committed_tagged_and_named(clone: Path) -> None:
    def git(*args: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *args], cwd=clone, check=True, capture_output=True)

    git("init", "-q")
    git("commit", "-qm", "none", "--allow-empty")
    assert "uncommitted changes" in check.untagged(clone)[0]
    git("add", ".")
    git("commit", "-qm", "all")
    assert [fault.split(":")[0] for fault in check.untagged(clone)] == ["git", "CHANGELOG.md"]
    changes = (clone / "CHANGELOG.md").read_text()
    (clone / "CHANGELOG.md").write_text(changes.replace("## Unreleased", "## 0.1.0 (a release)"))
    git("commit", "-qam", "named")
    git("tag", "v0.1.0")
    assert check.untagged(clone) == []


def test_the_page_of_licences_is_not_stale() -> None:
    try:
        written = licences.page()
    except LookupError as error:
        pytest.skip(f"not the environment of make setup: {error}")
    assert licences.PAGE.read_text() == written, "run python scripts/licences.py"


def test_packages_that_a_package_asks_for_with_an_extra_are_needed() -> None:
    """``lightning`` asks for ``fsspec[http]``, and that for aiohttp."""
    assert {"fsspec", "aiohttp", "yarl"} <= licences.needed(["lightning"])
    assert "aiohttp" not in licences.needed(["fsspec"])
    assert "pytest" not in licences.needed(["lightning"])


def test_the_script_runs() -> None:
    """It says what is skipped where another environment runs it, and fails for nothing else."""
    done = subprocess.run([sys.executable, ROOT / "scripts/check_release.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
