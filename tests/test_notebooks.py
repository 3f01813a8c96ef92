"""The notebooks: tidy, and each runs from its first cell to its last, to the end that its text speaks of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import warm
from runs import environment

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
#: What has to hold when a notebook has run, in its own names.
HOLDS = {
    "world_model.ipynb": "error[CONTEXT:].mean() < still[CONTEXT:].mean() and strips.keys() == choices.keys()",
    "policy.ipynb": "rates['final'] > rates['untrained'] and len(rates) == 2",
}


def source(name: str) -> str:
    """A notebook's code, cell after cell."""
    cells = json.loads((FOLDER / name).read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_each_notebook_has_its_end() -> None:
    assert NAMES == sorted(HOLDS)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_output(name: str) -> None:
    notebook = json.loads((FOLDER / name).read_text())
    assert notebook["nbformat"] == 4 and notebook["cells"][0]["cell_type"] == "markdown"
    for cell in notebook["cells"]:
        assert cell["source"] and not cell.get("outputs") and cell.get("execution_count") is None
    compile(source(name), name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "notebook.py"
    script.write_text(f"import matplotlib\n\nmatplotlib.use('agg')\n\n{source(name)}\n\nassert {HOLDS[name]}\n")
    done = warm.run(["notebook"], environment(), timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
