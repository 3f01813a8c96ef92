"""What becomes of each argument of Lightning's Trainer: it works, it means something of its own, or it is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from moto_pl.errors import SettingError
from moto_pl.trust import check_class_path

Fate = Literal["works", "here", "refused"]

#: What a fate is called in docs/trainer.md.
FATES: dict[Fate, str] = {"works": "works", "here": "means this here", "refused": "refused"}


@dataclass(frozen=True)
class Argument:
    """An argument's fate.

    Attributes:
        fate: ``works`` as in Lightning, means something else ``here``, or is ``refused`` unless it changes nothing.
        note: what docs/trainer.md says of it: what it does, or what to use instead.
        accepts: whether a value is taken, as a user writes it or as ``seen`` finds it.
        fix: what to do about a value that is not.
        seen: finds the value in a Trainer; None: a Trainer that a user has built is not asked.
        fit_only: whether it matters to ``fit`` alone, so that a Trainer built to evaluate is not asked.
    """

    fate: Fate
    note: str
    accepts: Callable[[Any], bool] = lambda value: True
    fix: str = ""
    seen: Callable[[Any], Any] | None = None
    fit_only: bool = False


def _whole(value: Any) -> bool:
    """All batches: an int of 1 is one batch."""
    return value is None or (isinstance(value, float) and value == 1.0)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    # Not by ==, for which 1, 1.0 and True are the same.
    return lambda value: any(value == one and type(value) is type(one) for one in values)


def _unset(value: Any) -> bool:
    return value is None


def _off(value: Any) -> bool:
    return not value


def _duration(value: Any) -> bool:
    try:
        Timer(value)
    except (MisconfigurationException, TypeError, ValueError):
        return False
    return True


def _class_of(value: Any) -> type | None:
    """The class of an object, or the one that a configuration names; None for anything else."""
    path = value.get("class_path") if isinstance(value, Mapping) or hasattr(value, "get") else None
    if path is not None:
        check_class_path("class_path", str(path))
        module, _, name = str(path).rpartition(".")
        found = getattr(import_module(module), name)
        return found if isinstance(found, type) else None
    return None if value is None or isinstance(value, str | int | bool) else type(value)


def _is_a(value: Any, *classes: type) -> bool:
    found = _class_of(value)
    return found is not None and issubclass(found, classes)


def _strategy(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in ("auto", "ddp")
    popen = getattr(value, "_start_method", "popen") == "popen"  # not spawned or forked
    return popen and _is_a(value, DDPStrategy, SingleDeviceStrategy)


def _accelerator(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("auto", "cpu", "gpu", "cuda")
    return _is_a(value, CPUAccelerator, CUDAAccelerator)


def _no_checkpoint_io(value: Any) -> bool:
    return not any(_is_a(plugin, CheckpointIO) for plugin in (value if isinstance(value, list | tuple) else [value]))


def _val_check_interval(trainer: Any) -> Any:
    seconds = getattr(trainer, "_val_check_time_interval", None)
    return trainer.val_check_interval if seconds is None else f"{seconds:g} s"


_PRECISIONS: tuple[str, ...] = ("None", "32", "32-true", "bf16", "bf16-mixed", "16", "16-mixed")

#: Every argument, in the order of Lightning's signature.
ARGUMENTS: dict[str, Argument] = {
    "accelerator": Argument(
        "works",
        "`auto`, `cpu`, `gpu` or `cuda`; any other is refused",
        _accelerator,
        "Use cpu or gpu: the operators and the noise are made for these.",
        lambda trainer: trainer.accelerator,
    ),
    "strategy": Argument(
        "works",
        "`auto` or `ddp` ([several processes](distributed.md)), or a class of these; FSDP, DeepSpeed and processes "
        "that are spawned or forked are refused",
        _strategy,
        "Use ddp, or leave it out: no model here needs to be split.",
        lambda trainer: trainer.strategy,
    ),
    "devices": Argument("works", "1 unless given, where Lightning takes all that there are"),
    "num_nodes": Argument("works", "[several machines](distributed.md)"),
    "precision": Argument(
        "works",
        "`32-true`, `bf16-mixed`, or `16-mixed`, for which Lightning takes `bf16-mixed` on a CPU, and says so; weights "
        "in double or half precision and `transformer-engine` are refused",
        lambda value: str(value) in _PRECISIONS,
        "Use 32-true, bf16-mixed or 16-mixed: weights, noise and compiled operators are in single precision.",
        lambda trainer: trainer.precision,
    ),
    "logger": Argument("here", "unset or `true`: what `--logger` says; `false`: none; or your own"),
    "callbacks": Argument("works", "beside those that every run has; a progress bar of yours replaces ours"),
    "fast_dev_run": Argument(
        "here",
        "`moto fit` takes 1 (or the given number of) gradient steps of each phase, with an episode in each "
        "environment, evaluations of one episode and checkpoints, in a temporary directory that is removed: the run's "
        "is not touched, and no logger is told. In one process",
        lambda value: isinstance(value, int) and value >= 0,
        "Give true, false, or a number of gradient steps.",
    ),
    "max_epochs": Argument(
        "refused",
        "data.offline_steps, data.online_steps, data.offline_round_steps and data.updates_per_episode decide it; "
        "in Python give `max_epochs=-1`",
        _unset,
        "Leave it out: data.offline_steps, data.online_steps, data.offline_round_steps and data.updates_per_episode "
        "decide how many rounds there are. To end earlier give trainer.max_steps or trainer.max_time.",
    ),
    "min_epochs": Argument(
        "refused",
        "a run takes all the steps of data.offline_steps and data.online_steps, unless it is told to end earlier",
        _off,
        "Leave it out: a run takes all the steps of data.offline_steps and data.online_steps.",
        lambda trainer: None if trainer.min_steps else trainer.min_epochs,
    ),
    "max_steps": Argument(
        "works",
        "the run ends after that many gradient steps in all, also within a round, with a checkpoint; without it the "
        "same command goes on as if it had never ended",
        lambda value: value == -1 or value >= 1,
        "Give at least 1 gradient step, or -1 for all of them.",
        lambda trainer: trainer.max_steps,
        fit_only=True,
    ),
    "min_steps": Argument(
        "refused",
        "as `min_epochs`",
        _off,
        "Leave it out: a run takes all the steps of data.offline_steps and data.online_steps.",
        lambda trainer: trainer.min_steps,
    ),
    "max_time": Argument(
        "works",
        "as `max_steps`, after so much time (`DD:HH:MM:SS`) of training over all the run's starts; a round's episodes "
        "and an evaluation are finished first",
        _duration,
        "Give DD:HH:MM:SS, such as 00:01:30:00, or days, hours, minutes and seconds by name.",
    ),
    "limit_train_batches": Argument(
        "refused",
        "data.offline_steps and data.online_steps",
        _whole,
        "Leave it out and give data.offline_steps and data.online_steps.",
        lambda trainer: None if trainer.overfit_batches else trainer.limit_train_batches,
    ),
    "limit_val_batches": Argument(
        "refused",
        "data.eval_episodes, which may be 0",
        _whole,
        "Leave it out and give data.eval_episodes.",
        lambda trainer: None if trainer.overfit_batches else trainer.limit_val_batches,
    ),
    "limit_test_batches": Argument(
        "refused",
        "data.test_episodes",
        _whole,
        "Leave it out and give data.test_episodes.",
        lambda trainer: trainer.limit_test_batches,
    ),
    "limit_predict_batches": Argument(
        "refused",
        "no agent has a prediction step; `moto test` rolls episodes",
        _whole,
        "Leave it out: no agent has a prediction step.",
        lambda trainer: trainer.limit_predict_batches,
    ),
    "overfit_batches": Argument(
        "refused",
        "a dataset of few demonstrations, with data.online_steps 0",
        _off,
        "Leave it out and give a data.dataset of few demonstrations, with data.online_steps 0.",
        lambda trainer: trainer.overfit_batches,
    ),
    "val_check_interval": Argument(
        "refused",
        "data.eval_every, in gradient steps",
        _whole,
        "Leave it out and give data.eval_every, in gradient steps.",
        _val_check_interval,
    ),
    "check_val_every_n_epoch": Argument(
        "refused",
        "data.eval_every, in gradient steps",
        _one_of(1),
        "Leave it out and give data.eval_every, in gradient steps.",
        lambda trainer: trainer.check_val_every_n_epoch,
    ),
    "num_sanity_val_steps": Argument(
        "refused",
        "0 here: `--evaluate_untrained` begins a run with a whole evaluation; in Python give 0",
        lambda value: value is None or value == 0,
        "Leave it out, or give 0: evaluate_untrained begins a run with a whole evaluation.",
        lambda trainer: trainer.num_sanity_val_steps,
        fit_only=True,
    ),
    "log_every_n_steps": Argument(
        "works",
        "10 unless given; 0 logs evaluations and rounds alone",
        lambda value: value is None or value >= 0,
        "Give a number of gradient steps; 0 for none.",
    ),
    "enable_checkpointing": Argument(
        "refused",
        "a run without checkpoints could not go on; `--checkpoint_every` makes them rarer",
        lambda value: value is None or value is True,
        "Leave it out: a run without checkpoints cannot go on. --checkpoint_every makes them rarer.",
    ),
    "enable_progress_bar": Argument("works", "`false` also leaves out the lines that stand for the bar in a log"),
    "enable_model_summary": Argument("works", "off unless given"),
    "accumulate_grad_batches": Argument(
        "works",
        "batches of which one gradient step is made, each of which [all processes share](distributed.md); schedules "
        "count steps",
        lambda value: value >= 1,
        "Give at least 1 batch.",
        lambda trainer: trainer.accumulate_grad_batches,
    ),
    "gradient_clip_val": Argument(
        "here",
        "the largest norm of each component's gradient, in place of the agent's own; above 0, `.inf` clips nothing",
        lambda value: value is None or value > 0,
        "Give a norm above 0 (.inf clips nothing), or leave it out for the agent's own.",
        lambda trainer: trainer.gradient_clip_val,
    ),
    "gradient_clip_algorithm": Argument(
        "works",
        "`norm`; `value` is refused",
        lambda value: value in (None, "norm"),
        "Use norm, or leave it out.",
        lambda trainer: trainer.gradient_clip_algorithm,
    ),
    "deterministic": Argument("works", "on a CPU every run is; on a GPU PyTorch refuses what it cannot repeat"),
    "benchmark": Argument("works", "cuDNN's search for the fastest convolution, on a GPU"),
    "inference_mode": Argument(
        "refused",
        "`false` here: tensors of the evaluation that begins a run could not be trained on",
        _one_of(False),
        "Leave it out: it is false here, so that the evaluation that begins a run leaves tensors to train on.",
    ),
    "use_distributed_sampler": Argument(
        "refused",
        "`false` here: the data module deals batches and episodes out itself",
        _one_of(False),
        "Leave it out: it is false here, because the data module deals batches and episodes out itself.",
    ),
    "profiler": Argument("works", "`simple`, `advanced`, `pytorch`, or your own"),
    "detect_anomaly": Argument("works", "slow; a gradient that is not finite stops a run without it too"),
    "barebones": Argument(
        "refused",
        "a run keeps logs and checkpoints; `python -m benchmarks.train_step` measures the bare step",
        _off,
        "Leave it out: a run keeps logs and checkpoints.",
        lambda trainer: trainer.barebones,
    ),
    "plugins": Argument(
        "works",
        "except for a CheckpointIO: a run's own writes checkpoints whole",
        _no_checkpoint_io,
        "Leave the CheckpointIO out: a run's own writes checkpoints whole, or not at all.",
    ),
    "sync_batchnorm": Argument(
        "refused",
        "no network here has batch normalisation",
        _off,
        "Leave it out: no network here has batch normalisation.",
    ),
    "reload_dataloaders_every_n_epochs": Argument(
        "refused",
        "1 here: each round has its own batches; in Python give 1",
        _one_of(1),
        "Give 1: each round has its own batches. On the command line leave it out.",
        lambda trainer: trainer.reload_dataloaders_every_n_epochs,
        fit_only=True,
    ),
    "default_root_dir": Argument(
        "here", "the run's directory, which the same command goes on in; `runs/moto` unless given"
    ),
    "enable_autolog_hparams": Argument(
        "works", "of agents of your own that save hyperparameters; `config.yaml` has all settings of any agent"
    ),
    "model_registry": Argument(
        "refused",
        "checkpoints are in the run's directory; copy them from there",
        _unset,
        "Leave it out: checkpoints are in the run's directory; copy them from there.",
    ),
}

#: What every run needs, whatever Lightning's own default.
FIXED: dict[str, Any] = {
    "max_epochs": -1,  # the agent ends a run: on resume the rounds may be of another size
    "num_sanity_val_steps": 0,
    "inference_mode": False,  # tensors made under it could not be updated in training later
    "use_distributed_sampler": False,
    "reload_dataloaders_every_n_epochs": 1,
}


def check_arguments(values: Mapping[str, Any]) -> None:
    """Refuses what would be ignored, or end badly.

    Args:
        values: arguments of the Trainer, as a configuration holds them or as a Trainer shows them.

    Raises:
        SettingError: the first that is refused; the text names the others.
    """
    refused = [name for name, value in values.items() if not _argument(name).accepts(value)]
    if refused:
        name, *others = refused
        also = f" The same goes for {', '.join(f'trainer.{other}' for other in others)}: see docs/trainer.md."
        raise SettingError(f"trainer.{name}", values[name], _argument(name).fix + (also if others else ""))


def _argument(name: str) -> Argument:
    """An argument of a newer Lightning has no fate yet: it may have its default alone."""
    parameters = inspect.signature(Trainer).parameters
    default = parameters[name].default if name in parameters else None
    unknown = Argument(
        "refused", "", _one_of(default), "Leave it out: it came with a newer Lightning than is known here."
    )
    return ARGUMENTS.get(name, unknown)


def check_trainer(trainer: Any) -> None:
    """Refuses the same in a Trainer that is built, by the command line or by a user, before it begins.

    Args:
        trainer: Lightning's Trainer.

    Raises:
        SettingError: what is refused.
    """
    fitting = trainer.state.fn == "fit"
    if trainer.fast_dev_run:
        fix = "In Python give a schedule of few steps; moto fit --trainer.fast_dev_run true tries everything once."
        raise SettingError("trainer.fast_dev_run", trainer.fast_dev_run, fix)
    asked = {name: argument for name, argument in ARGUMENTS.items() if fitting or not argument.fit_only}
    check_arguments({name: one.seen(trainer) for name, one in asked.items() if one.seen is not None})


def table() -> str:
    """The table of docs/trainer.md."""
    rows = [f"| `{name}` | {FATES[one.fate]} | {one.note} |" for name, one in ARGUMENTS.items()]
    return "\n".join(("| argument | fate | what it does, or what to use instead |", "|---|---|---|", *rows))
