"""A killed and resumed run is one curve for each tracker: what is read back from their own files says so."""

from __future__ import annotations

import importlib.util
import json
import resource
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from moto_pl.callbacks.send import SendToTrackers
from moto_pl.callbacks.trackers import RemoteTracker, Sent, TensorBoardTracker
from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.training.loggers import chosen_loggers
from runs import CONFIGS, environment, fault, fit

INSTALLED = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is not None]
#: By metric, the gradient steps and values that a tracker was sent, in the order in which it was.
Curves = dict[str, list[tuple[int, float]]]


def needs(name: str) -> None:
    if name not in INSTALLED and name != "tensorboard":
        pytest.skip(f"{name} is not installed: pip install 'moto_pl[{name}]'")


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For all tests: trackio asks once where its files are, as it is imported."""
    return tmp_path_factory.mktemp("trackio")


@pytest.fixture()
def offline(trackio_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No tracker asks for a network; trackio's files are in the folder that is returned."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRACKIO_DIR", str(trackio_folder))
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "WANDB_PROJECT", "TRACKIO_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return trackio_folder


# What trackers have on the disk, read by their formats.


def tensorboard_curves(directory: Path) -> Curves:
    found: Curves = {}
    for path in sorted(directory.glob("events*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.tensor.float_val else float("nan")
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def records(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: LevelDB's log, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data, place, part = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            yield record
            part = b""


def wandb_rows(run: Path) -> list[dict[str, Any]]:
    """All rows of all processes, in order."""
    rows = []
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item  # a film or a picture is several, below one name
                rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
                rows[-1]["row"] = record.history.step.num
    return rows


def wandb_curves(run: Path) -> Curves:
    found: Curves = {}
    for row in wandb_rows(run):
        for name, value in row.items():
            if name[0] != "_" and name not in ("row", "trainer/global_step"):
                number = float(value) if isinstance(value, int | float) else float("nan")
                found.setdefault(name, []).append((row["trainer/global_step"], number))
    return found


def trackio_names(run: Path) -> set[str]:
    """What trackio calls the curves of a run."""
    notes = (run / "trackers").glob("trackio*.json")
    return {f"{run.name}-{json.loads(path.read_text())['id']}" for path in notes}


def trackio_rows(run: Path, folder: Path) -> list[tuple[str, int, dict[str, Any]]]:
    (path,) = folder.glob("*.db")
    with sqlite3.connect(path) as base:
        rows = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
    return [(name, step, json.loads(metrics)) for name, step, metrics in rows if name in trackio_names(run)]


def trackio_curves(run: Path, folder: Path) -> Curves:
    found: Curves = {}
    for _, step, metrics in trackio_rows(run, folder):
        for name, value in metrics.items():
            number = float(value) if isinstance(value, int | float) else float("nan")
            found.setdefault(name, []).append((step, number))
    return found


def curves(kind: str, run: Path, folder: Path) -> Curves:
    if kind == "tensorboard":
        return tensorboard_curves(run / "tensorboard")
    return wandb_curves(run) if kind == "wandb" else trackio_curves(run, folder)


def tracker(kind: Any, run: Path, anew: bool = False) -> Any:
    run.mkdir(exist_ok=True)
    return TensorBoardTracker(run, anew) if kind == "tensorboard" else RemoteTracker(kind, run, anew)


def close(one: Any, failed: bool = False) -> None:
    """Ends it. wandb's file is written by a process of its own, which has its time."""
    one.close(failed)
    paths = [] if one.name != "wandb" else sorted(one.root.glob("wandb/offline-run-*/*.wandb"))[-1:]
    end = time.monotonic() + 60
    for path in paths:
        while "exit" not in {record.WhichOneof("record_type") for record in records(path)}:
            assert time.monotonic() < end, path
            time.sleep(0.2)


KINDS = ("tensorboard", "wandb", "trackio")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_write_one_curve(kind: str, offline: Path, tmp_path: Path) -> None:
    """The second goes on from step 3, as after a kill at step 5; an evaluation at step 5 had not been sent."""
    needs(kind)
    run = tmp_path / "run"
    first = tracker(kind, run)
    for step in range(6):
        first.log_metrics({"loss": 10.0 - step}, step)
    close(first, failed=True)
    time.sleep(1.1)  # wandb names a process's folder by the second in which it begins
    second = tracker(kind, run)
    for step in range(3, 9):
        second.log_metrics({"loss": 20.0 - step}, step)
        if step == 5:
            second.log_metrics({"loss": 0.0, "eval/success": 0.5}, step)
    close(second)
    found = curves(kind, run, offline)
    assert found["loss"] == [(step, (10.0 if step < 6 else 20.0) - step) for step in range(9)]
    assert found["eval/success"] == [(5, 0.5)]
    if kind == "wandb":
        rows = [row["row"] for row in wandb_rows(run)]
        assert rows == sorted(set(rows)), "wandb drops a row whose number is not above the last"
        assert len({path.suffixes[0] for path in run.glob("wandb/offline-run-*/run-*.wandb")}) == 1
        assert len({path.name for path in run.glob("wandb/offline-run-*/run-*.wandb")}) == 1  # one id
    if kind == "trackio":
        assert len({name for name, *_ in trackio_rows(run, offline)}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_another_curve_where_a_run_goes_back(kind: str, offline: Path, tmp_path: Path) -> None:
    needs(kind)
    run = tmp_path / "run"
    for anew in (False, True):
        one = tracker(kind, run, anew)
        one.log_metrics({"loss": 1.0 + anew}, 4)
        close(one)
    if kind == "tensorboard":
        (below,) = [path for path in (run / "tensorboard").iterdir() if path.is_dir()]
        assert tensorboard_curves(run / "tensorboard")["loss"] == [(4, 1.0)]
        assert tensorboard_curves(below)["loss"] == [(4, 2.0)]
    elif kind == "wandb":
        assert len({path.name for path in run.glob("wandb/offline-run-*/run-*.wandb")}) == 2
    else:
        assert len({name for name, *_ in trackio_rows(run, offline)}) == 2
    assert len(list((run / "trackers").glob("*.json"))) == 2  # the first curve's id is kept
    one = tracker(kind, run)
    one.log_metrics({"loss": 3.0}, 4)
    one.log_metrics({"loss": 3.0}, 5)
    close(one)
    if kind == "tensorboard":
        assert tensorboard_curves(below)["loss"] == [(4, 2.0), (5, 3.0)]  # goes on with the newer one


@pytest.mark.parametrize("kind", KINDS)
def test_settings_films_pictures_and_tables(kind: str, offline: Path, tmp_path: Path) -> None:
    from moto_pl.callbacks.send import _sheet, _small
    from moto_pl.callbacks.video import write_video

    needs(kind)
    run = tmp_path / "run"
    frames = np.zeros((7, 16, 24, 3), np.uint8)
    frames[:, :, :, 0] = np.linspace(0, 250, 7, dtype=np.uint8)[:, None, None]
    film = run / "videos/eval_0000020.mp4"
    write_video(film, frames, scale=2)
    small = _small(film)
    assert small.shape == (7, 16, 24, 3) and _sheet(small).shape == (64, 24, 3)
    one = tracker(kind, run)
    one.log_settings({"data": {"env": "A-v0"}, "report_every": 2})
    one.log_film("videos/eval", film, _sheet(small), small, 20)
    one.log_table("evaluations", ["seeds", "step"], [["eval", 20], ["test", 40]], 20)
    close(one)
    if kind == "tensorboard":
        check_album(run / "tensorboard")
    elif kind == "wandb":
        (folder,) = run.glob("wandb/offline-run-*")
        media = {path.suffix: path for path in (folder / "files/media").rglob("*") if path.is_file()}
        assert media[".mp4"].read_bytes() == film.read_bytes() and ".png" in media
        assert json.loads(media[".json"].read_text())["data"] == [["eval", 20], ["test", 40]]
        (path,) = folder.glob("*.wandb")
        settings = {i.key: json.loads(i.value_json) for r in records(path) for i in r.config.update}
        assert settings["data"] == {"env": "A-v0"} and settings["report_every"] == 2
    else:
        (name,) = trackio_names(run)
        media = {path.suffix: path for path in (offline / "media/moto_pl" / name).rglob("*") if path.is_file()}
        assert media[".mp4"].read_bytes() == film.read_bytes() and ".png" in media
        tables = [
            metrics["evaluations"]["_value"] for _, _, metrics in trackio_rows(run, offline) if "evaluations" in metrics
        ]
        assert tables == [[{"seeds": "eval", "step": 20}, {"seeds": "test", "step": 40}]]
        (base,) = offline.glob("*.db")
        with sqlite3.connect(base) as open_base:
            query = "select config from configs where run_name = ?"
            ((settings,),) = open_base.execute(query, [name]).fetchall()
        assert json.loads(settings)["data"] == {"env": "A-v0"}


def check_album(directory: Path) -> None:
    found = EventAccumulator(str(directory))
    found.Reload()
    tags = found.Tags()
    assert set(tags["images"]) == {"videos/eval", "videos/eval_film"}
    (film,) = found.Images("videos/eval_film")
    assert film.encoded_image_string[:4] == b"GIF8" and film.step == 20
    (text,) = [event.tensor_proto.string_val[0] for event in found.Tensors("evaluations/text_summary")]
    assert b"| test | 40 |" in text
    (text,) = [event.tensor_proto.string_val[0] for event in found.Tensors("settings/text_summary")]
    assert b"env: A-v0" in text


def test_what_was_sent_is_noted_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "trackers/wandb.json"
    sent = Sent(path)
    assert not path.exists()  # a run that begins anew moves the old one aside first
    assert sent.take(["a", "b"], 0) == ["a", "b"] and sent.take(["a", "b", "c"], 0) == ["c"]
    assert sent.take(["a"], 5) == ["a"] and sent.take(["a"], 4) == [] and sent.take(["b"], 4) == ["b"]
    again = Sent(path)
    assert again.id == sent.id and again.rows == sent.rows == 4 and again.take(["a", "b"], 5) == ["b"]
    assert not list(tmp_path.glob("trackers/.*"))


@pytest.mark.parametrize("content", ["{", "[]", '{"id": 3, "rows": 0, "steps": {}}'])
def test_a_damaged_note_begins_another_curve_and_says_so(content: str, tmp_path: Path) -> None:
    path = tmp_path / "wandb.json"
    path.write_text(content)
    with pytest.warns(UserWarning, match="begins another curve"):
        assert Sent(path).take(["a"], 3) == ["a"]
    assert Sent(path).begun_anew and Sent(path).take(["a"], 3) == []


@pytest.mark.parametrize("hook", ["on_train_end", "on_test_end"])
def test_a_tracker_that_refuses_a_table_is_a_warning(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("no tables today")

    monkeypatch.setattr(RemoteTracker, "log_table", refuse)
    record = {"stage": "eval", "step": 20, "return": [1.0], "success": [True], "length": [3]}
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    trainer: Any = SimpleNamespace(
        default_root_dir=str(tmp_path), is_global_zero=True, global_step=20, loggers=[RemoteTracker("wandb", tmp_path)]
    )
    with pytest.warns(UserWarning, match=r"of (evaluations|tests) could not be sent to a tracker \(no tables today\)"):
        getattr(SendToTrackers(), hook)(trainer, SimpleNamespace(trained_steps=20))


# The setting.


def test_names_are_words_or_a_list() -> None:
    assert chosen_loggers(None, None) == ("csv", "tensorboard")
    assert chosen_loggers("csv, tensorboard", None) == chosen_loggers(["csv", "tensorboard"], True)
    assert chosen_loggers("csv", None) == ("csv",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--logger", "wandbb"], "--logger: found 'wandbb'. Did you mean wandb?"),
        (["--logger", "csv,csv"], "--logger: found csv, twice"),
        (["--logger", "csv", "--trainer.logger", "false"], "--logger: found csv. Give it or trainer.logger"),
    ],
)
def test_what_does_not_fit_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("--trainer.default_root_dir", str(tmp_path / "run"))
    assert main(["fit", "--config", str(CONFIGS / "debug.yaml"), *run, *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_one_that_is_not_installed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto_pl.training.loggers.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=rf"--logger: found {kind}, which is not installed.*moto_pl\[{kind}\]"):
        chosen_loggers(kind, None)


def test_without_an_account_wandb_is_one_line(tmp_path: Path) -> None:
    """In a process of its own: it asks once whether it is offline."""
    needs("wandb")
    hidden = ("WANDB_MODE", "WANDB_API_KEY")
    env = {name: value for name, value in environment().items() if name not in hidden}
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    code = "import sys; from pathlib import Path; from moto_pl.callbacks.trackers import RemoteTracker\n"
    code += "from moto_pl.errors import SettingError\n"
    code += "try: RemoteTracker('wandb', Path(sys.argv[1])).open()\nexcept SettingError as error: print(f'<{error}>')"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("<")]
    assert line.startswith("<--logger: found wandb, which cannot begin (") and line.endswith("WANDB_MODE=offline.>")


# Whole runs.


@pytest.mark.slow
def test_a_killed_and_resumed_run(reach_dataset: Path, offline: Path, tmp_path: Path) -> None:
    """Killed at step 27 after the checkpoint of step 20, with what it had sent beyond that."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    names = ",".join(["tensorboard", *INSTALLED])
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--trainer.log_every_n_steps", "1")
    rounds = ("--checkpoint_every", "4", "--video_episodes", "1")
    args = (*data, *rounds, "--logger", names)
    killed = fit(run, *args, *fault(27))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert max(step for step, _ in tensorboard_curves(run / "tensorboard")["loss"]) >= 25
    done = fit(run, *args)
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr
    done = fit(whole, *data, *rounds, "--logger", "csv,tensorboard")
    assert done.returncode == 0
    unbroken = tensorboard_curves(whole / "tensorboard")
    assert [step for step, _ in unbroken["loss"]] == list(range(40))
    for kind in ("tensorboard", *INSTALLED):
        found = curves(kind, run, offline)
        for name, points in unbroken.items():
            steps = [step for step, _ in found[name]] if name in found else []
            assert steps == sorted(set(steps)), (kind, name)
            if name.startswith(("settings", "evaluations", "speed")):
                continue
            lost = {step for step, _ in points} - set(steps)
            # What had not been written as it was killed: trackio writes twice a second, and wandb by another process.
            assert lost <= (set() if kind == "tensorboard" else set(range(20, 28))), (kind, name, lost)
            if not name.startswith("videos"):
                values = dict(found[name])
                pairs = [(step, values[step], value) for step, value in points if step in values]
                assert [pair for pair in pairs if not np.isclose(*pair[1:], rtol=1e-6, equal_nan=True)] == [], (
                    kind,
                    name,
                )
        assert {"videos/eval", "videos/open_loop"} <= {name.removesuffix("_film") for name in found}
    assert not (whole / "wandb").exists()
    assert yaml.safe_load((run / "config.yaml").read_text())["logger"] == names


def test_only_csv(reach_dataset: Path, tmp_path: Path) -> None:
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.env_workers", "0")
    short = ("--data.offline_steps", "2", "--data.online_steps", "0", "--data.eval_episodes", "0")
    args = (*data, *short, "--video_episodes", "0", "--trainer.default_root_dir", str(tmp_path / "run"))
    assert main(["fit", "--config", str(CONFIGS / "debug.yaml"), *args, "--logger", "[csv]"]) == 0
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert "csv" in there and not there & {"tensorboard", "trackers", "wandb"}


@pytest.fixture
def full() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond so many bytes from then on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_tensorboard_is_said_by_who_waits_for_it(
    full: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    tracker = TensorBoardTracker(tmp_path)
    full(0)
    with pytest.raises(OSError, match="File too large.*tensorboard"):
        tracker.open()
    assert not shown
    other = threading.Thread(target=lambda: [][0])  # what ends another thread is shown as ever
    other.start()
    other.join()
    assert len(shown) == 1


@pytest.mark.parametrize("write", ["log_metrics", "log_film", "log_table", "save", "finalize", "close"])
def test_a_disk_that_is_full_later_names_tensorboards_files(
    write: str, full: Callable[[int], None], tmp_path: Path
) -> None:
    frames, tracker = np.zeros((2, 32, 32, 3), np.uint8), TensorBoardTracker(tmp_path)
    tracker.open()
    tracker.experiment.add_text("long", "before" * 999, 0)
    tracker.experiment.flush()
    (events,) = Path(tracker.log_dir).iterdir()
    arguments: dict[str, tuple[Any, ...]] = {
        "log_metrics": ({"loss": 1.0}, 1),
        "log_film": ("videos/eval", tmp_path, frames[0], frames, 1),
        "log_table": ("evaluations", ["step"], [[1]], 1),
        "finalize": ("success",),
        "close": (False,),
    }
    full(events.stat().st_size)
    tracker.experiment.add_text("long", "after", 1)
    with pytest.raises(OSError, match="File too large") as refused:
        getattr(tracker, write)(*arguments.get(write, ()))
    assert refused.value.filename == tracker.log_dir


def test_a_full_disk_names_the_note_of_what_was_sent(full: Callable[[int], None], tmp_path: Path) -> None:
    full(0)
    with pytest.raises(OSError, match="File too large.*wandb.json"):
        Sent(tmp_path / "wandb.json").take(["a"], 0)
