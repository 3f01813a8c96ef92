"""What the parser of moto fit says of a mistake: one line with the setting, what was found, and what to give."""

from __future__ import annotations

from pathlib import Path

import pytest

from moto_pl import cli
from moto_pl.training.refusals import refusal

DEBUG = str(Path(__file__).parents[2] / "configs/debug.yaml")


def said(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a command that fails; nothing of it is broken over lines."""
    assert cli.main(args) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("moto: ")


SEE = "See moto fit --help."
UNKNOWN = "found an unknown setting."


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            ["--data.offline_step", "3"],  # no abbreviation: a file would not take it either
            f"--data.offline_step: {UNKNOWN} Did you mean --data.offline_steps or --data.online_steps? {SEE}",
        ),
        (["--nothing"], f"--nothing: found an unknown setting. {SEE}"),
        (["word"], f"word: found a word that belongs to no option. Take it out. {SEE}"),
        (["--data.offline_steps"], f"--data.offline_steps: found nothing. Give one argument. {SEE}"),
        (["--data.offline_steps", "many"], "data.offline_steps: found many. Give a whole number."),
        (["--data.collect_mode", "best"], "data.collect_mode: found best. Give sample or mode."),
        (["--data.env_options", "3"], "data.env_options: found 3. Give settings by name, or null."),
        (
            ["--data.exploration_noise", "[1, 2, 3]"],
            "data.exploration_noise: found [1, 2, 3]. Give a number, or a list of two.",
        ),
        (
            ["--model.init_args.behaviour.horizn", "3"],
            f"model.init_args.behaviour.horizn: {UNKNOWN} Did you mean model.init_args.behaviour.horizon or "
            f"model.init_args.behaviour.critic? {SEE}",
        ),
        (
            ["--model.init_args.behavior.horizon", "3"],
            f"model.init_args.behavior.horizon: {UNKNOWN} Did you mean model.init_args.behaviour? {SEE}",
        ),
        (["--model.init_args.optim.clip", "x"], "model.init_args.optim.clip: found x. Give a number."),
        (
            ["--model", "Nothing"],
            "model: found Nothing. Give the path of a class, such as my_package.MyClass, or null.",
        ),
        (
            ["--model", "moto_pl.agents.Nothing"],
            "model: found class_path moto_pl.agents.Nothing. Module 'moto_pl.agents' has no attribute "
            f"'Nothing'. {SEE}",
        ),
        (
            ["--trainer.callbacks", "[{class_path: ModelSummary, init_args: {deep: 3}}]"],
            f"trainer.callbacks.init_args.deep: {UNKNOWN} Did you mean trainer.callbacks.init_args.max_depth? {SEE}",
        ),
        (["--seed_everything", "-1"], "seed_everything: found -1. Give a whole number, 0 to 4294967295."),
        (["--seed_everything", "true"], "seed_everything: found true. Give a whole number, 0 to 4294967295."),
        (["--weights_only", "false"], "weights_only: found false. Leave it out: a checkpoint is never unpickled."),
        (
            ["--lr_scheduler", "ConstantLR", "--trust", "torch"],
            "lr_scheduler: found torch.optim.lr_scheduler.ConstantLR. Leave it out: an agent has its own. Its rates "
            "are its settings; --print_config shows them.",
        ),
    ],
)
def test_a_mistake_on_the_command_line(args: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(["fit", "--config", DEBUG, *args], capsys) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("data: {offline_step: 3}", "data.offline_step: found an unknown setting. Did you mean data.offline_steps or "),
        (
            "model: {init_args: {behaviour: {horizn: 3}}}",
            "model.init_args.behaviour.horizn: found an unknown setting. Did ",
        ),
        (
            "model: {init_args: {behaviour: {horizon: x}}}",
            "model.init_args.behaviour.horizon: found x. Give a whole number.",
        ),
        ("- 1", "--config: found {}, which holds no settings. Give settings by their names."),
    ],
)
def test_a_mistake_in_a_file(text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text if text.startswith("-") else f"extends: {DEBUG}\n{text}\n")
    assert said(["fit", "--config", str(path)], capsys).startswith(line.replace("{}", str(path)))


def test_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(["fit"], capsys).startswith(
        "data.env: found nothing. Give a configuration, such as --config configs/debug"
    )


def test_what_is_not_known_is_shown_in_one_line() -> None:
    error = refusal("something\n  new", "fit")
    assert str(error) == f"arguments: found something new. {SEE}"


@pytest.mark.parametrize("below", ["", "/run"])
def test_a_directory_that_cannot_be_made(below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert cli.main(["fit", "--config", DEBUG, "--trainer.default_root_dir", f"{tmp_path}/file{below}"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        last.startswith(f"moto: trainer.default_root_dir: found {tmp_path}/file{below} (")
        and "Give a directory" in last
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_is_no_checkpoint_is_not_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning would look for hyperparameters in it before we have looked at it."""
    (tmp_path / "junk.ckpt").write_bytes(b"not a checkpoint")
    args = ["fit", "--config", DEBUG, "--trainer.default_root_dir", str(tmp_path / "run")]
    assert cli.main([*args, "--ckpt_path", str(tmp_path / "junk.ckpt")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    found = f"{tmp_path}/junk.ckpt, which cannot be read (File is not a zip file)"
    assert last == f"moto: ckpt_path: found {found}. Give a whole checkpoint."
