"""Every argument of Lightning's Trainer: what docs/trainer.md says of it, and what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from moto_pl.agents import BC
from moto_pl.agents.model_free import PixelConfig, TDConfig
from moto_pl.agents.trainer_arguments import ARGUMENTS, check_arguments, table
from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.training.cli import MotoCLI
from moto_pl.training.datamodule import OfflineToOnlineDataModule
from runs import small
from test_errors import MENTIONED, is_known

ROOT = Path(__file__).parents[2]
DEBUG = ROOT / "configs/debug.yaml"

#: Values that are refused, and a word of the line that says what to use instead.
REFUSED: list[tuple[str, str, str]] = [
    ("accelerator", "tpu", "cpu or gpu"),
    ("accelerator", "mps", "cpu or gpu"),
    ("strategy", "fsdp", "Use ddp"),
    ("strategy", "deepspeed", "Use ddp"),
    ("strategy", "ddp_spawn", "Use ddp"),
    ("strategy", '{"class_path": "lightning.pytorch.strategies.FSDPStrategy"}', "Use ddp"),
    ("strategy", '{"class_path": "DDPStrategy", "init_args": {"start_method": "spawn"}}', "Use ddp"),
    ("precision", "64-true", "32-true"),
    ("precision", "64", "32-true"),
    ("precision", "bf16-true", "32-true"),
    ("precision", "16-true", "32-true"),
    ("precision", "transformer-engine", "32-true"),
    ("precision", "transformer-engine-float16", "32-true"),
    ("fast_dev_run", "-1", "number of gradient steps"),
    ("max_epochs", "2", "data.offline_steps"),
    ("min_epochs", "2", "data.offline_steps"),
    ("max_steps", "0", "at least 1"),
    ("max_steps", "-2", "at least 1"),
    ("min_steps", "3", "data.offline_steps"),
    ("max_time", "10 minutes", "DD:HH:MM:SS"),
    ("max_time", '{"fortnights": 1}', "DD:HH:MM:SS"),
    ("limit_train_batches", "2", "data.offline_steps"),
    ("limit_train_batches", "1", "data.offline_steps"),
    ("limit_train_batches", "0.5", "data.offline_steps"),
    ("limit_val_batches", "0", "data.eval_episodes"),
    ("limit_test_batches", "1", "data.test_episodes"),
    ("limit_predict_batches", "1", "prediction step"),
    ("overfit_batches", "1", "data.dataset"),
    ("val_check_interval", "0.5", "data.eval_every"),
    ("val_check_interval", "00:00:10:00", "data.eval_every"),
    ("check_val_every_n_epoch", "2", "data.eval_every"),
    ("check_val_every_n_epoch", "null", "data.eval_every"),
    ("num_sanity_val_steps", "2", "evaluate_untrained"),
    ("log_every_n_steps", "-1", "0 for none"),
    ("enable_checkpointing", "false", "checkpoint_every"),
    ("accumulate_grad_batches", "0", "at least 1"),
    ("gradient_clip_val", "0", "above 0"),
    ("gradient_clip_val", "-1.0", "above 0"),
    ("gradient_clip_algorithm", "value", "norm"),
    ("inference_mode", "true", "Leave it out"),
    ("use_distributed_sampler", "true", "Leave it out"),
    ("barebones", "true", "Leave it out"),
    ("plugins", "lightning.pytorch.plugins.io.TorchCheckpointIO", "CheckpointIO"),
    ("sync_batchnorm", "true", "batch normalisation"),
    ("reload_dataloaders_every_n_epochs", "0", "Give 1"),
    ("model_registry", "mine", "copy them"),
]
#: What notes name beside settings.
NAMES = ("benchmarks.train_step", "distributed.md", "config.yaml")


def fit(run: Path | str, dataset: Path, *args: str) -> list[str]:
    """Eight offline gradient steps in one round, evaluated after it, and four online in two."""
    return [
        *("fit", "--config", str(DEBUG), "--trainer.default_root_dir", str(run), "--data.dataset", str(dataset)),
        *("--data.build_missing", "false", "--data.offline_steps", "8", "--data.offline_round_steps", "8"),
        *("--data.online_steps", "4", "--data.updates_per_episode", "2", "--data.eval_episodes", "1"),
        *("--data.env_workers", "0", "--video_episodes", "0", "--evaluate_untrained", "false"),
        *("--data.value_steps", "0", *small("MOTO"), *args),
    ]


# The table.


def test_the_docs_have_the_table() -> None:
    assert table() in (ROOT / "docs/trainer.md").read_text()
    assert "(docs/trainer.md)" in (ROOT / "README.md").read_text()


def test_what_the_table_names_exists() -> None:
    for name, argument in ARGUMENTS.items():
        for word in MENTIONED.findall(f"{argument.fix} {argument.note}".replace("`", "")):
            assert is_known(word) or word in NAMES, f"{name}: {word}"


def test_an_argument_of_a_newer_lightning_may_have_its_default_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ARGUMENTS, "detect_anomaly")
    check_arguments({"detect_anomaly": False})
    with pytest.raises(SettingError, match="trainer.detect_anomaly: found True"):
        check_arguments({"detect_anomaly": True})


# Refused.


@pytest.mark.parametrize(("name", "value", "said"), REFUSED, ids=[f"{name}={value}" for name, value, _ in REFUSED])
def test_refused_in_one_line_before_anything_is_written(
    name: str,
    value: str,
    said: str,
    reach_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MotoCLI, "_run_subcommand", lambda *args: pytest.fail("started"))
    assert main(fit("run", reach_dataset, f"--trainer.{name}", value)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Seed set" not in line]
    assert line.startswith(f"moto: trainer.{name}: found ") and said in line
    assert not list(tmp_path.iterdir())


def test_all_that_is_refused_is_named(reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the configuration that an earlier version kept of a run has it."""
    old = tmp_path / "config.yaml"
    old.write_text("trainer: {inference_mode: true, use_distributed_sampler: true, num_sanity_val_steps: null}\n")
    assert main(fit(tmp_path / "run", reach_dataset, "--config", str(old))) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "trainer.inference_mode: found True" in line and "trainer.use_distributed_sampler" in line
    assert "num_sanity" not in line


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_the_other_verbs_refuse_the_same(
    verb: str, reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = fit(tmp_path / "run", reach_dataset)[1:]
    assert main([verb, *args, "--trainer.limit_val_batches", "1"]) == 2
    assert "data.eval_episodes" in capsys.readouterr().err
    assert main([verb, *args, "--trainer.fast_dev_run", "true"]) == 2
    assert "moto fit" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--trainer.devices", "0"), "devices="),
        (("--trainer.num_nodes", "0"), "num_nodes"),
        (
            ("--trainer.plugins", "lightning.pytorch.plugins.precision.DoublePrecision"),
            "trainer.precision: found 64-true",
        ),
        (("--trainer.fast_dev_run", "true", "--trainer.devices", "2"), "trainer.devices: 1"),
        (("--trainer.profiler", "stopwatch"), "profiler"),
    ],
)
def test_what_lightning_or_the_made_trainer_refuses_is_one_line_too(
    args: tuple[str, ...],
    said: str,
    reach_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert main(fit(tmp_path / "run", reach_dataset, *args)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("moto: trainer") and said in line
    assert not (tmp_path / "run").exists() and not list((tmp_path / "tmp").iterdir())


# In Python.


def python(run: Path, dataset: Path, **arguments: Any) -> L.Trainer:
    """A fit as README shows it, with other arguments."""
    data = OfflineToOnlineDataModule(
        "moto_pl/Reach-v0", str(dataset), offline_steps=2, offline_round_steps=1, online_steps=0, env_workers=0,
        eval_episodes=1, value_steps=0,
    )  # fmt: skip
    agent = BC(PixelConfig(channels=(4, 4, 4, 4), units=16), TDConfig(batch_size=8))
    good = {"max_epochs": -1, "inference_mode": False, "accelerator": "cpu", "devices": 1, "logger": False}
    needed = {"reload_dataloaders_every_n_epochs": 1, "num_sanity_val_steps": 0}
    made = {"callbacks": [*data.callbacks()], "default_root_dir": str(run)}
    trainer = L.Trainer(**{**good, **needed, **made, **arguments})  # type: ignore[arg-type]
    trainer.fit(agent, data)
    return trainer


def test_in_python_the_schedule_ends_the_run(reach_dataset: Path, tmp_path: Path) -> None:
    assert python(tmp_path / "run", reach_dataset, enable_checkpointing=False).global_step == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"reload_dataloaders_every_n_epochs": 0},
        {"num_sanity_val_steps": 2},
        {"max_epochs": 1},
        {"min_epochs": 3},
        {"min_steps": 3},
        {"max_steps": 0},
        {"limit_train_batches": 1},
        {"limit_val_batches": 0},
        {"limit_test_batches": 1},
        {"limit_predict_batches": 1},
        {"overfit_batches": 1},
        {"val_check_interval": 1},
        {"val_check_interval": "00:00:00:10"},
        {"check_val_every_n_epoch": 2},
        {"precision": "64-true"},
        {"precision": "bf16-true"},
        {"gradient_clip_val": 0.0},
        {"gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 0},
        {"fast_dev_run": True},
        {"barebones": True, "logger": None, "num_sanity_val_steps": None},
    ],
    ids=lambda arguments: str(next(iter(arguments.items()))),
)
def test_in_python_a_trainer_is_refused_before_it_begins(
    arguments: dict[str, Any], reach_dataset: Path, tmp_path: Path
) -> None:
    """Each with the setting's name, and all that Lightning shows of what it was given."""
    with pytest.raises(SettingError) as error:
        python(tmp_path / "run", reach_dataset, **arguments)
    assert error.value.setting == f"trainer.{next(iter(arguments))}"
    assert not (tmp_path / "run").exists()
