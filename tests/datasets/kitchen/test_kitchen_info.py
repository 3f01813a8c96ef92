"""What `moto data info` and `moto data view` say of kitchen datasets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from moto_pl.datasets.info import info
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.view import view
from moto_pl.envs import kitchen_id
from moto_pl.replay.episode import Episode


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def episode(objects: list[int], steps: int = 4, one_by_one: bool = False) -> Episode:
    """One in which the objects of these numbers, of all seven, come into place at the last step, or in turn."""
    in_place = np.zeros((steps, 7), bool)
    in_place[-1, objects] = True
    for place, number in enumerate(objects if one_by_one else ()):
        in_place[place:, number] = True
    completed = in_place[:, [0, 1, 4, 5]]
    return Episode(
        image=np.full((steps + 1, 16, 16, 3), 90, np.uint8),
        action=np.zeros((steps, 9), np.float32),
        reward=completed.sum(1).astype(np.float32),
        terminated=False,
        truncated=True,
        success=completed.all(1),
        extras={"completed": completed, "in_place": in_place},
    )


def printed(target: str) -> tuple[dict, str]:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    return info(target, console), console.export_text()


def test_objects_an_episode_beside_the_papers() -> None:
    write_dataset("moto_pl/kitchen/x-v0", [episode([0, 1, 4, 5]), episode([0, 2, 3])], kitchen_id("mixed"))
    numbers, text = printed("moto_pl/kitchen/x-v0")
    assert numbers["mean_objects"] == 3.5
    assert numbers["object_rates"]["microwave"] == 1.0 and numbers["object_rates"]["hinge cabinet"] == 0.0
    assert numbers["mean_return"] == 2.5 and numbers["success_rate"] == 0.5
    text = " ".join(text.split())
    assert "563 trajectories, 128,569 transitions, mean return 261.12, 3.98 objects an episode" in text
    assert "3.50 an episode: microwave 1.00, kettle 0.50, bottom burner 0.50" in text
    both, text = printed("kitchen")
    assert list(both) == ["moto_pl/kitchen/x-v0"]
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["the"][2:] == ["563", "128,569", "261.12", "3.98", "1.000", "-"]
    assert lines["moto_pl/kitchen/x-v0"][1:] == ["2", "8", "2.50", "3.50", "1.000", "0.500"]


def test_the_table_fits_a_terminal() -> None:
    write_dataset("moto_pl/kitchen/partial-v0", [episode([0])], kitchen_id("partial"))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    info("kitchen", console)
    assert "…" not in console.export_text()


def test_the_share_in_canonical_order() -> None:
    bottom, top, switch, slide, hinge = 2, 3, 4, 5, 6
    right = [[0, 1, top, bottom], [switch, hinge, slide], [top, bottom, slide]]
    wrong = [[1, 0], [bottom, top], [slide, hinge], [0, slide, switch]]
    episodes = [episode(objects, one_by_one=True) for objects in (*right, *wrong, [])]
    write_dataset("moto_pl/kitchen/x-v0", episodes, kitchen_id("mixed"))
    numbers, text = printed("moto_pl/kitchen/x-v0")
    assert numbers["canonical_rate"] == 0.5  # with the one of nothing, which has no order to break
    assert "0.500 of trajectories" in " ".join(text.split())


def test_episodes_whose_objects_are_not_recorded() -> None:
    plain = episode([0])
    plain.extras.clear()
    write_dataset("moto_pl/kitchen/x-v0", [plain], kitchen_id("mixed"))
    numbers, text = printed("moto_pl/kitchen/x-v0")
    assert "mean_objects" not in numbers and "not recorded" in text


def test_another_datasets_table_says_nothing_of_the_kitchen() -> None:
    write_dataset("moto_pl/other-v0", [episode([0])], "moto_pl/Reach-v0")
    assert "563" not in printed("moto_pl/other-v0")[1]


def test_view(tmp_path: Path) -> None:
    write_dataset("moto_pl/kitchen/x-v0", [episode([0, 1, 4, 5]), episode([0])], kitchen_id("mixed"))
    sheet, film = view("moto_pl/kitchen/x-v0", tmp_path, columns=3)
    assert Image.open(sheet).size[1] > 2 * 128 and film.stat().st_size > 500
