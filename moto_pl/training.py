"""LightningCLI, set up for runs: derived settings, loggers, callbacks, and resume by the same command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from moto_pl.agents import Agent
from moto_pl.agents.base import check_same_agent
from moto_pl.callbacks.checkpoint import BEST, DurableCheckpointIO, RunCheckpoint, load_checkpoint, newest_checkpoint
from moto_pl.callbacks.evaluation import EvaluationRecorder
from moto_pl.callbacks.finite import FiniteGuard
from moto_pl.callbacks.gradients import ActorGradients
from moto_pl.callbacks.open_loop import OpenLoopVideo
from moto_pl.callbacks.progress import RunProgress
from moto_pl.callbacks.throughput import Throughput
from moto_pl.configs import LIGHTNING_VERBS
from moto_pl.data.datamodule import OfflineToOnlineDataModule
from moto_pl.data.schedule import Pretrain, Schedule
from moto_pl.errors import SettingError
from moto_pl.files import lock_run
from moto_pl.memory import keep_freed_memory

#: The data module's settings that make the schedule, in the order of :class:`Schedule`'s.
_SCHEDULE = (
    "offline_steps",
    "online_steps",
    "offline_round_steps",
    "updates_per_episode",
    "num_envs",
    "pretrain",
    "model_steps",
)


def rounds(
    offline_steps: int,
    online_steps: int,
    offline_round_steps: int,
    updates_per_episode: int,
    num_envs: int,
    pretrain: Pretrain,
    model_steps: int,
) -> int:
    """The number of epochs of a run."""
    return Schedule(
        offline_steps, online_steps, offline_round_steps, updates_per_episode, num_envs, pretrain, model_steps
    ).rounds


class MotoCLI(LightningCLI):
    """``moto fit | validate | test``."""

    @classmethod
    def run(cls, args: Sequence[str]) -> MotoCLI:
        """Parses and runs."""
        return cls(
            Agent,
            OfflineToOnlineDataModule,
            subclass_mode_model=True,
            save_config_callback=None,
            seed_everything_default=0,
            args=list(args),
            # Errors are raised rather than printed, so that the command line can say the one thing that matters.
            parser_kwargs={verb: {"exit_on_error": False} for verb in LIGHTNING_VERBS} | {"exit_on_error": False},
            trainer_defaults={
                "default_root_dir": "runs/moto",
                "accelerator": "auto",
                "devices": 1,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's verbs that mean something here."""
        return {verb: LightningCLI.subcommands()[verb] for verb in LIGHTNING_VERBS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings of ours, and those that follow from others."""
        parser.add_argument(
            "--extends", type=list[str] | str, default=[], help="configurations that this one builds on"
        )
        parser.add_argument("--checkpoint_every", type=int, default=1, help="rounds between checkpoints")
        parser.add_argument("--max_skipped", type=int, default=0, help="steps that may be left out for NaN or infinity")
        parser.add_argument("--video_episodes", type=int, default=4, help="episodes side by side in a video; 0: none")
        parser.add_argument(
            "--actor_gradients_every",
            type=int,
            default=200,
            help="steps between measurements of what pulls at the actor; 0: none",
        )
        parser.add_argument(
            "--keep_memory", type=bool, default=True, help="on a CPU: keep freed memory for the next step"
        )
        parser.add_argument("--evaluate_untrained", type=bool, default=True, help="begin a run with an evaluation")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments(tuple(f"data.{name}" for name in _SCHEDULE), "trainer.max_epochs", compute_fn=rounds)

    def instantiate_classes(self) -> None:
        """Tells the data module what to ask where a length of the agent's does not fit the data."""
        super().instantiate_classes()
        self.datamodule.given_settings = self.given_settings

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keeps what was given."""
        super().parse_arguments(parser, args)
        self._args = args

    def given_settings(self) -> frozenset[str]:
        """The agent's settings that stand in a file or on the command line, by their names under ``model.init_args``.

        A second reading without defaults, for the rare case that needs it: what is given may equal its default.
        """
        given = self.parser.parse_args(self._args, defaults=False)[str(self.subcommand)]
        return frozenset(given.get("model.init_args", Namespace()).keys())

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds what every run has; users add callbacks and loggers of their own in ``trainer``."""
        trainer_config = self._get(self.config_init, "trainer")
        root = Path(str(trainer_config.get("default_root_dir") or "runs/moto"))
        extra: list[Any] = [
            Throughput(),
            EvaluationRecorder(self._get(self.config_init, "video_episodes")),
            OpenLoopVideo(sequences=self._get(self.config_init, "video_episodes")),
            ActorGradients(self._get(self.config_init, "actor_gradients_every")),
            FiniteGuard(self._get(self.config_init, "max_skipped")),
            RunCheckpoint(self._get(self.config_init, "checkpoint_every")),
        ]
        if trainer_config.get("enable_progress_bar") is not False:
            extra.append(RunProgress())
        settings = dict(kwargs)
        if trainer_config.get("logger") in (None, True):
            settings["logger"] = [
                CSVLogger(root, name="csv", flush_logs_every_n_steps=1),
                TensorBoardLogger(root, name="tensorboard", version=""),
            ]
        # What rounds as epochs need. Tensors made under inference_mode could not be updated in training later.
        settings |= {
            "reload_dataloaders_every_n_epochs": 1,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "inference_mode": False,
        }
        settings["plugins"] = [DurableCheckpointIO(), *_as_list(trainer_config.get("plugins"))]
        config = {**trainer_config, **settings}
        config["callbacks"] = _as_list(trainer_config.get("callbacks"))
        return self._instantiate_trainer(config, extra)

    def fit(
        self, model: Agent, datamodule: OfflineToOnlineDataModule, ckpt_path: str | None = None, **kwargs: Any
    ) -> None:
        """Trains, going on from the run's newest checkpoint where there is one."""
        datamodule.check_pretraining(model)
        root = Path(self.trainer.default_root_dir)
        if self._get(self.config, "keep_memory") and self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        if not self.trainer.is_global_zero:
            self._fit(root, model, datamodule, ckpt_path)
            return
        with lock_run(root):
            self._save_config(root)
            self._fit(root, model, datamodule, ckpt_path)

    def _fit(self, root: Path, model: Agent, datamodule: OfflineToOnlineDataModule, ckpt_path: str | None) -> None:
        if ckpt_path in (None, "last"):
            newest = newest_checkpoint(root / "checkpoints")
            ckpt_path = None if newest is None else str(newest)
        if ckpt_path is not None:
            checkpoint = load_checkpoint(ckpt_path)
            ours = {**model.description(), "action_size": (checkpoint.get("agent") or {}).get("action_size")}
            check_same_agent(checkpoint.get("agent"), ours)
            step = int(checkpoint["global_step"])
            if step >= datamodule.schedule.total_steps:
                self._say(f"{root}: all {step} gradient steps are taken; raise data.online_steps to go on.")
                return
            self._say(f"resuming {root} at gradient step {step} of {datamodule.schedule.total_steps}")
            del checkpoint
        elif self._get(self.config, "evaluate_untrained") and datamodule.eval_episodes > 0:
            datamodule.before_fit = True
            self.trainer.validate(model, datamodule, verbose=False)
            datamodule.before_fit = False
        # The agent ends the run with its last gradient step: a resumed run counts its epochs on, and their rounds may
        # have been of another size.
        self.trainer.fit_loop.max_epochs = -1
        self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)

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
        """Writes what was asked for to ``<run>/config.yaml``, whole, then renames."""
        temporary = root / "config.yaml.tmp"
        self._parser("fit").save(self.config["fit"], temporary, skip_unset=False, overwrite=True, multifile=False)
        os.replace(temporary, root / "config.yaml")

    def _checkpoint(self, ckpt_path: str | None) -> str:
        directory = Path(self.trainer.default_root_dir) / "checkpoints"
        if ckpt_path == "best":
            return str(directory / BEST)
        if ckpt_path not in (None, "last"):
            return str(ckpt_path)
        newest = newest_checkpoint(directory)
        if newest is None:
            raise SettingError("ckpt_path", f"no checkpoint in {directory}", "Train with moto fit first, or name one.")
        return str(newest)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
