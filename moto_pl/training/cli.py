"""LightningCLI, set up for runs: derived settings, loggers, callbacks, and resume by the same command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from moto_pl import signals
from moto_pl.agents import Agent
from moto_pl.agents.capture import CaptureMode
from moto_pl.agents.description import check_same_agent, check_same_names
from moto_pl.agents.trainer_arguments import FIXED, check_arguments, check_trainer
from moto_pl.callbacks.checkpoint import RunCheckpoint
from moto_pl.callbacks.errors import ErrorLog
from moto_pl.callbacks.finite import FiniteGuard
from moto_pl.callbacks.gradients import ActorGradients
from moto_pl.callbacks.live_report import LiveReport, ReportWriter
from moto_pl.callbacks.open_loop import OpenLoopVideo
from moto_pl.callbacks.peers import Peers
from moto_pl.callbacks.progress import RunProgress
from moto_pl.callbacks.send import SendToTrackers, trackers
from moto_pl.callbacks.throughput import Throughput
from moto_pl.checkpoints import (
    BEST,
    DurableCheckpointIO,
    find_checkpoint,
    load_checkpoint,
    set_aside,
)
from moto_pl.errors import SettingError
from moto_pl.files import lock_run, write_whole
from moto_pl.schedule import Schedule
from moto_pl.training.configs import config_names, expand_configs
from moto_pl.training.datamodule import OfflineToOnlineDataModule
from moto_pl.training.initial import read_initial
from moto_pl.training.loggers import LOGGERS, chosen_loggers, make_loggers
from moto_pl.training.memory import keep_freed_memory
from moto_pl.training.restart import move_aside, refuse_lost_progress
from moto_pl.trust import check_classes

DEFAULT_ROOT = "runs/moto"
_PARSER: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
#: Settings of a run beside those of trainer, model and data: name, type, default, and what docs/settings.md says of it.
SETTINGS: tuple[tuple[str, Any, Any, str], ...] = (
    ("checkpoint_every", int, 1, "rounds from one checkpoint to the next, 1 or more"),
    ("max_skipped", int, 0, "gradient steps, 0 or more, that may be left out for NaN or infinity before the run ends"),
    ("video_episodes", int, 4, "episodes side by side in a video, 0 or more; 0 makes none"),
    (
        "actor_gradients_every",
        int,
        200,
        "gradient steps, 0 or more, between measurements of what pulls at the actor; 0 makes none",
    ),
    ("keep_memory", bool, True, "keep freed memory for the next gradient step, on a CPU"),
    (
        "capture",
        CaptureMode,
        "auto",
        "each gradient step as one CUDA graph, on a GPU, where it can be; false: operation by operation",
    ),
    ("evaluate_untrained", bool, True, "begin a run with an evaluation of the untrained policy"),
    (
        "init",
        str | None,
        None,
        "a checkpoint, or hf://org/name, whose weights, where they fit, a run begins with; null: none",
    ),
    (
        "peer_timeout_s",
        float,
        1800.0,
        "seconds, above 0, after which one of several processes that does not answer ends the run",
    ),
    ("report_every", float, 0.0, "minutes, 0 or more, between reports while the run goes on; 0 makes none"),
    (
        "logger",
        list[str] | str | None,
        None,
        f"who is told of the run: some of {', '.join(LOGGERS)}, with commas between; null: csv,tensorboard",
    ),
)


class MotoCLI(LightningCLI):
    """``moto fit | validate | test``."""

    def __init__(self, verb: str, *args: Any, **kwargs: Any) -> None:
        self._verb = verb
        super().__init__(*args, **kwargs)

    @classmethod
    def run(cls, args: Sequence[str]) -> MotoCLI:
        """Parses and runs."""
        return cls(
            args[0],
            Agent,
            OfflineToOnlineDataModule,
            subclass_mode_model=True,
            save_config_callback=None,
            seed_everything_default=0,
            args=list(args),
            # Errors are raised rather than printed, so that the command line can say the one thing that matters.
            # And a name that is cut short is a mistake, here as in a file.
            parser_kwargs={args[0]: dict(_PARSER)} | _PARSER,
            trainer_defaults={
                "default_root_dir": DEFAULT_ROOT,
                "accelerator": "auto",
                "devices": 1,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
                **{name: value for name, value in FIXED.items() if name != "max_epochs"},
            },
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The verb that is run, and no other: each has a parser, of a thousand settings, that takes time to make."""
        return {self._verb: LightningCLI.subcommands()[self._verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings of ours, and those that follow from others."""
        for word, meant in (("size", "networks, batches and budgets"), ("agent", "what is trained")):
            names = ", ".join(config_names(f"{word}s"))
            parser.add_argument(f"--{word}", type=str | None, default=None, help=f"{meant}: one of {names}")
        for name, kind, default, text in SETTINGS:
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)
        parser.add_argument(
            "--restart", action="store_true", help="move what the run has come to aside, and begin anew"
        )
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        """Looks at Lightning's arguments before anything is made, and turns a trial into a small run of its own."""
        check_classes(self.config)
        self._refuse_lightnings()
        self._restart = bool(self._get(self.config, "restart"))
        if self._restart and (self.subcommand != "fit" or self._get(self.config, "ckpt_path") is not None):
            raise SettingError("--restart", "true", "It is for moto fit without ckpt_path. Leave one of them out.")
        self._init: str | None = self._get(self.config, "init")
        if self._init is not None and (self.subcommand != "fit" or self._get(self.config, "ckpt_path") is not None):
            raise SettingError("--init", self._init, "It is for moto fit without ckpt_path. Leave one of them out.")
        trainer = self._get(self.config, "trainer")
        check_arguments(vars(trainer))  # its items() would go into what is nested
        self._loggers = chosen_loggers(self._get(self.config, "logger"), trainer.logger)
        self._trial: TemporaryDirectory[str] | None = None
        if steps := int(trainer.fast_dev_run):
            if self.subcommand != "fit":
                fix = "It is for moto fit. Give data.eval_episodes or data.test_episodes."
                raise SettingError("trainer.fast_dev_run", trainer.fast_dev_run, fix)
            self._trial = TemporaryDirectory(prefix="moto-")
            trainer.fast_dev_run, trainer.logger, trainer.default_root_dir = False, False, self._trial.name
            data = self._get(self.config, "data")
            short = ("model_steps", "offline_steps", "online_steps")
            for name, most in (*((name, steps) for name in short), ("eval_episodes", 1)):
                data[name] = min(most, data[name])

    def _parse_ckpt_path(self) -> None:
        """Lightning's reads hyperparameters, which no agent saves, of a checkpoint that nobody has looked at yet."""

    def _dump_config(self) -> None:
        """What an agent of one's own may keep with ``save_hyperparameters``.

        Lightning's writes all settings as YAML and reads them again, which is a sixth of a second of each start.
        """
        self.config_dump = json.loads(json.dumps(self.config[self.subcommand].as_dict(), default=str))

    def _refuse_lightnings(self) -> None:
        """Refuses what Lightning would take and this run ignore."""
        for name in ("optimizer", "lr_scheduler"):
            if (given := self._get(self.config, name)) is not None:
                fix = "Leave it out: an agent has its own. Its rates are its settings; --print_config shows them."
                raise SettingError(name, given.get("class_path", given), fix)
        if self._get(self.config, "weights_only") is False:
            raise SettingError("weights_only", "false", "Leave it out: a checkpoint is never unpickled.")

    def instantiate_classes(self) -> None:
        """Tells the data module what to ask where a length of the agent's does not fit the data."""
        try:
            super().instantiate_classes()
        except BaseException:
            if self._trial is not None:
                self._trial.cleanup()
            raise
        self.datamodule.given_settings = self.given_settings
        self.model.capture = self._get(self.config, "capture")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Puts in what configurations are made of, and keeps what was given."""
        super().parse_arguments(parser, expand_configs(args))
        self._args = args
        seed = self.config[self.config.subcommand].seed_everything  # which Lightning sets next
        if isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise SettingError("seed_everything", str(seed).lower(), f"Give a whole number, 0 to {2**32 - 1}.")

    def given_settings(self) -> frozenset[str]:
        """The agent's settings that stand in a file or on the command line, by their names under ``model.init_args``.

        A second reading without defaults, for the rare case that needs it: what is given may equal its default. A size
        is no giving: its lengths are cut to the data as defaults are.
        """
        verb, *args = expand_configs(self._args, sized=False)
        # A seed, which others are linked to, has to be there.
        given = self.parser.parse_args([verb, "--seed_everything=0", *args], defaults=False)[verb]
        return frozenset(given.get("model.init_args", Namespace()).keys())

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds what every run has; users add callbacks and loggers of their own in ``trainer``."""
        trainer_config = self._get(self.config_init, "trainer")
        root = Path(str(trainer_config.get("default_root_dir") or DEFAULT_ROOT))
        own = _as_list(trainer_config.get("callbacks"))
        self._peers = Peers(self._get(self.config_init, "peer_timeout_s"))
        evaluate, collect = self.datamodule.callbacks(self._get(self.config_init, "video_episodes"))
        extra: list[Any] = [
            self._peers,
            Throughput(),
            evaluate,
            OpenLoopVideo(sequences=self._get(self.config_init, "video_episodes")),
            ActorGradients(self._get(self.config_init, "actor_gradients_every")),
            FiniteGuard(self._get(self.config_init, "max_skipped")),
            RunCheckpoint(self._get(self.config_init, "checkpoint_every")),
            ErrorLog(),
            SendToTrackers(),
            LiveReport(0.0 if self._trial is not None else self._get(self.config_init, "report_every")),
        ]
        if trainer_config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in own):
            extra.append(RunProgress())
        extra.append(collect)
        settings = {**kwargs, **FIXED, "default_root_dir": str(root)}
        if trainer_config.get("logger") in (None, True):
            anew = self.subcommand == "fit" and self._get(self.config_init, "ckpt_path") not in (None, "last")
            settings["logger"] = make_loggers(self._loggers, root, anew)
        settings["plugins"] = [DurableCheckpointIO(), *_as_list(trainer_config.get("plugins"))]
        config = {**trainer_config, **settings, "callbacks": own}
        try:
            trainer = self._instantiate_trainer(config, extra)
        except SettingError:
            raise
        except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise SettingError("trainer", " ".join(str(error).split()).rstrip(".!"), "See docs/trainer.md.") from error
        check_trainer(trainer)
        self._peers.check(trainer)
        if self._trial is not None and trainer.world_size > 1:
            found = f"true, with {trainer.world_size} processes"
            raise SettingError("trainer.fast_dev_run", found, "Give trainer.devices: 1 and trainer.num_nodes: 1.")
        return trainer

    def fit(
        self, model: Agent, datamodule: OfflineToOnlineDataModule, ckpt_path: str | None = None, **kwargs: Any
    ) -> None:
        """Trains, going on from the run's newest checkpoint where there is one."""
        datamodule.check_pretraining(model)
        with self._trial or nullcontext():
            self._fit_locked(model, datamodule, ckpt_path)
        if self._trial is not None:
            steps = f"{self.trainer.global_step} gradient steps, the episodes and evaluations around them, checkpoints"
            self._say(f"trainer.fast_dev_run: all went well ({steps}); nothing is kept.")

    def _fit_locked(self, model: Agent, datamodule: OfflineToOnlineDataModule, ckpt_path: str | None) -> None:
        root = Path(self.trainer.default_root_dir)
        if self._get(self.config, "keep_memory") and self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        if not self.trainer.is_global_zero:
            self._fit(root, model, datamodule, ckpt_path)
            return
        with ExitStack() as afterwards, lock_run(root):
            afterwards.callback(self._last_report, root)
            afterwards.push(self._close_trackers)
            if self._restart:
                aside = move_aside(root)
                self._say(
                    f"restart: {root} was empty" if aside is None else f"restart: what was there is now in {aside}"
                )
                # Once: the same configuration, read again, goes on.
                self.config["fit"]["restart"] = False
            self._save_config(root)
            self._fit(root, model, datamodule, ckpt_path)

    def _close_trackers(self, kind: type[BaseException] | None, *others: object) -> None:
        for tracker in trackers(self.trainer):
            tracker.close(failed=kind is not None)

    def _last_report(self, root: Path) -> None:
        """The page after the run, however it has ended: as its directory is free, it loads itself no more."""
        if self._get(self.config, "report_every") and self._trial is None:
            report = ReportWriter(root)
            report.start()
            if signals.noted() is None:  # who has sent a signal does not wait
                report.finish()

    def _fit(self, root: Path, model: Agent, datamodule: OfflineToOnlineDataModule, ckpt_path: str | None) -> None:
        if self._restart:
            ckpt_path = None
        elif ckpt_path in (None, "last"):
            ckpt_path = self._newest(root, datamodule.schedule)
        if ckpt_path is not None:
            if self._init is not None:
                self._say(f"init: {self._init} is not read again: {root} goes on from its own weights")
            checkpoint = load_checkpoint(ckpt_path)
            saved = checkpoint.get("agent") or {}
            # What a run finds out is compared when it has.
            found = {name: saved.get(name) for name in ("action_size", "action_scale", "observation")}
            ours = {**model.description(), **found}
            check_same_agent(checkpoint.get("agent"), ours)
            check_same_names(saved, datamodule.collecting.observation, datamodule.collecting.image_size)
            step = int(checkpoint["global_step"])
            if step >= datamodule.schedule.total_steps:
                self._say(f"{root}: all {step} gradient steps are taken; raise data.online_steps to go on.")
                return
            if 0 <= self.trainer.max_steps <= step:
                self._say(f"{root}: {step} gradient steps are taken; raise trainer.max_steps or leave it out to go on.")
                return
            self._say(f"resuming {root} at gradient step {step} of {datamodule.schedule.total_steps}")
            del checkpoint
        else:
            self._begin(model, datamodule)
        with self._peers.watched(self.trainer):
            self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        if self.trainer.global_step < datamodule.schedule.total_steps:
            step, last = self.trainer.global_step, datamodule.schedule.total_steps
            self._say(
                f"{root}: told to end at gradient step {step} of {last}; the same command goes on from there without "
                "trainer.max_steps, trainer.max_time or what else ended it."
            )

    def _begin(self, model: Agent, datamodule: OfflineToOnlineDataModule) -> None:
        """Before a new run's first step: its initial weights, and an evaluation."""
        if self._init is not None:
            model.initial = read_initial(self._init)
        if self._get(self.config, "evaluate_untrained") and datamodule.evaluation.eval_episodes > 0:
            datamodule.before_fit = True
            self.trainer.validate(model, datamodule, verbose=False)
            datamodule.before_fit = False

    def _newest(self, root: Path, schedule: Schedule) -> str | None:
        """The checkpoint that the run goes on from; None where it begins."""
        newest, damaged = find_checkpoint(root / "checkpoints")
        if newest is None:
            refuse_lost_progress(root, damaged, schedule, self._get(self.config, "checkpoint_every"))
            return None
        if self.trainer.is_global_zero:
            set_aside(root / "checkpoints", damaged)
        return str(newest)

    def _say(self, message: str) -> None:
        if self.trainer.is_global_zero:
            print(message, flush=True)

    def validate(
        self, model: Agent, datamodule: LightningDataModule, ckpt_path: str | None = None, **kwargs: Any
    ) -> None:
        """Evaluates a checkpoint (the run's newest by default, or ``best``) on the evaluation seeds."""
        self.trainer.validate(model, datamodule=datamodule, ckpt_path=self._checkpoint(ckpt_path))

    def test(self, model: Agent, datamodule: LightningDataModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Evaluates a checkpoint (the run's newest by default, or ``best``) on the test seeds."""
        self.trainer.test(model, datamodule=datamodule, ckpt_path=self._checkpoint(ckpt_path))

    def _save_config(self, root: Path) -> None:
        """Writes what was asked for to ``<run>/config.yaml``, whole."""
        text = self._parser("fit").dump(self.config["fit"], skip_unset=False)
        write_whole(root / "config.yaml", text.encode())

    def _checkpoint(self, ckpt_path: str | None) -> str:
        directory = Path(self.trainer.default_root_dir) / "checkpoints"
        if ckpt_path == "best":
            return str(directory / BEST)
        if ckpt_path not in (None, "last"):
            return str(ckpt_path)
        newest, _ = find_checkpoint(directory)
        if newest is None:
            raise SettingError("ckpt_path", f"no checkpoint in {directory}", "Train with moto fit first, or name one.")
        return str(newest)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
