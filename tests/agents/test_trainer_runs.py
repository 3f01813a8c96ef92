"""Every argument of Lightning's Trainer that is taken: what works, and what means something of its own here."""

from __future__ import annotations

import csv
import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from test_trainer_arguments import REFUSED, ROOT, fit

from moto_pl.agents import BC
from moto_pl.agents.model_free import PixelConfig, TDConfig
from moto_pl.agents.trainer_arguments import ARGUMENTS, FIXED
from moto_pl.checkpoints import DurableCheckpointIO
from moto_pl.cli import main
from moto_pl.evaluations import read_evaluations
from moto_pl.training.cli import MotoCLI
from moto_pl.training.launch import run_lightning
from runs import AGENTS, assert_same_end, assert_same_weights, final, small

HERE = __name__

#: Where it is tested that an argument does what docs/trainer.md says; for those that are refused always, REFUSED.
TESTED: dict[str, str] = {
    "accelerator": "test_what_the_run_is_made_of",
    "strategy": "test_what_the_run_is_made_of, distributed/test_ddp.py",
    "devices": "test_what_the_run_is_made_of, distributed/test_ddp.py",
    "num_nodes": "test_what_the_run_is_made_of, distributed/test_ddp.py",
    "precision": "test_another_precision_goes_on_exactly",
    "logger": "test_no_logger_and_one_of_ones_own",
    "callbacks": "test_switches_that_reach_the_run, test_a_progress_bar_of_ones_own_replaces_ours",
    "fast_dev_run": "test_a_trial_takes_a_step_of_each_kind_and_leaves_nothing",
    "max_steps": "test_a_run_that_is_ended_goes_on_exactly",
    "max_time": "test_time_ends_a_run_after_a_whole_step",
    "log_every_n_steps": "test_switches_that_reach_the_run",
    "enable_progress_bar": "test_switches_that_reach_the_run",
    "enable_model_summary": "test_switches_that_reach_the_run",
    "accumulate_grad_batches": "test_time_ends_a_run_after_a_whole_step, distributed/test_ddp.py",
    "gradient_clip_val": "test_gradients_are_clipped_to_the_given_norm",
    "gradient_clip_algorithm": "test_gradients_are_clipped_to_the_given_norm",
    "deterministic": "test_switches_that_reach_the_run",
    "benchmark": "test_switches_that_reach_the_run",
    "profiler": "test_switches_that_reach_the_run",
    "detect_anomaly": "test_switches_that_reach_the_run",
    "plugins": "test_what_the_run_is_made_of",
    "default_root_dir": "test_no_directory_is_the_default_one",
    "enable_autolog_hparams": "test_hyperparameters_of_ones_own_agent",
}


def bc(run: Path | str, dataset: Path, *args: str) -> list[str]:
    """Two offline gradient steps of a small agent, without evaluation."""
    schedule = ("--data.offline_steps", "2", "--data.offline_round_steps", "2", "--data.online_steps", "0")
    agent = ("--model", "moto_pl.agents.BC", *small("BC"))
    return [*fit(run, dataset)[:-4], *agent, *schedule, "--data.eval_episodes", "0", *args]


def contents(directory: Path) -> dict[str, bytes | None]:
    """Everything below a directory, byte for byte."""
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None for p in directory.rglob("*")}


class Probe(L.Callback):
    """Notes what a run is like; from ``stop_after`` gradient steps on tells it to end."""

    seen: dict[str, Any] = {}
    batches = 0

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after = stop_after
        Probe.seen, Probe.batches = {}, 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        Probe.seen = {
            "callbacks": [type(callback).__name__ for callback in trainer.callbacks],  # type: ignore[attr-defined]
            "anomaly": torch.is_anomaly_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
        }

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        Probe.batches += 1
        Probe.seen["norms"] = {
            group["name"]: float(torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None]))
            for group in trainer.optimizers[0].param_groups
        }
        if self.stop_after and trainer.global_step == self.stop_after:
            trainer.should_stop = True


PROBE = f"--trainer.callbacks+={HERE}.Probe"


class Noted(BC):
    """An agent that keeps its settings, and a hyperparameter."""

    def __init__(self, pixels: PixelConfig | None = None, td: TDConfig | None = None, seed: int = 0) -> None:
        super().__init__(pixels or PixelConfig(), td or TDConfig(), seed=seed)
        self.save_hyperparameters()
        self.save_hyperparameters({"marker": 3})


def test_every_argument_has_a_fate_and_a_test() -> None:
    """A newer Lightning's new argument fails here until it has both."""
    assert list(inspect.signature(L.Trainer).parameters) == list(ARGUMENTS)
    assert {name for name, _, _ in REFUSED} == {name for name, one in ARGUMENTS.items() if one.fix}
    assert list(TESTED) == [name for name, one in ARGUMENTS.items() if one.fate != "refused"]
    for places in TESTED.values():
        for place in places.split(", "):
            assert callable(globals().get(place)) or (ROOT / "tests" / place).is_file(), place


# Made, but not run.


def made(monkeypatch: pytest.MonkeyPatch, args: list[str]) -> L.Trainer:
    """The Trainer of a command line."""
    kept: list[MotoCLI] = []
    monkeypatch.setattr(MotoCLI, "_run_subcommand", lambda self, subcommand: kept.append(self))
    run_lightning(args)
    return kept[0].trainer


def test_what_the_run_is_made_of(reach_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = "lightning.pytorch.plugins.environments.LightningEnvironment"
    args = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.num_nodes", "3")
    trainer = made(monkeypatch, fit(tmp_path, reach_dataset, *args, "--trainer.plugins", plugin))
    assert isinstance(trainer.strategy, DDPStrategy) and trainer.num_devices == 2 and trainer.world_size == 6
    assert type(trainer.strategy.cluster_environment).__name__ == "LightningEnvironment"
    assert isinstance(trainer.strategy.checkpoint_io, DurableCheckpointIO)
    assert {name: getattr(trainer, name) for name in ("max_epochs", "num_sanity_val_steps")} == {
        name: FIXED[name] for name in ("max_epochs", "num_sanity_val_steps")
    }
    alone = made(monkeypatch, fit(tmp_path, reach_dataset, "--trainer.accelerator", "cpu"))
    assert isinstance(alone.strategy, SingleDeviceStrategy) and alone.strategy.root_device.type == "cpu"
    ddp = '{"class_path": "lightning.pytorch.strategies.DDPStrategy"}'
    of_class = made(monkeypatch, fit(tmp_path, reach_dataset, "--trainer.strategy", ddp))
    assert isinstance(of_class.strategy, DDPStrategy)


def test_a_progress_bar_of_ones_own_replaces_ours(
    reach_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = "--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar"
    trainer = made(monkeypatch, fit(tmp_path, reach_dataset, bar))
    names = [type(callback).__name__ for callback in trainer.callbacks]  # type: ignore[attr-defined]
    assert "TQDMProgressBar" in names and "RunProgress" not in names and "RunCheckpoint" in names


# Run.


@pytest.fixture(scope="module")
def unbroken(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    assert main(fit(run, reach_dataset)) == 0
    return run


@pytest.mark.parametrize("step", [5, 8, 11], ids=["within-offline", "at-the-round's-end", "within-online"])
def test_a_run_that_is_ended_goes_on_exactly(
    step: int, reach_dataset: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    # Rarer checkpoints: the end must write its own.
    ended = fit(run, reach_dataset, "--trainer.max_steps", str(step), "--checkpoint_every", "5")
    assert main(ended) == 0
    assert f"told to end at gradient step {step} of 12" in capsys.readouterr().out
    assert final(run)["global_step"] == step
    assert [record["step"] for record in read_evaluations(run)] == [at for at in (8, 12) if at <= step]
    before = contents(run / "checkpoints")
    assert main(ended) == 0 and f"{step} gradient steps are taken" in capsys.readouterr().out
    assert contents(run / "checkpoints") == before
    assert main(fit(run, reach_dataset)) == 0
    assert_same_end(unbroken, run, episodes=12, evaluated_at=(8, 12))


@pytest.mark.parametrize(("accumulate", "batches", "step"), [(2, 5, 3), (1, 11, 11)])
def test_time_ends_a_run_after_a_whole_step(
    accumulate: int,
    batches: int,
    step: int,
    reach_dataset: Path,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch takes a second of a clock that the test has; the first round's evaluation does not come early."""
    run = tmp_path / "run"
    args = ("--trainer.accumulate_grad_batches", str(accumulate))
    with monkeypatch.context() as patched:
        patched.setattr(Timer, "time_elapsed", lambda self, stage="train": float(Probe.batches))
        limit = ("--trainer.max_time", f"00:00:00:{batches:02}")
        assert main(fit(run, reach_dataset, *args, PROBE, *limit)) == 0
    assert Probe.batches == step * accumulate
    assert final(run)["global_step"] == step
    assert [record["step"] for record in read_evaluations(run)] == [at for at in (8, 12) if at <= step]
    whole = unbroken
    if accumulate > 1:
        whole = tmp_path / "whole"
        assert main(fit(whole, reach_dataset, *args)) == 0
    assert main(fit(run, reach_dataset, *args)) == 0
    assert_same_end(whole, run, episodes=12, evaluated_at=(8, 12))


def test_a_callback_ends_a_run_likewise(reach_dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(fit(run, reach_dataset, PROBE, "--trainer.callbacks.stop_after=6")) == 0
    assert final(run)["global_step"] == 6 and read_evaluations(run) == []
    assert main(fit(run, reach_dataset)) == 0
    assert_same_end(unbroken, run, episodes=12, evaluated_at=(8, 12))


def test_another_precision_goes_on_exactly(reach_dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    """Acting and evaluation too, the critics' with what is earned beyond a time limit; and it is another one."""
    args = ("--trainer.precision", "bf16-mixed", "--data.value_steps", "300")
    assert main(fit(tmp_path / "whole", reach_dataset, *args)) == 0
    assert main(fit(tmp_path / "run", reach_dataset, *args, "--trainer.max_steps", "9")) == 0
    assert main(fit(tmp_path / "run", reach_dataset, *args)) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "run", episodes=12, evaluated_at=(8, 12))
    with pytest.raises(AssertionError):
        assert_same_weights(unbroken, tmp_path / "whole")


@pytest.mark.parametrize("steps", ["true", "2"])
def test_a_trial_takes_a_step_of_each_kind_and_leaves_nothing(
    steps: str,
    reach_dataset: Path,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither in a run's directory, nor where there is none yet, nor where it was tried."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    before = contents(unbroken)
    run = unbroken if steps == "true" else tmp_path / "new"
    count = 1 if steps == "true" else 2
    # A trial of a finished run, with other settings, which a run that goes on would refuse.
    args = ("--evaluate_untrained", "true", "--model.init_args.world_model.deter", "16")
    assert main(fit(run, reach_dataset, *args, PROBE, "--trainer.fast_dev_run", steps)) == 0
    assert Probe.batches == 2 * count
    said = capsys.readouterr()
    assert f"all went well ({2 * count} gradient steps" in said.out
    evaluated = re.findall(r"evaluation after (\d+) steps \((\w+)\)", said.err)
    assert evaluated == [("0", "untrained"), (str(count), "pretrained"), (str(2 * count), "final")]
    assert contents(unbroken) == before
    assert {path.name for path in tmp_path.iterdir()} == {"tmp"} and not list((tmp_path / "tmp").iterdir())


def test_a_trial_that_fails_leaves_nothing(
    reach_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for wrong in (("--data.prefetch", "0"), ("--data.env", "moto_pl/Reach-v9")):
        assert main(bc(tmp_path / "run", reach_dataset, "--trainer.fast_dev_run", "true", *wrong)) == 2
        assert not (tmp_path / "run").exists() and not list((tmp_path / "tmp").iterdir())


def test_switches_that_reach_the_run(
    reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    switches = {
        **{"enable_progress_bar": "false", "enable_model_summary": "true", "deterministic": "true"},
        **{"benchmark": "true", "profiler": "simple", "detect_anomaly": "true", "log_every_n_steps": "3"},
    }
    args = [f"--trainer.{name}={value}" for name, value in switches.items()]
    try:
        assert main(fit(tmp_path / "run", reach_dataset, *args, PROBE)) == 0, capsys.readouterr().err
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False
    assert {"Probe", "RunCheckpoint", "RichModelSummary"} <= set(Probe.seen["callbacks"])
    assert "RunProgress" not in Probe.seen["callbacks"]
    assert Probe.seen["anomaly"] and Probe.seen["deterministic"] and Probe.seen["benchmark"]
    said = capsys.readouterr()
    assert "world_model" in said.out + said.err + caplog.text  # the summary
    assert "run_training_batch" in said.out + said.err + caplog.text  # the profile
    with open(tmp_path / "run/csv/version_0/metrics.csv") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["loss"]]
    assert steps == [2, 5, 8, 11]


def test_gradients_are_clipped_to_the_given_norm(reach_dataset: Path, tmp_path: Path) -> None:
    norms = []
    for i, limit in enumerate(([], ["--trainer.gradient_clip_val", "1e-3"], ["--trainer.gradient_clip_val", ".inf"])):
        args = ("--trainer.gradient_clip_algorithm", "norm", "--trainer.max_steps", "1", *limit, PROBE)
        assert main(fit(tmp_path / str(i), reach_dataset, *args)) == 0
        norms.append(Probe.seen["norms"])
    own, small_norms, free = norms
    assert own.keys() == small_norms.keys() == free.keys() and len(own) > 1
    assert all(norm == pytest.approx(min(1e-3, free[name]), rel=1e-2) for name, norm in small_norms.items())
    assert max(own.values()) > 1e-2 and all(free[name] >= own[name] * 0.999 for name in own)


def test_no_logger_and_one_of_ones_own(reach_dataset: Path, tmp_path: Path) -> None:
    assert main(bc(tmp_path / "none", reach_dataset, "--trainer.logger", "false")) == 0
    assert not {"csv", "tensorboard"} & {path.name for path in (tmp_path / "none").iterdir()}
    own = (
        "--trainer.logger",
        "lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.save_dir",
        str(tmp_path / "own"),
    )
    assert main(bc(tmp_path / "run", reach_dataset, *own)) == 0
    assert list((tmp_path / "own").rglob("metrics.csv"))
    assert not {"csv", "tensorboard"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_no_directory_is_the_default_one(reach_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(bc("null", reach_dataset)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert {"checkpoints", "config.yaml", "csv", "replay"} <= {path.name for path in (tmp_path / "runs/moto").iterdir()}


@pytest.mark.parametrize("logged", [True, False])
def test_hyperparameters_of_ones_own_agent(logged: bool, reach_dataset: Path, tmp_path: Path) -> None:
    args = ("--model", f"{HERE}.Noted", *small("BC"), "--trainer.enable_autolog_hparams", str(logged).lower())
    assert "td.ema_decay" in AGENTS["BC"]
    assert main(bc(tmp_path / "run", reach_dataset, *args)) == 0
    path = tmp_path / "run/csv/version_0/hparams.yaml"
    assert path.exists() == logged
    if logged:
        kept = yaml.safe_load(path.read_text())
        assert kept["marker"] == 3
        assert kept["td"]["ema_decay"] == float(AGENTS["BC"]["td.ema_decay"])
        assert kept["pixels"]["channels"] == yaml.safe_load(AGENTS["BC"]["pixels.channels"])
