"""Which four objects a scripted kitchen demonstration operates, and in which order."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_ORDER, KITCHEN_TASKS
from moto_pl.errors import SettingError
from moto_pl.replay.episode import completion_order

Order = Literal["canonical", "free"]
ORDERS: tuple[Order, ...] = ("canonical", "free")
LENGTH = 4
"""Objects in a sequence."""

_INITIALS = {name[0]: name for name in KITCHEN_ORDER}
COMBINATIONS: tuple[tuple[str, ...], ...] = tuple(
    tuple(_INITIALS[initial] for initial in four)
    for four in """
    mktb mktl mkbh mkbs mklh mkls mkhs
    mtbl mtbh mtbs mtlh mtls mths mbls mbhs
    ktbl ktbh ktlh ktls kths kblh kbls kbhs klhs
    """.split()
)
"""Twenty-four of the 35 ways to take four of the seven objects in canonical order, by the objects' initials. As in the
recorded demonstrations, 15 begin with the microwave, 7 of them go on to the kettle, and none is the task ``partial``
itself; which of the others they are is our choice: each of the five objects after the kettle is in 13 of them."""

_FREE_TASK_SHARE = {"mixed": 0.1, "partial": 0.0}


def share_of_task(kind: str, order: Order, task_share: float | None) -> float | None:
    """The share of the episodes that operate the task's own four objects, where None asks for what the order has.

    Args:
        kind: as for :func:`sequence`.
        order: the same.
        task_share: the same.

    Returns:
        A share in [0, 1]; None where ``COMBINATIONS`` decide.
    """
    return _FREE_TASK_SHARE[kind] if task_share is None and order == "free" else task_share


def sequence(
    kind: str, index: int, seed: int = 0, task_share: float | None = None, order: Order = "canonical"
) -> tuple[str, ...]:
    """The four objects of a dataset's episode, in the order in which they are operated.

    Args:
        kind: the task, ``mixed`` or ``partial``.
        index: the episode's place in the dataset, from 0.
        seed: the dataset's.
        task_share: share of the episodes, evenly spread, that operate the task's own four in their order, 0 to 1. None
            is what the order has: of ``canonical`` one in 24 for ``mixed`` and none for ``partial``; of ``free`` 0.1
            and none.
        order: ``canonical``: one of ``COMBINATIONS``; each 24 episodes hold each once, and both tasks have the same.
            ``free``: four objects in any order. For ``mixed`` any four; for ``partial``, in every second episode three
            of the task's own and one that is not, each of the four being left out in turn, and any other four else.

    Raises:
        SettingError: another order.
    """
    if order not in ORDERS:
        raise SettingError("order", repr(order), f"Use one of {', '.join(ORDERS)}.")
    own = KITCHEN_TASKS[kind]
    share = share_of_task(kind, order, task_share)
    # Evenly spread, so that any number of episodes holds the share as nearly as it can.
    if share is not None and np.floor((index + 1) * share + 0.5) > np.floor(index * share + 0.5):
        return own
    if order == "free":
        return _any_order(kind, np.random.default_rng([seed, index]), index)
    four = [four for four in COMBINATIONS if share is None or four != own]
    block, place = divmod(index, len(four))
    return four[np.random.default_rng([seed, block]).permutation(len(four))[place]]


def in_canonical_order(in_place: np.ndarray) -> bool:
    """Whether the objects in place at an episode's end were first completed in canonical order.

    Args:
        in_place: which of all seven are in place after each step, bool ``[T, 7]``.
    """
    canonical = [KITCHEN_OBJECTS.index(name) for name in KITCHEN_ORDER]
    order = [column for column, _ in completion_order(in_place, canonical)]
    return order == [column for column in canonical if column in order]


def _any_order(kind: str, rng: np.random.Generator, index: int) -> tuple[str, ...]:
    own = KITCHEN_TASKS[kind]
    others = [four for four in itertools.combinations(KITCHEN_OBJECTS, LENGTH) if set(four) != set(own)]
    if kind == "partial" and index % 2 == 0:
        left_out = own[index // 2 % LENGTH]
        others = [four for four in others if sum(name in own for name in four) == 3 and left_out not in four]
    four = others[rng.integers(len(others))]
    return tuple(four[place] for place in rng.permutation(LENGTH))
