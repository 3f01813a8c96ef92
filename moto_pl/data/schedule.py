"""The training protocol as arithmetic: which round a gradient step belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moto_pl.errors import SettingError

Pretrain = Literal["joint", "model_first"]
#: The two things that can be trained apart: the world model, and what acts on it (actor and critics).
Component = Literal["model", "behaviour"]
Components = Literal["all", "model", "behaviour"]


@dataclass(frozen=True)
class Schedule:
    """Rounds of gradient steps: the offline phase in chunks, then one round for each collected episode.

    A round is a Lightning epoch. Every question is answered from the number of gradient steps taken, which is all that
    a checkpoint has to remember.

    Attributes:
        offline_steps: gradient steps on the demonstrations alone.
        online_steps: gradient steps while episodes are collected.
        offline_round_steps: steps of an offline round (the last one may be shorter).
        updates_per_episode: steps of an online round (the last one may be shorter).
        pretrain: ``joint`` trains all components at each offline step. ``model_first`` trains the world model alone for
            ``model_steps``, then actor and critics alone, on the model as it then stands, for ``offline_steps``.
        model_steps: gradient steps on the demonstrations that train the world model alone (``model_first``).
    """

    offline_steps: int
    online_steps: int
    offline_round_steps: int
    updates_per_episode: int
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
                raise SettingError(f"data.{name}", getattr(self, name), "Give at least 1 gradient step a round.")
        if self.total_steps == 0:
            raise SettingError("data.offline_steps", "0, with data.online_steps 0", "Give one of them gradient steps.")

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
    def online_rounds(self) -> int:
        """Rounds of the online phase: as many episodes a rank and environment."""
        return -(-self.online_steps // self.updates_per_episode)

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
        return self.offline_rounds + (step - self.pretraining_steps) // self.updates_per_episode

    def start_of(self, index: int) -> int:
        """The first gradient step of a round."""
        if index <= self.model_rounds:
            return min(self.model_steps, index * self.offline_round_steps)
        if index <= self.offline_rounds:
            behaviour = (index - self.model_rounds) * self.offline_round_steps
            return min(self.pretraining_steps, self.model_steps + behaviour)
        return min(self.total_steps, self.pretraining_steps + (index - self.offline_rounds) * self.updates_per_episode)

    def steps_in(self, index: int) -> int:
        """Gradient steps of a round."""
        return self.start_of(index + 1) - self.start_of(index)

    def is_online(self, index: int) -> bool:
        """Whether a round collects."""
        return index >= self.offline_rounds

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

    def phase(self, step: int) -> str:
        """``untrained``, ``offline``, ``pretrained``, ``online`` or ``final``: where a run stands."""
        if step >= self.total_steps:
            return "final"
        if step == 0:
            return "untrained"
        if step == self.pretraining_steps:
            return "pretrained"
        return "offline" if step < self.pretraining_steps else "online"

    def describe(self, step: int) -> str:
        """What gradient step ``step`` is part of, in a few words."""
        if step >= self.pretraining_steps:
            return "online"
        alone = {"all": "", "model": ": world model", "behaviour": ": actor and critics"}
        return f"offline{alone[self.trains(step)]}"

    def evaluation_due(self, index: int, every: int) -> bool:
        """Whether to evaluate after round ``index``: where a phase ends, and as ``every`` more steps are taken."""
        if index + 1 in (self.offline_rounds, self.rounds):
            return True
        return every > 0 and self.start_of(index + 1) // every > self.start_of(index) // every
