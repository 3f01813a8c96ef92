"""The training protocol as arithmetic: which round a gradient step belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from moto_pl.errors import SettingError

Pretrain = Literal["joint", "model_first"]
#: The two things that can be trained apart: the world model, and what acts on it (actor and critics).
Component = Literal["model", "behaviour"]
Components = Literal["all", "model", "behaviour"]


@dataclass(frozen=True)
class Schedule:
    """Rounds of gradient steps: the offline phase in chunks, then one round for the episodes collected side by side.

    A round is a Lightning epoch. Every question is answered from the number of gradient steps taken, which is all that
    a checkpoint has to remember.

    Attributes:
        offline_steps: gradient steps on the demonstrations alone.
        online_steps: gradient steps while episodes are collected.
        offline_round_steps: steps of an offline round (the last one may be shorter).
        updates_per_episode: steps after each collected episode, over all environments and processes.
        episodes_per_round: episodes that an online round collects before its steps.
        pretrain: ``joint`` trains all components at each offline step. ``model_first`` trains the world model alone for
            ``model_steps``, then actor and critics alone, on the model as it then stands, for ``offline_steps``.
        model_steps: gradient steps on the demonstrations that train the world model alone (``model_first``).
    """

    offline_steps: int
    online_steps: int
    offline_round_steps: int
    updates_per_episode: int
    episodes_per_round: int = 1
    pretrain: Pretrain = "joint"
    model_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("offline_steps", "online_steps"):
            if getattr(self, name) < 0:
                raise SettingError(f"data.{name}", getattr(self, name), "Give a number of gradient steps, 0 or more.")
        if self.pretrain == "joint" and self.model_steps != 0:
            fix = "Set data.pretrain: model_first, or leave it out; with joint, offline_steps train the model too."
            raise SettingError("data.model_steps", f"{self.model_steps}, with data.pretrain joint", fix)
        if self.pretrain == "model_first" and self.model_steps < 1:
            fix = "Give at least 1 gradient step of the world model alone, or set data.pretrain: joint."
            raise SettingError("data.model_steps", f"{self.model_steps}, with data.pretrain model_first", fix)
        for name in ("offline_round_steps", "updates_per_episode"):
            if getattr(self, name) < 1:
                raise SettingError(f"data.{name}", getattr(self, name), "Give at least 1 gradient step.")
        if self.episodes_per_round < 1:
            raise SettingError("data.num_envs", self.episodes_per_round, "Give at least 1 environment.")
        if self.total_steps == 0:
            raise SettingError("data.offline_steps", "0, with data.online_steps 0", "Give one of them gradient steps.")

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Schedule:
        """The schedule of a run whose ``config.yaml`` has these settings under ``data``.

        Raises:
            KeyError, TypeError, ValueError: one is missing, or is no number.
            SettingError: one is out of its range.
        """
        names = ("offline_steps", "online_steps", "offline_round_steps", "updates_per_episode")
        offline, online, offline_round, updates = (int(data[name]) for name in names)
        # Runs from before these were choices do not name them.
        envs, model_steps = int(data.get("num_envs", 1)), int(data.get("model_steps", 0))
        return cls(offline, online, offline_round, updates, envs, data.get("pretrain", "joint"), model_steps)

    @property
    def total_steps(self) -> int:
        """All gradient steps."""
        return self.pretraining_steps + self.online_steps

    @property
    def pretraining_steps(self) -> int:
        """Gradient steps of the offline phase: where it ends."""
        return self.model_steps + self.offline_steps

    @property
    def model_rounds(self) -> int:
        """Rounds that train the world model alone; they come first."""
        return -(-self.model_steps // self.offline_round_steps)

    @property
    def offline_rounds(self) -> int:
        """Rounds of the offline phase; none trains the world model alone and then the others."""
        return self.model_rounds + -(-self.offline_steps // self.offline_round_steps)

    @property
    def online_round_steps(self) -> int:
        """Steps of an online round (the last one may be shorter)."""
        return self.updates_per_episode * self.episodes_per_round

    @property
    def online_rounds(self) -> int:
        """Rounds of the online phase."""
        return -(-self.online_steps // self.online_round_steps)

    @property
    def online_episodes(self) -> int:
        """Episodes that a whole run collects."""
        return self.online_rounds * self.episodes_per_round

    @property
    def rounds(self) -> int:
        """All rounds: the epochs of a whole run."""
        return self.offline_rounds + self.online_rounds

    def round_of(self, step: int) -> int:
        """The round that gradient step ``step`` (from 0) belongs to; ``rounds`` once all are taken."""
        if step >= self.total_steps:
            return self.rounds
        if step < self.model_steps:
            return step // self.offline_round_steps
        if step < self.pretraining_steps:
            return self.model_rounds + (step - self.model_steps) // self.offline_round_steps
        return self.offline_rounds + (step - self.pretraining_steps) // self.online_round_steps

    def start_of(self, index: int) -> int:
        """The first gradient step of a round."""
        if index <= self.model_rounds:
            return min(self.model_steps, index * self.offline_round_steps)
        if index <= self.offline_rounds:
            behaviour = (index - self.model_rounds) * self.offline_round_steps
            return min(self.pretraining_steps, self.model_steps + behaviour)
        return min(self.total_steps, self.pretraining_steps + (index - self.offline_rounds) * self.online_round_steps)

    def steps_in(self, index: int) -> int:
        """Gradient steps of a round."""
        return self.start_of(index + 1) - self.start_of(index)

    def trains(self, step: int) -> Components:
        """Which components gradient step ``step`` (from 0) trains."""
        if self.pretrain == "joint" or step >= self.pretraining_steps:
            return "all"
        return "model" if step < self.model_steps else "behaviour"

    def steps_of(self, component: Component, step: int) -> int:
        """How many of the first ``step`` gradient steps train a component."""
        if self.pretrain == "joint":
            return step
        alone = min(step, self.model_steps), min(max(0, step - self.model_steps), self.offline_steps)
        return step - alone[component == "model"]

    def episodes_at(self, step: int) -> int:
        """How many episodes have been collected when gradient step ``step`` (from 0) is taken."""
        if step < self.pretraining_steps:
            return 0
        return (self.round_of(step) - self.offline_rounds + (step < self.total_steps)) * self.episodes_per_round

    def phase(self, step: int) -> str:
        """``untrained``, ``offline``, ``pretrained``, ``online`` or ``final``: where a run stands."""
        if step >= self.total_steps:
            return "final"
        if step == 0:
            return "untrained"
        if step == self.pretraining_steps:
            return "pretrained"
        return "offline" if step < self.pretraining_steps else "online"

    def describe_step(self, step: int) -> str:
        """What gradient step ``step`` is part of, in a few words."""
        if step >= self.pretraining_steps:
            return "online"
        alone = {"all": "", "model": ": world model", "behaviour": ": actor and critics"}
        return f"offline{alone[self.trains(step)]}"

    def describe(self, demonstrations: int) -> str:
        """One line for people: what a run on so many demonstrations will do."""
        offline = f"{self.offline_steps} gradient steps"
        if self.pretrain == "model_first":
            offline = f"{self.model_steps} gradient steps of the world model, then {offline} of actor and critics"
        offline += f" on {demonstrations} demonstrations"
        if self.online_steps == 0:
            return f"schedule: {offline}"
        return (
            f"schedule: {offline}, then {self.online_rounds} rounds of {self.episodes_per_round} episode(s) and "
            f"{self.online_round_steps} steps: {self.updates_per_episode} steps per episode"
        )

    def evaluation_due(self, index: int, every: int) -> bool:
        """Whether to evaluate after round ``index``: where a phase ends, and as ``every`` more steps are taken."""
        if index + 1 in (self.offline_rounds, self.rounds):
            return True
        return every > 0 and self.start_of(index + 1) // every > self.start_of(index) // every
