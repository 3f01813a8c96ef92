"""docs/results.md is what the kept rows say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import results

from moto_pl.campaigns.results import COLUMNS


def keep(
    root: Path,
    agent: str,
    task: str,
    seed: int,
    successes: list[float],
    last: float = 0.5,
    counts: tuple[int, ...] = results.EPISODES,
    setting: str = "default",
) -> None:
    """Rows as a campaign keeps them: an untrained policy's, then one for each of so many online episodes."""
    path = root / agent / f"{task}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        row = {"setting": setting, "seed": seed, "episodes": 20, "success_last": last, "success_steps": 30.0}
        writer.writerow(row | {"step": 0, "phase": "untrained", "online_episodes": 0, "success": 0.0})
        for episodes, success in zip(counts, successes, strict=True):
            phase = "final" if episodes == counts[-1] else "online"
            step = 300 + 10 * episodes
            writer.writerow(row | {"step": step, "phase": phase, "online_episodes": episodes, "success": success})


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.skipif(not (results.RESULTS / "ten").exists(), reason="the campaign has kept no rows yet")
def test_the_page_is_not_stale() -> None:
    assert results.page() == results.PAGE.read_text(), "run python scripts/results.py"


def test_a_line_is_the_mean_of_its_seeds(kept: Path) -> None:
    keep(kept / "ten", "MOTO", "hammer", 0, [0.0, 0.2, 0.4, 0.8], last=0.4)
    keep(kept / "ten", "MOTO", "hammer", 1, [0.1, 0.4, 0.8, 1.0], last=0.8)
    (line,) = (line for line in results.table(results.read_rows("ten")).splitlines() if "hammer" in line)
    # 36 of 40 episodes: Wilson's interval from its formula, worked out by hand.
    assert line == "| hammer | MOTO | 2 | 5 % | 30 % | 60 % | 90 % | 77 % to 96 % | 60 % | 30.0 |"


def test_a_mean_of_ten_needs_ten_and_counts_each_task_once(kept: Path) -> None:
    for task in results.TASKS[1:]:
        keep(kept / "ten", "MOTO", task, 0, [0.0, 0.0, 0.0, 1.0])
    assert "mean of" not in results.table(results.read_rows("ten"))
    for seed in range(3):  # three seeds of one task weigh no more than one of another
        keep(kept / "ten", "MOTO", results.TASKS[0], seed, [0.0, 0.0, 0.0, 0.0])
    last = results.table(results.read_rows("ten")).splitlines()[-1]
    assert last == "| **mean of 10** | MOTO |  | 0 % | 0 % | 0 % | 90 % |  | 50 % | 30.0 |"


def test_a_run_that_has_not_ended_is_left_out(kept: Path) -> None:
    keep(kept / "ten", "MOTO", "hammer", 0, [0.0, 0.2, 0.4, 0.8])
    path = kept / "ten" / "MOTO" / "hammer.csv"
    path.write_text("".join(line for line in path.open() if "final" not in line))
    assert "hammer" not in results.table(results.read_rows("ten"))


def test_longer_runs_have_a_column_of_their_own(kept: Path) -> None:
    """A task that one of the campaigns has not ended has a dash in its column, and a mean needs all ten."""
    (kept / "public").mkdir()
    (kept / "public" / "tdmpc2.csv").write_bytes((results.ROOT / "benchmarks/results/public/tdmpc2.csv").read_bytes())
    for task in results.TASKS:
        keep(kept / "ten", "MOTO", task, 0, [0.0, 0.0, 0.0, 0.4])
    counts = results.LONG_EPISODES
    keep(kept / "ten500", "MOTO", "hammer", 0, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], counts=counts)
    rows, longer = results.read_rows("ten"), results.read_rows("ten500")
    cells = {
        line.split(" | ")[0]: line.split(" | ")[1:3]
        for line in results.published(rows, longer).splitlines()
        if line.startswith("| ")
    }
    assert cells["| hammer"] == ["40 %", "70 %"]
    assert cells["| assembly"] == ["40 %", "-"]
    assert cells["| **mean**"] == ["40 %", "-"]
    (line,) = (line for line in results.table(longer, counts).splitlines() if "hammer" in line)
    assert line.split(" | ")[3:10] == ["10 %", "20 %", "30 %", "40 %", "50 %", "60 %", "70 %"]
    assert results.lacking(longer).startswith("\nNot run yet: ") and "hammer" not in results.lacking(longer)
    assert results.lacking(rows) == ""


def test_what_it_sees_is_a_row_each(kept: Path) -> None:
    for task in ("window-open", "drawer-open"):
        keep(kept / "observation", "MOTO", task, 0, [0.2, 0.5], counts=results.SEEN_EPISODES, setting="image")
    keep(kept / "observation", "MOTO", "drawer-open", 0, [0.4, 1.0], counts=results.SEEN_EPISODES, setting="image_hand")
    lines = [line for line in results.seen(results.read_rows("observation")).splitlines() if "-open |" in line]
    assert [line.split(" | ")[:5] for line in lines] == [
        ["| drawer-open", "image", "1", "20 %", "50 %"],
        ["| drawer-open", "image, hand's position", "1", "40 %", "100 %"],
        ["| window-open", "image", "1", "20 %", "50 %"],
    ]


def test_initial_weights_are_compared_by_gradient_steps(kept: Path) -> None:
    for seed, success in ((0, 0.2), (1, 0.4)):
        keep(kept / "initial_weights", "MOTO", "window-close", seed, [success], counts=(0,), setting="scratch")
    lines = results.begun(results.read_rows("initial_weights", untrained=True)).splitlines()
    assert "| random weights | 2 | 0 % | - | - | - | - | - | 30 % |" in lines


def test_without_rows_it_says_what_to_run(kept: Path) -> None:
    with pytest.raises(LookupError, match=r"moto campaign benchmarks/campaigns/ten\.yaml"):
        results.read_rows("ten")


def test_public_figures_are_of_the_same_tasks() -> None:
    with (results.RESULTS / "public" / "tdmpc2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == set(results.TASKS)
    means = [float(row["success"]) for row in rows if (row["agent"], row["episodes"]) == ("TD-MPC2", "500")]
    assert sum(means) / len(means) == pytest.approx(63.3, abs=0.05)  # what their authors' files come to
