"""The command line, its configurations, and what it says to bad input."""

from __future__ import annotations

import atexit
import dataclasses
import errno
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml

import moto_pl
from moto_pl import cli
from moto_pl.agents.loading import load_agent
from moto_pl.cli import main
from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.errors import SettingError
from moto_pl.evaluations import read_evaluations
from moto_pl.files import lock_run
from moto_pl.training.configs import settings_of

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasets") / "reach"
    build("reach", output=str(path), workers=1)
    return path


def debug(run: Path, dataset: Path | str, *args: str) -> list[str]:
    """Arguments of a tiny run with one environment in this process."""
    return [
        *("--config", str(CONFIGS / "debug.yaml"), "--trainer.default_root_dir", str(run)),
        *("--data.dataset", str(dataset), "--data.build_missing", "false"),
        *("--data.env_workers", "0", "--data.offline_steps", "4", "--data.offline_round_steps", "4"),
        *("--data.online_steps", "4", "--data.updates_per_episode", "2", "--data.eval_episodes", "2"),
        *args,
    ]


@pytest.mark.slow
def test_fit_validate_test_and_report(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["fit", *debug(run, dataset, "--data.val_episodes", "2")]) == 0
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8
    assert len(list((run / "replay").glob("*.safetensors"))) == 8 + 2  # two of ten held out, two collected
    records = read_evaluations(run)
    assert [(r["phase"], r["step"], r["online_episodes"]) for r in records] == [
        ("untrained", 0, 0),
        ("pretrained", 4, 0),
        ("final", 8, 2),
    ]
    assert all(len(set(r["seed"])) == 2 and min(r["seed"]) >= 2**30 for r in records)
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["online_steps"] == 4
    header = (run / "csv/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    for name in (
        *("model/image", "model/kl", "critic/model", "critic/real", "actor/value", "actor/clone", "online/return"),
        *(
            "eval/value_bias",
            "eval/return_to_go",
            "eval/success",
            "eval/success_last",
            "eval/success_steps",
            "online/success_last",
            "online/success_steps",
        ),
        *("speed/updates_per_s", "speed/env_steps_per_s", "speed/data_wait", "held_out/model/image"),
    ):
        assert name in header
    assert list((run / "tensorboard").glob("events*"))
    assert {path.name for path in (run / "videos").glob("*.mp4")} >= {"eval_0000008.mp4", "open_loop_0000008.mp4"}
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert kept == {"last.ckpt", "previous.ckpt", "pretrained.ckpt", "best.ckpt"}
    # The same command again has nothing left to do, and changes nothing.
    before = (run / "checkpoints/last.ckpt").read_bytes()
    assert main(["fit", *debug(run, dataset, "--data.val_episodes", "2")]) == 0
    assert "all 8 gradient steps are taken" in capsys.readouterr().out
    assert (run / "checkpoints/last.ckpt").read_bytes() == before
    assert main(["validate", *debug(run, dataset)]) == 0
    assert read_evaluations(run)[2]["return"] == records[2]["return"]  # the same weights on the same seeds
    assert main(["test", *debug(run, dataset, "--data.test_episodes", "3")]) == 0
    tests = [r for r in read_evaluations(run) if r["stage"] == "test"]
    assert len(tests) == 1 and len(tests[0]["seed"]) == 3 and min(tests[0]["seed"]) >= 2**30 + 2**29
    best = max(records[1:], key=lambda r: (sum(r["success"]), sum(r["return"])))
    assert torch.load(run / "checkpoints/best.ckpt", weights_only=True)["global_step"] == best["step"]
    assert main(["test", *debug(run, dataset, "--data.test_episodes", "1", "--ckpt_path", "best")]) == 0
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "<html" in page and "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_online_from_scratch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    args = debug(run, "unused", "--data.offline_steps", "0", "--evaluate_untrained", "false")
    args[args.index("--data.dataset") + 1] = "null"
    assert main(["fit", *args]) == 0
    assert len(list((run / "replay").glob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data.env", "moto_pl/MetaWorld-door-opn-v0"], ["door-opn", "door-open"]),
        (["--data.dataset", "metaworld/dor-open"], ["metaworld/dor-open", "metaworld/door-open"]),
        (["--model.init_args.batch.model_length", "64"], ["64", "31 rows"]),
        (["--data.online_fraction", "1.5"], ["data.online_fraction", "1.5", "[0, 1]"]),
        (["--data.updates_per_episode", "0"], ["data.updates_per_episode", "0"]),
        (["--data.val_episodes", "10"], ["data.val_episodes", "10 episodes"]),
        (["--data.num_envs", "3"], ["data.num_envs", "3"]),
        (["--model.init_args.world_model.ensemble", "0"], ["world_model.ensemble", "0"]),
        (["--model.init_args.behaviour.disagreement", "max_var"], ["max_var", "categorical"]),
        (["--model.init_args.behaviour.gamma", "1.5"], ["behaviour.gamma", "1.5"]),
        (["--data.replay_limit_gb", "0.0001"], ["GiB", "MiB"]),
        (["--ckpt_path", "nowhere.ckpt"], ["ckpt_path", "nowhere.ckpt"]),
        (["--config", "nowhere.yaml"], ["--config", "nowhere.yaml"]),
    ],
    ids=lambda value: value[0].removeprefix("--") if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_bad_input_is_one_clear_line(
    args: list[str], words: list[str], tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = debug(tmp_path / "run", dataset, "--evaluate_untrained", "false")
    assert main(["fit", *base, *args]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("moto: ")
    if "replay_limit" in args[0]:
        assert "replay" in error
    else:
        for word in words:
            assert word in error
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("place", ["/proc/place", "file", "file/place"])
@pytest.mark.parametrize(
    "line",
    [
        "data build reach --output PLACE",
        "data build kitchen/mixed --output PLACE",
        "data build metaworld/door-open --output PLACE",
        "data import DATASET --output PLACE",
        "data render states.npy --output PLACE",
        "data export DATASET PLACE --format minari",
        "data export DATASET PLACE --format lerobot",
        "data export DATASET PLACE --format robomimic",
        "data view DATASET --output_dir PLACE",
        "compare run --out PLACE",
        "analyze calibration --ckpt last.ckpt --episodes reach --out PLACE",
        "reproduce table1 --out PLACE",
        "reproduce figure5 --runs PLACE",
        "demo --dir PLACE",
        "export last.ckpt PLACE.pt2",
        "fit --config DEBUG --trainer.default_root_dir PLACE",
    ],
)
def test_where_nothing_can_be_written_is_said_first(
    line: str, place: str, tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a simulator starts, a checkpoint is read or a run is looked at: none of them is there."""
    (tmp_path / "file").write_text("kept")
    path = tmp_path / place  # which is `place` itself where that is absolute
    words = {"PLACE": str(path), "DATASET": str(dataset), "DEBUG": str(CONFIGS / "debug.yaml")}
    args = [re.sub("PLACE|DATASET|DEBUG", lambda word: words[word[0]], arg) for arg in line.split()]
    if place == "file" and args[-1].endswith(".pt2"):
        args[-1] = str(path / "policy.pt2")
    assert main(args) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and str(path) in error[0], error
    assert (tmp_path / "file").read_text() == "kept" and list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_directory_where_a_file_is_to_stand(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "view", str(dataset), "--output_dir", str(tmp_path), "--episodes", "1"]
    assert main(command) == 0
    (sheet,) = tmp_path.glob("*.png")
    sheet.unlink()
    sheet.mkdir()
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and f"{sheet}: found Is a directory. Move the directory away" in error[0], error
    assert sorted(tmp_path.iterdir()) == sorted((sheet, sheet.with_suffix(".mp4")))  # nothing half written


@pytest.mark.parametrize(
    ("number", "fix"),
    [(errno.ENOSPC, "Free space"), (errno.EACCES, "Use a directory that can be written"), (errno.EIO, "Look whether")],
)
def test_what_a_disk_refuses_is_one_line_with_what_helps(
    number: int, fix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: Sequence[str]) -> int:
        raise OSError(number, os.strerror(number), "/data/run")

    monkeypatch.setattr("moto_pl.cli.run", refused)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.startswith(f"moto: /data/run: found {os.strerror(number)}. {fix}")


def test_what_no_disk_refuses_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Sequence[str]) -> int:
        raise FileNotFoundError(errno.ENOENT, "a fault of ours")

    monkeypatch.setattr("moto_pl.cli.run", refused)
    with pytest.raises(FileNotFoundError):
        main(["doctor"])


def test_output_that_nobody_reads_is_no_fault() -> None:
    """As in ``moto completion bash | head -1``."""
    command = [sys.executable, "-m", "moto_pl.cli", "completion", "bash"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 128 + signal.SIGPIPE


def test_a_pipe_of_our_own_that_breaks_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Sequence[str]) -> int:
        raise BrokenPipeError(errno.EPIPE, "a worker has gone")

    monkeypatch.setattr("moto_pl.cli.run", broken)
    with pytest.raises(BrokenPipeError):
        main(["doctor"])


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            ("--data.env_options", "{goall: 3}"),
            "data.env_options: found goall, which moto_pl/Reach-v0 does not take. Did you mean goal? It takes image",
        ),
        (
            ("--data.env_options", "{image_size: abc}"),
            "data.env_options: found image_size: 'abc'. Give a whole number.",
        ),
        (("--data.build_options", "{noise: much}"), "data.build_options: found noise: 'much'. Give a number."),
        (
            ("--data.build_options", "{episodess: 3}"),
            "data.build_options: found episodess, which moto data build reach does not take. Did you mean episodes",
        ),
    ],
)
def test_a_wrong_key_among_options(
    setting: tuple[str, str],
    said: str,
    built: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether the dataset is there, which is compared with what is asked for, or has to be built."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    if built:
        build("reach", episodes=1, image_size=16)
    arguments = debug(tmp_path / "run", "reach", "--data.build_missing", "true", "--evaluate_untrained", "false")
    assert main(["fit", *arguments, *setting]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert built == (tmp_path / "datasets").exists() and not (tmp_path / "run/checkpoints").exists()


def test_truncated_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from moto_pl.checkpoints import find_checkpoint

    torch.save({"state_dict": {}, "global_step": 3}, tmp_path / "previous.ckpt")
    torch.save({"state_dict": {}, "global_step": 4}, tmp_path / "last.ckpt")
    assert find_checkpoint(tmp_path)[0] == tmp_path / "last.ckpt"
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="last.ckpt"):
        assert find_checkpoint(tmp_path)[0] == tmp_path / "previous.ckpt"


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    with lock_run(tmp_path):
        with pytest.raises(SettingError, match="another process"), lock_run(tmp_path):
            pass
    with lock_run(tmp_path):
        pass


def test_data_verb_prints_numbers(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", str(dataset), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trajectories"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("ends", [True, False])
def test_demonstrations_that_end_early_train_the_discount_head(
    ends: bool, tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is decided before the untrained evaluation, kept on resume, and the checkpoint decides for an evaluation."""
    path = tmp_path / "ending"
    episodes = list(open_dataset(dataset))
    if ends:
        episodes[0] = dataclasses.replace(episodes[0], terminated=True, truncated=False)
    write_dataset(path, episodes, env_id="moto_pl/Reach-v0")
    run = tmp_path / "run"
    arguments = debug(run, path, "--video_episodes", "0", "--data.eval_episodes", "1", "--data.value_steps", "0")
    for steps in (2, 4):
        assert main(["fit", *arguments, "--data.online_steps", str(steps)]) == 0
        checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        assert checkpoint["agent"]["init_args"]["world_model"]["discount_head"] is ends
        assert any(name.startswith("world_model.discount.") for name in checkpoint["state_dict"]) == ends
    assert checkpoint["global_step"] == 8
    assert main(["validate", *arguments]) == 0
    assert load_agent(run / "checkpoints/last.ckpt").description() == checkpoint["agent"]


LIGHT = """
import json, sys
from moto_pl.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
heavy = [name for name in ("torch", "lightning", "mujoco", "metaworld") if name in sys.modules]
print("RESULT", json.dumps([status, heavy, len(sys.modules)]))
"""


def light(*args: str) -> tuple[int, list[str]]:
    """A command's status, and which heavy packages it has imported."""
    done = subprocess.run([sys.executable, "-c", LIGHT, *args], capture_output=True, text=True, timeout=120)
    status, heavy, modules = json.loads(done.stdout.split("RESULT")[-1])
    # About a millisecond each, which no busy machine changes: a list of verbs is there within a second.
    assert "--help" not in args or modules < 800, f"{modules} modules for {' '.join(args)}"
    return status, heavy


@pytest.mark.parametrize(
    "line",
    ["--help", "--version", "data --help", "data build --help", "data build kitchen/mixed --help", "data render --help"]
    + [
        "data list",
        "report --help",
        "compare --help",
        "doctor --help",
        "reproduce --help",
        "demo --help",
        "campaign --help",
        "analyze --help",
        "analyze bound --help",
        "completion bash",
    ],
)
def test_help_does_not_wait_for_torch(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert light(*line.split()) == (0, [])


def test_a_process_ends_with_mains_status_and_collects_no_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    at_end: list[object] = []
    monkeypatch.setattr(atexit, "register", at_end.append)
    monkeypatch.setattr(cli, "main", lambda: 3)
    with pytest.raises(SystemExit) as ended:
        cli.entry()
    assert ended.value.code == 3 and at_end == [gc.freeze]


def test_version_says_which_code_runs_on_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"moto_pl {moto_pl.__version__} (commit ") and line.count("\n") == 1
    assert f"torch {torch.__version__}" in line and "operators " in line
    if (CONFIGS.parent / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=CONFIGS, capture_output=True, text=True)
        assert head.returncode != 0 or f"commit {head.stdout.strip()}" in line


def test_windows_is_refused_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.name = 'nt'; import moto_pl"], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].startswith("ImportError: moto_pl: found Windows. Use WSL 2")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["d"], ["data", "doctor", "demo"]),
        (["report", "run", "--a"], ["--against"]),
        (["data", "b"], ["build"]),
        (["data", "info", "--"], ["--help", "--json"]),
        (["fit", "--ag"], ["--agent"]),
        (["nothing", "--"], []),
    ],
)
def test_completion_as_bash_does_it(typed: list[str], offered: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    words = " ".join(["moto", *typed])
    script = f"{capsys.readouterr().out}\nCOMP_WORDS=({words}) COMP_CWORD={len(typed)}; _moto_complete\n"
    done = subprocess.run(
        ["bash", "-uc", script + 'printf "%s\\n" "${COMPREPLY[@]}"; complete -p moto'], capture_output=True, text=True
    )
    *found, registered = done.stdout.split("\n", done.stdout.count("\n") - 1)
    assert done.returncode == 0 and "-F _moto_complete moto" in registered, done.stderr
    assert [word for word in found if word] == offered


ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1=; unsetopt beep; eval \\"\\$(<$1)\\"; echo REA''DY=\\$?"
zpty -r shell seen '*READY=<->*' && print -r -- $seen
[[ $seen == *READY=0* ]] || exit 1
for typed completed in 'data b' 'data build' doc doctor 'report run --a' 'report run --against'; do
  zpty -w -n shell $'\\x15'"moto $typed"$'\\t'
  zpty -r shell seen "*moto $completed*" && print "completed: $completed"
done
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_completion_in_a_zsh_that_has_no_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real one, at a terminal, whose user has asked for no completion yet."""
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    environment = {**os.environ, "TERM": "vt100", "HOME": str(tmp_path)}
    command = ["zsh", "-f", "-c", ZSH, "zsh", str(tmp_path / "completion")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.count("completed: ") == 3, done.stdout + done.stderr


def test_report_and_compare_need_no_torch(tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        run = tmp_path / f"run{seed}"
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump(settings_of("--config", str(CONFIGS / "debug.yaml"))))
        record = {"stage": "eval", "step": 40, "phase": "final", "online_episodes": 4, "seed": [1, 2]}
        record |= {"return": [1.0, 2.0], "success": [True, False], "length": [30, 30]}
        (run / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
        with open(run / "config.yaml", "a") as file:
            file.write(f"seed_everything: {seed}\n")
        runs.append(str(run))
    assert light("report", runs[0], "--against", runs[1]) == (0, [])
    assert light("compare", *runs, "--out", str(tmp_path / "out")) == (0, [])
    assert (tmp_path / "run0/report.html").stat().st_size > 1000 and (tmp_path / "out/comparison.html").exists()


def test_the_same_choices_as_in_the_functions() -> None:
    from moto_pl.analysis import commands as analysis_commands
    from moto_pl.analysis import reproduce
    from moto_pl.ops import Disagreement
    from moto_pl.report.comparison import Metric

    metric = get_type_hints(cli.compare)["metric"]
    assert set(get_args(get_args(metric)[0])) == set(get_args(Metric))
    hints = get_type_hints(cli.reproduce)
    assert get_args(get_args(hints["target"])[0]) == get_args(reproduce.Target)
    assert get_args(hints["scale"]) == get_args(reproduce.Scale)
    assert get_type_hints(analysis_commands.bound)["disagreement"] == Disagreement


@pytest.mark.parametrize(
    "line", ["", "fot", "data", "data bild", "analyze", "report", "report x y", "compare", "demo x"]
)
def test_a_bad_command_is_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("moto: ") and error.count("\n") == 1, error


def test_nothing_imports_the_command_line() -> None:
    """It stands above everything: what others need of it lies in configs, launch and files."""
    package = Path(__file__).parents[1] / "moto_pl"
    importing = [
        path
        for path in package.rglob("*.py")
        if re.search(r"moto_pl\.cli import|import moto_pl\.cli", path.read_text())
    ]
    assert importing == []
