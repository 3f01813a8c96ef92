"""The training protocol as arithmetic: which round a gradient step belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from moto_pl.errors import SettingError


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
    """

    offline_steps: int
    online_steps: int
    offline_round_steps: int
    updates_per_episode: int

    def __post_init__(self) -> None:
        for name in ("offline_steps", "online_steps"):
            if getattr(self, name) < 0:
                raise SettingError(f"data.{name}", getattr(self, name), "Give a number of gradient steps, 0 or more.")
        for name in ("offline_round_steps", "updates_per_episode"):
            if getattr(self, name) < 1:
                raise SettingError(f"data.{name}", getattr(self, name), "Give at least 1 gradient step a round.")
        if self.total_steps == 0:
            raise SettingError("data.offline_steps", "0, with data.online_steps 0", "Give one of them gradient steps.")

    @property
    def total_steps(self) -> int:
        """All gradient steps."""
        return self.offline_steps + self.online_steps

    @property
    def offline_rounds(self) -> int:
        """Rounds of the offline phase."""
        return -(-self.offline_steps // self.offline_round_steps)

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
        if step < self.offline_steps:
            return step // self.offline_round_steps
        return self.offline_rounds + (step - self.offline_steps) // self.updates_per_episode

    def start_of(self, index: int) -> int:
        """The first gradient step of a round."""
        if index <= self.offline_rounds:
            return min(self.offline_steps, index * self.offline_round_steps)
        return min(self.total_steps, self.offline_steps + (index - self.offline_rounds) * self.updates_per_episode)

    def steps_in(self, index: int) -> int:
        """Gradient steps of a round."""
        return self.start_of(index + 1) - self.start_of(index)

    def is_online(self, index: int) -> bool:
        """Whether a round collects."""
        return index >= self.offline_rounds

    def phase(self, step: int) -> str:
        """``untrained``, ``offline``, ``pretrained``, ``online`` or ``final``: where a run stands."""
        if step >= self.total_steps:
            return "final"
        if step == 0:
            return "untrained"
        if step == self.offline_steps:
            return "pretrained"
        return "offline" if step < self.offline_steps else "online"

    def evaluation_due(self, index: int, every: int) -> bool:
        """Whether to evaluate after round ``index``: where a phase ends, and as ``every`` more steps are taken."""
        if index + 1 in (self.offline_rounds, self.rounds):
            return True
        return every > 0 and self.start_of(index + 1) // every > self.start_of(index) // every
