"""What a dataset holds, in numbers; and MetaWorld and kitchen datasets beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from moto_pl.datasets.kitchen.orders import in_canonical_order
from moto_pl.datasets.minari_io import DatasetReader, datasets_root, default_id, list_datasets, open_dataset
from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_ORDER, kitchen_id
from moto_pl.errors import SettingError
from moto_pl.files import bytes_text
from moto_pl.replay.episode import Episode

PAPER_RETURNS: Mapping[str, float] = {
    "assembly": 36.0,
    "bin-picking": 20.9,
    "box-close": 25.3,
    "coffee-push": 36.2,
    "disassemble": 31.6,
    "door-open": 15.2,
    "drawer-open": 48.0,
    "hammer": 63.3,
    "plate-slide": 71.1,
    "window-open": 60.5,
}
"""Mean undiscounted return of the demonstrations of each MetaWorld task in the paper's Table 1."""
PAPER_KITCHEN: Mapping[str, float] = {
    "trajectories": 563,
    "transitions": 128_569,
    "mean_return": 261.12,
    "mean_objects": 3.98,
}
"""The kitchen demonstrations of the paper's Table 1; objects are those operated in an episode, of all seven."""
PAPER_TRAJECTORIES, PAPER_TRANSITIONS, PAPER_SUCCESS = "9-10", 1010, 1.0


def dataset_numbers(reader: DatasetReader) -> dict[str, Any]:
    """Count and average over a whole dataset.

    Returns:
        ``id``, ``path``, ``trajectories``, ``transitions``, ``mean_return``, ``min_return``, ``max_return``,
        ``success_rate`` (share of episodes with a success), ``min_length``, ``mean_length``, ``max_length`` (steps),
        ``action_size``, ``action_min`` and ``action_max`` (one number a dimension), ``image_size`` (height, width),
        ``image_key`` (or several, with commas), ``bytes`` (on disk), ``metadata`` (what this package wrote when it
        built the dataset). Where the dataset records a kitchen's objects, also ``mean_objects`` and ``object_rates``:
        how many of all seven were in place at some step of an episode, and the share of episodes for each; and
        ``canonical_rate``, the share of episodes whose objects in place at the end were completed in canonical order.

    Raises:
        SettingError: the dataset holds a value that cannot be trained on, or is damaged.
    """
    returns, lengths, successes, lows, highs = [], [], [], [], []
    objects: list[np.ndarray] = []
    canonical: list[bool] = []
    console = Console(stderr=True)  # the numbers themselves may go to a file
    for episode in track(reader, f"reading {reader.id}", total=len(reader), transient=True, console=console):
        returns.append(episode.total_reward)
        lengths.append(episode.length)
        successes.append(episode.succeeded)
        lows.append(episode.action.min(axis=0))
        highs.append(episode.action.max(axis=0))
        if (in_place := _objects(episode)) is not None:
            objects.append(np.asarray(in_place.any(axis=0)))
            canonical.append(in_canonical_order(in_place))
    return {
        "id": reader.id,
        "path": str(reader.path),
        "trajectories": len(lengths),
        "transitions": sum(lengths),
        "mean_return": float(np.mean(returns)),
        "min_return": min(returns),
        "max_return": max(returns),
        "success_rate": float(np.mean(successes)),
        "min_length": min(lengths),
        "mean_length": float(np.mean(lengths)),
        "max_length": max(lengths),
        "action_size": reader.action_size,
        "action_min": np.min(lows, axis=0).tolist(),
        "action_max": np.max(highs, axis=0).tolist(),
        "action_bounds": None if reader.scale.identity else {"low": reader.scale.low, "high": reader.scale.high},
        "vectors": reader.vectors,
        "image_size": reader.image_shape[:2],
        "image_key": ", ".join(reader.cameras.values()),
        "bytes": reader.bytes,
        "metadata": reader.own,
        **_object_numbers(objects, canonical, len(lengths)),
    }


def _objects(episode: Episode) -> np.ndarray | None:
    """Which of the kitchen's seven objects were in place after each step, [T, 7]; None where that is not recorded."""
    in_place = episode.extras.get("in_place")
    if in_place is None or in_place.ndim != 2 or in_place.shape[1] != len(KITCHEN_OBJECTS):
        return None
    return np.asarray(in_place, bool)


def _object_numbers(objects: list[np.ndarray], canonical: list[bool], episodes: int) -> dict[str, Any]:
    if not objects or len(objects) < episodes:
        return {}
    rates = np.mean(objects, axis=0)
    return {
        "mean_objects": float(rates.sum()),
        "object_rates": dict(zip(KITCHEN_OBJECTS, rates.tolist(), strict=True)),
        "canonical_rate": float(np.mean(canonical)),
    }


def info(target: str, console: Console | None = None) -> dict[str, Any]:
    """Print what a dataset holds; for ``metaworld`` or ``kitchen``, all such datasets beside the paper's Table 1.

    Args:
        target: ``metaworld``, ``kitchen``, or a dataset as ``open_dataset`` takes it.
        console: where to print.

    Returns:
        The numbers of :func:`dataset_numbers`; for ``metaworld`` a dict of them by task, of the tasks that are built,
        for ``kitchen`` by dataset.

    Raises:
        SettingError: no such dataset, or a damaged one.
    """
    console = console or Console()
    if target == "metaworld":
        return _metaworld(console)
    if target == "kitchen":
        return _kitchen(console)
    numbers = dataset_numbers(open_dataset(target))
    console.print(_dataset_table(numbers))
    return numbers


def list_table() -> Table:
    """The local Minari datasets: which can be trained on, and how large they are."""
    table = Table(title=f"Minari datasets in {datasets_root()}")
    for name in ("dataset", "episodes", "steps", "image", "actions", "on disk"):
        table.add_column(name, justify="left" if name == "dataset" else "right", no_wrap=name == "dataset")
    for dataset_id in list_datasets():
        try:
            reader = open_dataset(dataset_id)
        except SettingError as error:
            table.add_row(dataset_id, *["-"] * 4, f"cannot be used: {error.found}")
            continue
        height, width, _ = reader.image_shape
        counts = str(len(reader)), f"{reader.transitions:,}"
        table.add_row(dataset_id, *counts, f"{height}x{width}", str(reader.action_size), bytes_text(reader.bytes))
    return table


def _dataset_table(numbers: Mapping[str, Any]) -> Table:
    table = Table(title=f"Dataset {numbers['id']}", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    height, width = numbers["image_size"]
    rows = {
        "trajectories": f"{numbers['trajectories']:,}",
        "transitions": f"{numbers['transitions']:,}",
        "return": f"mean {numbers['mean_return']:.2f}, {numbers['min_return']:g} to {numbers['max_return']:g}",
        "success": f"{numbers['success_rate']:.3f} of trajectories",
        "length": f"mean {numbers['mean_length']:.1f} steps, {numbers['min_length']} to {numbers['max_length']}",
        "image": f"{height} x {width} x 3, {numbers['image_key'] or 'the observation itself'}",
        "actions": f"{numbers['action_size']} dimensions, lowest {_vector(numbers['action_min'])}, "
        f"highest {_vector(numbers['action_max'])}",
        "on disk": f"{bytes_text(numbers['bytes'])}, {numbers['path']}",
    }
    if numbers["vectors"]:
        rows["vectors"] = ", ".join(f"{name} [{size}]" for name, size in numbers["vectors"].items())
    if numbers["action_bounds"] is not None:
        low, high = (_vector(numbers["action_bounds"][end]) for end in ("low", "high"))
        rows["-1 and 1"] = f"stand for {low} and {high}"
    for key, value in rows.items():
        table.add_row(key, value)
    if is_kitchen(numbers["metadata"]):
        table.add_section()
        for key, value in _beside_the_paper(numbers).items():
            table.add_row(key, value)
    table.add_section()
    for key, value in numbers["metadata"].items():
        pairs = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        table.add_row(key.replace("_", " "), pairs)
    return table


def is_kitchen(metadata: Mapping[str, Any]) -> bool:
    """Whether a dataset is one of Franka Kitchen, by what this package wrote about it."""
    return str(metadata.get("env_id", "")).startswith(kitchen_id("").removesuffix("-v0"))


def _beside_the_paper(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Rows that set a kitchen dataset beside the paper's."""
    paper = PAPER_KITCHEN
    rows = {
        "the paper's": f"{paper['trajectories']:,} trajectories, {paper['transitions']:,} transitions, "
        f"mean return {paper['mean_return']:.2f}, {paper['mean_objects']:.2f} objects an episode",
        "objects": "not recorded",
    }
    if "mean_objects" in numbers:
        rates = ", ".join(f"{name} {rate:.2f}" for name, rate in numbers["object_rates"].items())
        rows["objects"] = f"{numbers['mean_objects']:.2f} an episode: {rates}"
        rows["canonical order"] = f"{numbers['canonical_rate']:.3f} of trajectories"
    return rows


def _kitchen(console: Console) -> dict[str, Any]:
    built = {}
    for dataset_id in list_datasets():
        try:
            reader = open_dataset(dataset_id)
        except SettingError:
            continue  # nothing with images: not one of these
        if is_kitchen(reader.own):
            built[dataset_id] = dataset_numbers(reader)
    title = "Kitchen datasets beside the paper's Table 1"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    table.add_column("dataset", no_wrap=True)
    for name in ("episodes", "steps", "return", "objects", "canonical", "success"):  # narrow: 80 columns have to do
        table.add_column(name, justify="right", no_wrap=True)
    for name, numbers in {"the paper's": {**PAPER_KITCHEN, "canonical_rate": 1.0}, **built}.items():
        rates = [numbers.get(key) for key in ("canonical_rate", "success_rate")]
        objects = numbers.get("mean_objects")
        table.add_row(
            name,
            f"{numbers['trajectories']:,}",
            f"{numbers['transitions']:,}",
            f"{numbers['mean_return']:.2f}",
            "-" if objects is None else f"{objects:.2f}",
            *("-" if rate is None else f"{rate:.3f}" for rate in rates),
        )
    console.print(table)
    console.print(
        "Return: the mean. Objects: of all seven, those in place at some step of an episode. Canonical: share of "
        "episodes whose objects in place at the end were completed in the canonical order, "
        f"{', '.join(KITCHEN_ORDER)}. Success: all of the task's objects at one step."
    )
    return built


def _metaworld(console: Console) -> dict[str, Any]:
    prefix, suffix = default_id("metaworld/").split("-v")[0], default_id("").rpartition("/")[2]
    built = {
        dataset_id.removeprefix(prefix).removesuffix(suffix): dataset_numbers(open_dataset(dataset_id))
        for dataset_id in list_datasets()
        if dataset_id.startswith(prefix) and dataset_id.endswith(suffix)
    }
    title = "MetaWorld demonstrations beside the paper's Table 1"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("task", no_wrap=True)
    for name in ("episodes", "transitions", "mean return\nours / paper", "success\nours / paper", "retries"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in sorted({*PAPER_RETURNS, *built}):
        numbers = built.get(task)
        paper_return, paper_success = "-", "-"
        if task in PAPER_RETURNS:
            paper_return, paper_success = f"{PAPER_RETURNS[task]:.1f}", f"{PAPER_SUCCESS:.3f}"
        if numbers is None:
            table.add_row(task, "-", "-", f"- / {paper_return}", f"- / {paper_success}", "-")
            continue
        table.add_row(
            task,
            str(numbers["trajectories"]),
            f"{numbers['transitions']:,}",
            f"{numbers['mean_return']:.1f} / {paper_return}",
            f"{numbers['success_rate']:.3f} / {paper_success}",
            str(numbers["metadata"].get("retries", "-")),
        )
    console.print(table)
    console.print(
        f"The paper's: {PAPER_TRAJECTORIES} trajectories and {PAPER_TRANSITIONS:,} transitions a task, all successful."
    )
    missing = [task for task in PAPER_RETURNS if task not in built]
    if missing:
        console.print(f"Not built: {', '.join(missing)}. Build one with: moto data build metaworld/{missing[0]}")
    return built


def _vector(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.2f}" for value in values) + "]"
