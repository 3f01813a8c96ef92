"""The training protocol as arithmetic: which round a gradient step belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from moto_pl.errors import SettingError


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
    """

    offline_steps: int
    online_steps: int
    offline_round_steps: int
    updates_per_episode: int
    episodes_per_round: int = 1

    def __post_init__(self) -> None:
        for name in ("offline_steps", "online_steps"):
            if getattr(self, name) < 0:
                raise SettingError(f"data.{name}", getattr(self, name), "Give a number of gradient steps, 0 or more.")
        for name in ("offline_round_steps", "updates_per_episode"):
            if getattr(self, name) < 1:
                raise SettingError(f"data.{name}", getattr(self, name), "Give at least 1 gradient step.")
        if self.episodes_per_round < 1:
            raise SettingError("data.num_envs", self.episodes_per_round, "Give at least 1 environment.")
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
        if step < self.offline_steps:
            return step // self.offline_round_steps
        return self.offline_rounds + (step - self.offline_steps) // self.online_round_steps

    def start_of(self, index: int) -> int:
        """The first gradient step of a round."""
        if index <= self.offline_rounds:
            return min(self.offline_steps, index * self.offline_round_steps)
        return min(self.total_steps, self.offline_steps + (index - self.offline_rounds) * self.online_round_steps)

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

    def describe(self, demonstrations: int) -> str:
        """One line for people: what a run on so many demonstrations will do."""
        offline = f"{self.offline_steps} gradient steps on {demonstrations} demonstrations"
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
