"""Methods against each other: grouping, statistics, and the files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.report.comparison import compare_runs


def write_run(
    root: Path,
    agent: str,
    seed: int,
    successes: dict[int, int],
    offline: int = 40,
    env: str = "moto_pl/Reach-v0",
    objects: int = 0,
    staying: dict[int, int] | None = None,
    **settings: Any,
) -> Path:
    """A run with evaluations of ten episodes, successes by gradient step.

    ``staying``: how many of them end in success, by gradient step; of others that is not recorded.
    """
    root.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "model": {"class_path": f"moto_pl.agents.{agent}", "init_args": {"seed": seed, "ops": "auto", **settings}},
        "data": {
            "env": env, "dataset": "reach", "offline_steps": offline, "online_steps": 160, "eval_episodes": 10,
            "offline_round_steps": 20, "updates_per_episode": 4, "num_envs": 1,
        },
    }  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    with open(root / "evaluations.jsonl", "w") as file:
        for step, count in successes.items():
            success = [i < count for i in range(10)]
            record: dict[str, Any] = {
                "stage": "eval", "step": step, "phase": "online", "online_episodes": max(0, step - offline) // 4,
                "seed": list(range(10)), "return": [2.0 * value for value in success], "success": success,
                "length": [30] * 10,
            }  # fmt: skip
            if step in (staying or {}):
                last = [i < (staying or {})[step] for i in range(10)]
                record["success_last"] = last
                record["success_steps"] = [3 * value + 10 * at for value, at in zip(success, last, strict=True)]
            if objects:
                record["objects"] = [f"object {i}" for i in range(objects)]
                record["completed"] = [[value] * (objects - 1) + [False] for value in success]
            file.write(json.dumps(record) + "\n")
    return root


CURVE = {0: 0, 40: 4, 120: 6, 200: 8}


def method_runs(root: Path, agent: str, ends: list[int], **settings: Any) -> list[Path]:
    return [
        write_run(root / f"{agent}{len(settings)}_{seed}", agent, seed, {**CURVE, 200: end}, **settings)
        for seed, end in enumerate(ends)
    ]


def named(paths: list[Path]) -> list[tuple[str | None, Path]]:
    return [(None, path) for path in paths]


def test_seeds_of_a_method_are_found_and_the_best_comes_first(tmp_path: Path) -> None:
    paths = method_runs(tmp_path, "BC", [3, 5, 7]) + method_runs(tmp_path, "MOTO", [8, 10, 9])
    comparison = compare_runs(named(paths))
    assert [(method.name, len(method.runs)) for method in comparison.methods] == [("MOTO", 3), ("BC", 3)]
    moto = comparison.methods[0]
    assert [(p.step, p.online_episodes) for p in moto.online] == [(40, 0), (120, 20), (200, 40)]
    assert [p.step for p in moto.offline] == [0, 40]
    assert moto.last.values == [0.8, 1.0, 0.9] and moto.last.mean == pytest.approx(0.9)
    assert moto.pretrained is not None and moto.pretrained.values == [0.4] * 3
    # Of three values the middle half holds a quarter of the outer ones.
    assert moto.last.iqm == pytest.approx((0.25 * 0.8 + 0.9 + 0.25 * 1.0) / 1.5)
    assert moto.last.interval.low == pytest.approx(0.8) and moto.last.interval.high == pytest.approx(1.0)
    assert comparison.metric == "success" and comparison.notes == []


def test_variants_of_an_agent_are_told_apart(tmp_path: Path) -> None:
    usual = method_runs(tmp_path, "MOTO", [8, 9], behaviour={"clone_scale": 10.0, "horizon": 5})
    without = method_runs(tmp_path / "other", "MOTO", [2], behaviour={"clone_scale": 0.0, "horizon": 5})
    comparison = compare_runs(named(without + usual))
    assert {method.name: len(method.runs) for method in comparison.methods} == {"MOTO": 2, "MOTO, clone_scale 0.0": 1}
    scratch = write_run(tmp_path / "scratch", "DreamerV2", 0, {0: 0, 160: 3}, offline=0)
    comparison = compare_runs([*named([*usual, scratch]), ("no cloning", without[0])])
    assert {method.name for method in comparison.methods} == {"MOTO", "no cloning", "DreamerV2 from scratch"}
    method = next(method for method in comparison.methods if method.name == "DreamerV2 from scratch")
    assert method.offline == [] and method.pretrained is None and method.last.online_episodes == 40
    assert any("data.offline_steps: 0, 40" in note for note in comparison.notes)


def test_objects_and_returns(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / str(seed), "IQL", seed, {40: 2, 200: 5 + seed}, objects=4, env="moto_pl/Kitchen-mixed-v0")
        for seed in range(2)
    ]
    comparison = compare_runs(named(paths))
    assert comparison.metric == "objects" and comparison.most == 4
    assert comparison.methods[0].last.values == pytest.approx([1.5, 1.8])  # three objects in 5 and 6 of 10
    assert compare_runs(named(paths), "return").methods[0].last.values == pytest.approx([1.0, 1.2])


def test_notes_say_what_differs(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", "BC", 3, CURVE)
    same_seed = write_run(tmp_path / "b", "BC", 3, {0: 0, 40: 4})
    notes = " ".join(compare_runs(named([one, same_seed])).notes)
    assert (
        "share a seed (3, 3)" in notes and "only the 2 evaluations" in notes and f"Not finished: {same_seed}" in notes
    )
    assert "One seed a method" in " ".join(compare_runs(named([one])).notes)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", "BC", 0, CURVE)
    other = write_run(tmp_path / "b", "BC", 1, CURVE, env="moto_pl/Kitchen-mixed-v0")
    never = write_run(tmp_path / "c", "BC", 2, {})
    late = write_run(tmp_path / "d", "BC", 2, {10: 1})
    for paths, said in (
        ([one, other], "data.env"),
        ([one, one], "twice"),
        ([one, never], "never evaluated"),
        ([one, late], "same gradient step"),
        ([tmp_path / "nothing"], "no directory"),
    ):
        with pytest.raises(SettingError, match=said):
            compare_runs(named(paths))
    with pytest.raises(SettingError, match="objects"):
        compare_runs(named([one]), "objects")


def test_files_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = method_runs(tmp_path, "BC", [3, 5, 7]) + method_runs(tmp_path, "MOTO", [8, 10, 9])
    assert (
        main(
            [
                "compare",
                *map(str, paths[:3]),
                *(f"ours <b>={path}" for path in paths[3:]),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "| ours <b> | 3 " in printed and "0.90 [0.80, 1.00]" in printed
    out = tmp_path / "out"
    names = {"comparison.html", "comparison.png", "comparison.svg", "comparison.csv", "comparison_table.csv"}
    assert {path.name for path in out.iterdir()} == names
    with open(out / "comparison.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 4
    last = [float(row["success"]) for row in rows if row["method"] == "BC" and row["step"] == "200"]
    assert last == [0.3, 0.5, 0.7]
    with open(out / "comparison_table.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == ["ours <b>", "BC"] and float(table[1]["last_mean"]) == pytest.approx(0.5)
    html = (out / "comparison.html").read_text()
    assert (
        "ours &lt;b&gt;" in html
        and "<b>=" not in html
        and html.count("<svg") == 1
        and "http" not in html.split("<svg")[0]
    )
    assert "ours &lt;b&gt; ends at 0.90" in html
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    svg = (out / "comparison.svg").read_text()
    assert "online episodes" in svg and "offline" in svg


def test_a_report_may_hold_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = method_runs(tmp_path, "BC", [3, 5]) + method_runs(tmp_path, "MOTO", [8, 10])
    assert main(["report", str(paths[2]), "--against", *map(str, [*paths[:2], paths[3]])]) == 0
    html = (paths[2] / "report.html").read_text()
    assert 'id="comparison"' in html and ">BC</th>" in html and ">MOTO</th>" in html
    assert main(["report", str(paths[2])]) == 0
    assert 'id="comparison"' not in (paths[2] / "report.html").read_text()


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", "BC", 0, CURVE)
    (tmp_path / "file").write_text("")
    assert main(["compare", str(run), "--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["compare", f"={run}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_interquartile_mean() -> None:
    from moto_pl.report.statistics import interquartile_mean

    values = np.array([[8.0, 1.0, 2.0, 100.0], [4.0, 4.0, 4.0, 4.0]])
    assert interquartile_mean(values).tolist() == [5.0, 4.0]
    assert interquartile_mean(np.array([[7.0]])).tolist() == [7.0]
    assert interquartile_mean(np.array([[0.0, 1.0]])).tolist() == [0.5]


def test_success_at_the_last_step_is_a_metric_and_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The method that passes through success more often is not the one that stays there."""
    ends = {"BC": (8, 1), "MOTO": (6, 5)}
    paths = [write_run(tmp_path / a, a, 0, {40: 2, 200: e}, staying={200: s}) for a, (e, s) in ends.items()]
    assert [method.name for method in compare_runs(named(paths)).methods] == ["BC", "MOTO"]
    comparison = compare_runs(named(paths), "success_last")
    assert [(method.name, method.last.mean) for method in comparison.methods] == [("MOTO", 0.5), ("BC", 0.1)]
    assert comparison.most == 1 and any("only the 1 evaluations" in note for note in comparison.notes)
    steps = compare_runs(named(paths), "success_steps")
    assert [method.last.mean for method in steps.methods] == pytest.approx([6.8, 3.4]) and steps.most is None
    assert main(["compare", *map(str, paths), "--metric", "success_last", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "Success rate at the last step on moto_pl/Reach-v0" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("| MOTO")]
    assert [cell.strip() for cell in row.split("|")][6:9] == ["0.60", "0.50", "6.80"]
    with open(tmp_path / "out/comparison_table.csv") as file:
        table = {line["method"]: line for line in csv.DictReader(file)}
    found = [float(table["BC"][name]) for name in ("success", "success_last", "success_steps")]
    assert found == pytest.approx([0.8, 0.1, 3.4])
    assert "success rate at the last step" in (tmp_path / "out/comparison.svg").read_text()


def test_runs_that_did_not_record_it_are_not_compared_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write_run(tmp_path / "old", "BC", 0, CURVE)
    new = write_run(tmp_path / "new", "MOTO", 0, CURVE, staying={200: 4})
    with pytest.raises(SettingError, match=r"--metric: found success_last, which .*old was evaluated without"):
        compare_runs(named([new, old]), "success_last")
    assert main(["compare", str(old), str(new), "--out", str(tmp_path / "out")]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| BC")]
    assert [cell.strip() for cell in row.split("|")][6:9] == ["0.80", "-", "-"]
