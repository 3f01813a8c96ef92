"""The report of runs that are whole, in progress, resumed, damaged and hostile."""

import base64
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from jinja2 import UndefinedError

from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.report import html, videos
from moto_pl.report import page as report
from moto_pl.report.html import render_page
from moto_pl.report.records import Evaluation, RunRecord, read_run
from moto_pl.report.results import outcomes, results
from report_runs import OFFLINE, ONLINE, Page, add_evaluation, add_video, write_metrics, write_run


def inlined(content: bytes) -> str:
    return f'data:video/mp4;base64,{base64.b64encode(content).decode()}"'


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_run(tmp_path_factory.mktemp("runs") / "whole")
    report.write_report(root)
    return root


def test_a_finished_run(whole: Path) -> None:
    page = Page((whole / "report.html").read_text())
    assert "Success 17 of 20 at the end; 7 of 20 after pre-training; 0 of 20 untrained." in page.text
    assert "MOTO on moto_pl/Reach-v0" in page.text
    assert "85% [64%, 95%]" in page.text  # Wilson of 17 of 20
    assert "Missing or broken" not in page.text
    assert "50 episodes, 48.8 KiB" in page.text
    assert "32% of all, 100% of the last 10" in page.text
    assert "offline_round_steps" in page.text
    titles = ("Evaluation success", "Evaluation return", "Online success", "Image loss", "Critic losses")
    for title in titles:
        assert title in page.text


def test_the_page_needs_nothing_else(whole: Path) -> None:
    """No script, no file and no address is loaded; links lead into the page or into the run's directory."""
    page = Page((whole / "report.html").read_text())
    tags = [tag for tag, _ in page.found]
    assert not {"script", "link", "iframe", "object"} & set(tags)
    assert "url(http" not in (whole / "report.html").read_text()
    for tag, attributes in page.found:
        source = attributes.get("src")
        assert source is None or source.startswith("data:"), tag
        if tag == "a":
            target = str(attributes["href"])
            assert target.startswith("#") or (whole / target).exists()


def test_ids_stand_once_and_references_lead_somewhere(whole: Path) -> None:
    page = Page((whole / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = [a.get("xlink:href") or (a.get("href") if tag in ("use", "a") else None) for tag, a in page.found]
    assert {r[1:] for r in references if r and r.startswith("#")} <= set(ids)


def test_everything_seen_has_words(whole: Path) -> None:
    page = Page((whole / "report.html").read_text())
    images = [a for tag, a in page.found if a.get("role") == "img" or tag == "video"]
    assert len(images) > 8
    assert all(len(str(a["aria-label"])) > 20 for a in images)
    assert ("html", {"lang": "en"}) in page.found
    for _, attributes in page.found:
        if "aria-labelledby" in attributes:
            assert any(a.get("id") == attributes["aria-labelledby"] for _, a in page.found)


def test_the_same_run_gives_the_same_page(whole: Path) -> None:
    record = read_run(whole)
    assert report.render(record) == report.render(record)


def test_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure on the way leaves the old page, and no half of a new one."""
    root = write_run(tmp_path / "run")
    report.write_report(root)
    before = (root / "report.html").read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moto_pl.files.os.fsync", fail)
    with pytest.raises(SettingError, match="No space left"):
        report.write_report(root)
    assert (root / "report.html").read_bytes() == before
    assert not list(root.glob(".report*"))


# Resumes.


def test_a_resume_replaces_what_it_trained_again(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    write_metrics(root / "csv/version_10", range(100, 120), image=3000.0)
    write_metrics(root / "csv/version_9", range(90, 150), image=2000.0)  # by number, not by name
    image = read_run(root).metrics["model/image"]
    assert image.step.tolist() == list(range(1, 121))
    assert image.value[[89, 90, 99, 100, 119]].tolist() == [500 - 89, 2000 - 90, 2000 - 99, 3000 - 100, 3000 - 119]


def test_validate_replaces_nothing(tmp_path: Path) -> None:
    """`moto validate` opens a version too, whose only row has step 0."""
    root = write_run(tmp_path / "run")
    (root / "csv/version_1").mkdir()
    (root / "csv/version_1/metrics.csv").write_text("epoch,eval/return,eval/success,step\n0,1.5,0.25,0\n")
    assert len(read_run(root).metrics["model/image"].step) == OFFLINE + ONLINE


def test_validate_later_knows_the_online_episodes(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    text = (root / "evaluations.jsonl").read_text().splitlines()
    last = json.loads(text[-1]) | {"online_episodes": 0}
    (root / "evaluations.jsonl").write_text("\n".join([*text, json.dumps(last)]) + "\n")
    evaluations = read_run(root).evaluations
    assert [e.online_episodes for e in evaluations] == [0, 0, 40]


def test_a_line_being_written_is_left_out(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    path = root / "csv/version_0/metrics.csv"
    path.write_text(path.read_text().rstrip("\n")[:-3])
    record = read_run(root)
    assert len(record.metrics["speed/updates_per_s"].step) == (OFFLINE + ONLINE) // 4 - 1


# Runs in progress, and missing parts.


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    root = tmp_path / "begun"
    (root / "csv").mkdir(parents=True)
    page = Page(report.write_report(root).read_text())
    assert "Nothing has been evaluated yet." in page.text
    for part in ("config.yaml is", "evaluations.jsonl is", "dataset.json is not there", "no training metrics"):
        assert part in page.text


@pytest.mark.parametrize("part", ["config.yaml", "evaluations.jsonl", "csv", "replay", "videos", "checkpoints"])
def test_any_part_may_be_missing(tmp_path: Path, part: str) -> None:
    root = write_run(tmp_path / "run")
    (root / part).rename(tmp_path / "away")
    page = Page(report.write_report(root).read_text())
    said = {"videos": "There are no videos yet", "checkpoints": "There is no checkpoint yet"}
    assert said.get(part, "Missing or broken") in page.text


def test_a_run_in_progress_says_where_it_stands(tmp_path: Path) -> None:
    root = tmp_path / "run"
    write_run(root)
    lines = (root / "evaluations.jsonl").read_text().splitlines()
    (root / "evaluations.jsonl").write_text("\n".join(lines[:2]) + '\n{"stage": "eval", "st')
    (root / "csv/version_0/metrics.csv").unlink()
    (root / "csv/version_0").rmdir()
    write_metrics(root / "csv/version_0", range(60))
    line = report.verdict(read_run(root))
    assert line == "Success 7 of 20 after pre-training; 0 of 20 untrained. The run stands at 60 of 200 gradient steps."


@pytest.mark.parametrize("looks", range(4))
@pytest.mark.parametrize("name", ["replay/.000050.tmp", "replay/000049.safetensors", "checkpoints/previous.ckpt"])
def test_files_may_go_while_they_are_listed(
    tmp_path: Path, name: str, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run renames what it has written and removes what it keeps no longer, at any moment."""
    root = write_run(tmp_path / "run")
    (root / name).write_bytes(bytes(1000))
    stat, seen = Path.stat, []

    def look(path: Path, **options: Any) -> Any:
        if path == root / name:
            seen.append(path)
            if len(seen) > looks:
                raise FileNotFoundError(2, "No such file or directory", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", look)
    assert "MOTO on moto_pl/Reach-v0" in report.render(read_run(root))
    assert seen


def test_checkpoints_are_named(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    for name in ("last", "previous", "pretrained", "best"):
        (root / f"checkpoints/{name}.ckpt").write_bytes(b"weights")
    text = Page(report.render(read_run(root))).text
    assert "best in an evaluation" in text and "end of pre-training" in text and "the one before it" in text


def test_a_run_made_longer(tmp_path: Path) -> None:
    """What was the end when it was recorded is not the end any more."""
    root = write_run(tmp_path / "run")
    config = yaml.safe_load((root / "config.yaml").read_text())
    config["data"]["online_steps"] = 1000
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    line = report.verdict(read_run(root))
    assert line.startswith("Success 17 of 20 during fine-tuning (200 gradient steps); 7 of 20 after pre-training;")


def test_test_seeds_stand_apart(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    add_evaluation(root, "test", 200, "final", 15, 20)
    page = Page(report.write_report(root).read_text())
    assert "15 of 20 on the test seeds after 200 gradient steps" in page.text
    assert "Success 17 of 20 at the end" in page.text
    assert [tag for tag, _ in page.found].count("caption") == 2


def test_one_evaluation_episode(tmp_path: Path) -> None:
    page = Page(report.write_report(write_run(tmp_path / "run", episodes=1)).read_text())
    assert "[one episode]" in page.text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", "just words"),
        ("config.yaml", "data: 3\nmodel: [x]"),
        ("evaluations.jsonl", '{"stage": "eval", "step": 3, "success": [], "return": [], "length": []}\n'),
        ("replay/dataset.json", "{"),
        ("replay/dataset.json", "[]"),
        ("csv/version_0/metrics.csv", "step,model/image\n0,nan\n1,inf\nx,1\n2\n3,4,5\n"),
        ("csv/version_0/metrics.csv", ""),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: str) -> None:
    root = write_run(tmp_path / "run")
    (root / file).write_text(content)
    page = Page(report.write_report(root).read_text())
    if content != "data: 3\nmodel: [x]":
        assert "Missing or broken" in page.text


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    path = root / "csv/version_0/metrics.csv"
    rows = path.read_text().split("\n")
    header = rows[0].split(",")
    broken = rows[20].split(",")
    broken[header.index("critic/model")] = "nan"
    step = int(broken[header.index("step")])
    path.write_text("\n".join([*rows[:20], ",".join(broken), *rows[21:]]))
    page = Page(report.write_report(root).read_text())
    assert f"critic/model is not finite in 1 rows, first after {step + 1} gradient steps" in page.text


@pytest.mark.parametrize("make", [False, True])
def test_a_directory_that_is_no_run(tmp_path: Path, make: bool, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "none"
    if make:
        (root / "other").mkdir(parents=True)
    with pytest.raises(SettingError, match="run: found"):
        report.write_report(root)
    assert main(["report", str(root)]) == 2
    assert capsys.readouterr().err.startswith("moto: run: found")
    assert not (root / "report.html").exists()


# Videos and hostile text.


def test_few_videos_are_inlined_and_the_rest_is_named(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    for step in range(20, 200, 20):
        add_video(root, f"eval_{step:07d}", b"e%d" % step)
        add_video(root, f"open_loop_{step:07d}", b"o%d" % step)
    add_video(root, ".eval_0000999.tmp", b"half")
    html = report.write_report(root).read_text()
    assert html.count("<video ") == videos.MAX_VIDEOS
    for content in (b"eval_0000000", b"eval_0000200", b"open_loop_0000200", b"e40", b"o40"):
        assert inlined(content) in html  # first, newest, end of pre-training
    names = {path.name for path in (root / "videos").glob("[!.]*.mp4")}
    assert all(name in html for name in names)
    assert f"{len(names) - videos.MAX_VIDEOS} more not in this page" in html
    assert "tmp.mp4" not in html


def test_videos_are_capped_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_run(tmp_path / "run")
    monkeypatch.setattr(videos, "MAX_VIDEO_BYTES", 1000)
    add_video(root, "eval_0000200", bytes(1001))
    html = report.write_report(root).read_text()
    assert html.count("<video ") == 3
    assert inlined(bytes(1001)) not in html
    assert "1 more not in this page" in html


def test_captions_say_what_one_sees(whole: Path) -> None:
    page = Page((whole / "report.html").read_text())
    assert "Policy after 40 gradient steps, after pre-training" in page.text
    assert "Of all 20, 7 succeed." in page.text
    assert "recorded frames above, the model in the middle, its error below" in page.text


def test_what_comes_from_files_is_escaped(tmp_path: Path) -> None:
    evil = "</style><script>alert('x')</script>\" onload=\"'"
    root = write_run(tmp_path / "run <b>&")
    config = yaml.safe_load((root / "config.yaml").read_text())
    config |= {"seed_everything": evil, "model": {"class_path": evil}}
    config["data"] |= {"env": evil, "dataset": evil}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "replay/dataset.json").write_text(json.dumps({"dataset": evil, "episodes": evil}))
    add_evaluation(root, "eval", 100, evil, 3, 20)
    path = root / "csv/version_0/metrics.csv"
    path.write_text(path.read_text().replace("critic/model", "critic/<script>x<'\"").replace("actor/value", "$\\frac$"))
    name = "#1 100% <script>'\""
    add_video(root, name, b"video")
    page = Page(report.write_report(root).read_text())
    tags = {tag for tag, _ in page.found}
    assert "script" not in tags
    assert not any("onload" in attributes for _, attributes in page.found)
    assert "alert('x')" in page.text
    assert f"videos/{name}.mp4" in {unquote(str(a["href"])) for tag, a in page.found if tag == "a"}
    assert not any("<" in str(a["href"]) or "#1" in str(a["href"]) for tag, a in page.found if tag == "a")


def test_dollars_in_metric_names_are_no_formulas(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    path = root / "csv/version_0/metrics.csv"
    path.write_text(path.read_text().replace("critic/model", "critic/$\\frac$"))
    assert "critic/$\\frac$" in Page(report.write_report(root).read_text()).text


def test_long_curves_are_thinned() -> None:
    from moto_pl.report.charts import POINTS, thin
    from moto_pl.report.records import Series

    series = Series(np.arange(10_007), np.arange(10_007) * 2.0)
    thinned = thin(series)
    assert len(thinned.step) == POINTS
    assert thinned.value == pytest.approx(2 * thinned.step)
    assert thin(Series(np.arange(9), np.arange(9.0))).step.tolist() == list(range(9))


# Success, and staying there.


def test_success_at_the_last_step_and_steps_in_success(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    last = [i < 5 for i in range(20)]
    staying = {"success_last": last, "success_steps": [2 * (i < 17) + 10 * at for i, at in enumerate(last)]}
    add_evaluation(root, "eval", OFFLINE + ONLINE, "final", 17, 20, **staying)
    page = Page(report.write_report(root).read_text())
    assert "Success 17 of 20 at the end (at the last step 5; 4.20 steps in success an episode); 7 of 20" in page.text
    assert "5 of 20" in page.text and "Evaluation success at the last step" in page.text
    assert "Steps in success in evaluation" in page.text
    assert "Of all 20, 17 succeed (at the last step 5; 4.20 steps in success an episode)." in page.text
    charts = [str(a.get("aria-label")) for tag, a in page.found if a.get("role") == "img"]
    # Only what was recorded is drawn: the older evaluations have no last step.
    assert "Evaluation success at the last step against gradient steps: 5 of 20 after 200 steps." in charts
    assert "Steps in success in evaluation against gradient steps: 4.20 after 200 steps." in charts


def test_runs_of_older_versions_say_nothing_of_staying(whole: Path) -> None:
    page = Page((whole / "report.html").read_text())
    assert "Evaluation success at the last step" not in page.text and "(at the last step" not in page.text
    assert "Which seeds fail" in page.text  # seeds were always recorded


def test_online_success_in_its_three_ways(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    path = root / "csv/version_0/metrics.csv"
    with open(path) as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["online/success"]:
            row["online/success_last"], row["online/success_steps"] = "0.25", "3"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "online/success_last", "online/success_steps"])
        writer.writeheader()
        writer.writerows(rows)
    page = Page(report.write_report(root).read_text())
    assert "Online success rate at the last step" in page.text and "Online steps in success" in page.text
    assert "Online success at the last step" in page.text and "25% of all" in page.text


def test_how_often_each_seed_failed() -> None:
    def evaluation(step: int, seeds: list[int], success: list[int], last: list[int]) -> Evaluation:
        of = ([float(s) for s in success], [bool(s) for s in success], [9] * len(seeds), (), (), tuple(seeds))
        return Evaluation("eval", step, "online", 0, *of, tuple(map(bool, last)), tuple(success))

    first = evaluation(10, [7, 8, 9], [0, 1, 1], [0, 0, 1])
    assert outcomes(first) == {7: "failed", 8: "success before the last step", 9: "success at the last step"}
    assert outcomes(evaluation(20, [7, 8], [0, 1], [])) == {7: "failed", 8: "success, last step not recorded"}
    record = RunRecord(Path("run"), {}, "", None, {}, [first, evaluation(20, [9, 8, 7], [1, 0, 0], [0, 0, 0])], {})
    page = Page(report.render(record))
    (said,) = [str(a["aria-label"]) for _, a in page.found if str(a.get("aria-label")).startswith("Failed")]
    assert said == "Failed evaluations: 2 of 2 at seed 7, 1 of 2 at seed 8; 1 of 3 seeds never failed."
    # A row a seed, the worst first, with its count at the right.
    chart = results(record).seeds
    assert chart is not None
    texts = [part.strip() for part in Page(chart.svg).text.split("\n")]
    assert [text for text in texts if text in ("7", "8", "9")] == ["7", "8", "9"]
    assert [text for text in texts if text in ("2 of 2", "1 of 2", "0 of 2")] == ["2 of 2", "1 of 2", "0 of 2"]


# The templates.


def test_templates_escape_and_miss_nothing() -> None:
    """Whatever a page is given is text, and what it asks for is given."""
    evil = "<script>\"'&"
    values = {"parts": None, "view": None, "verdict": evil}
    with pytest.raises(UndefinedError):
        render_page("comparison.html", "title", **values)
    template = html._templates().from_string('<a title="{{ x }}">{{ x }}</a>{{ 1234567|count }} {{ 0.256|percent }}')
    page = Page(template.render(x=evil))
    assert page.found == [("a", {"title": evil})] and page.text == f"{evil}1,234,567 26%"
    with pytest.raises(UndefinedError):
        html._templates().from_string("{{ missing }}").render()


def test_reading_runs_needs_no_torch() -> None:
    """What shows runs starts fast, and beside a training takes no memory for it."""
    code = "import sys, moto_pl.report.page, moto_pl.report.compare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
