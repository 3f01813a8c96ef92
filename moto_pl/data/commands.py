"""The verbs ``moto data build | import | render | info | view | list``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BUILD_OPTIONS = (
    *("episodes", "steps", "seed", "workers", "image_size", "noise", "output", "overwrite"),
    *(
        "render_quality",
        "camera",
        "action_repeat",
        "paper_reset",
        "source",
        "least",
        "task",
        "order",
        "task_share",
        "keep_failures",
    ),
)


def add_data_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``data`` and its verbs; each sets ``run``, from the parsed arguments to the exit status."""
    data = subparsers.add_parser(
        "data", help="build, import, render, describe, show and list datasets of demonstrations"
    )
    verbs = data.add_subparsers(required=True, metavar="build | import | render | info | view | list")

    build = _verb(verbs, "build", _build, "record scripted demonstrations as a Minari dataset")
    build.add_argument("name", help="metaworld/<task>, kitchen/mixed, kitchen/partial, kitchen/replay, or reach")
    absent = argparse.SUPPRESS  # so that each builder's own default holds
    build.add_argument("--episodes", type=int, default=absent, help="successful episodes to keep (10)")
    build.add_argument("--steps", type=int, default=absent, help="agent steps an episode (101; reach 30)")
    build.add_argument("--seed", type=int, default=absent, help="decides where the objects are (0)")
    build.add_argument("--workers", type=int, default=absent, help="processes (2; reach 1)")
    build.add_argument("--image-size", type=int, default=absent, help="height and width in pixels (64)")
    build.add_argument("--noise", type=float, default=absent, help="standard deviation of noise on the actions (0)")
    build.add_argument("--render-quality", choices=("fast", "full"), default=absent, help="MetaWorld only (fast)")
    build.add_argument("--camera", default=absent, help="MetaWorld only: paper, corner2, ... (paper)")
    build.add_argument(
        "--action-repeat", type=int, default=absent, help="MetaWorld only: simulator steps an agent step (2)"
    )
    build.add_argument(
        "--paper-reset", action="store_true", default=absent, help="MetaWorld only: the paper's start of the hand"
    )
    build.add_argument("--output", default=absent, help="dataset id or path (moto_pl/<name>-v0)")
    build.add_argument("--overwrite", action="store_true", default=absent, help="replace a dataset that is there")

    build.add_argument("--source", default=absent, help="kitchen/replay only: npz episodes, or a dataset, to replay")
    build.add_argument("--least", type=int, default=absent, help="kitchen/replay only: objects in place to be kept (0)")
    build.add_argument("--task", default=absent, help="kitchen/replay only: mixed or partial (mixed)")

    order = "kitchen/mixed and partial only: of an episode's four objects (canonical)"
    build.add_argument("--order", choices=("canonical", "free"), default=absent, help=order)
    share = "kitchen: share of episodes with the task's own four objects (what the order has)"
    build.add_argument("--task-share", type=float, default=absent, help=share)
    keep = "kitchen/mixed and partial only: keep failed episodes too"
    build.add_argument("--keep-failures", action="store_true", default=absent, help=keep)

    importing = _verb(verbs, "import", _import, "turn DreamerV2's npz episodes into a Minari dataset")
    importing.add_argument("npz", nargs="+", help="npz files, or directories of them")
    importing.add_argument("--env", help="the environment they came from, such as moto_pl/Kitchen-mixed-v0")
    importing.add_argument("--success-reward", type=float, help="reward from which a step is a success (above 0)")
    importing.add_argument("--output", help="dataset id or path (moto_pl/import/<name>-v0)")
    importing.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")
    counted = (
        "the reward counts the task's objects, which the episodes complete in the task's order: tell them apart by it"
    )
    importing.add_argument("--counted-in-order", action="store_true", help=counted)

    render = _verb(verbs, "render", _render, "draw a dataset of kitchen states: a Minari dataset of pixels")
    render.add_argument("source", help="a Minari id, such as D4RL/kitchen/mixed-v2, or a path: Minari, .npy or .mjl")
    render.add_argument("--task", default="mixed", help="whose objects are counted: mixed, partial or complete (mixed)")
    render.add_argument("--objects", nargs="+", help="count these instead, such as kettle light_switch")
    render.add_argument("--output", help="dataset id or path (moto_pl/kitchen/<task>-rendered-v0)")
    render.add_argument("--workers", type=int, default=2, help="processes (2)")
    render.add_argument("--render-quality", choices=("fast", "full"), default="fast", help="(fast)")
    render.add_argument("--image-size", type=int, default=64, help="height and width in pixels (64)")
    render.add_argument("--episodes", type=int, help="only the first so many")
    render.add_argument("--tolerance", type=float, default=0.02, help="of replayed transitions, in rad (0.02)")
    render.add_argument("--download", action="store_true", help="fetch an id that is not here from Minari's remote")
    render.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")

    info = _verb(verbs, "info", _info, "count trajectories, transitions, returns and successes")
    info.add_argument(
        "dataset", help="a dataset id, short name or path; metaworld or kitchen: all beside the paper's Table 1"
    )
    info.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")

    view = _verb(verbs, "view", _view, "draw a contact sheet and a film")
    view.add_argument("dataset", help="a dataset id, short name or path")
    view.add_argument("--output-dir", default=".", help="where to write the two files (.)")
    view.add_argument("--episodes", type=int, default=10, help="how many to show (10)")
    view.add_argument("--columns", type=int, default=8, help="frames of each on the sheet (8)")
    view.add_argument("--fps", type=int, default=20, help="frames a second of the film (20)")

    _verb(verbs, "list", _list, "list the local Minari datasets")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    return parser


# The modules are imported where they are used: `moto --help` should not wait for them.


def _build(args: argparse.Namespace) -> int:
    from moto_pl.data.builders import build

    built = build(args.name, **{key: value for key, value in vars(args).items() if key in BUILD_OPTIONS})
    episodes, retries = built.recording.episodes, built.recording.retries
    steps = sum(episode.length for episode in episodes)
    mean = sum(episode.total_reward for episode in episodes) / len(episodes)
    successes = sum(episode.succeeded for episode in episodes)
    share = "all" if successes == len(episodes) else str(successes)
    print(f"{len(episodes)} episodes, {share} successful, {steps:,} transitions, mean return {mean:.1f}")
    print(f"Retries: {retries} failed episodes were discarded")
    print(f"Dataset: {built.path}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from moto_pl.data.npz_import import import_npz

    path = import_npz(args.npz, args.output, args.env, args.success_reward, args.overwrite, args.counted_in_order)
    print(f"Dataset: {path}")
    return 0


def _render(args: argparse.Namespace) -> int:
    from moto_pl.data.kitchen_render import render_states

    options = {key: value for key, value in vars(args).items() if key not in ("run", "verb", "source")}
    rendered = render_states(args.source, **options)
    print(f"Replayed: {rendered.verification}")
    print(f"{rendered.episodes} episodes, of which {rendered.resumed} were there from an earlier call")
    print(f"Dataset: {rendered.path}")
    return 0


def _info(args: argparse.Namespace) -> int:
    from rich.console import Console

    from moto_pl.data.info import info

    numbers = info(args.dataset, Console(quiet=True) if args.json else None)
    if args.json:
        print(json.dumps(numbers, indent=2))
    return 0


def _view(args: argparse.Namespace) -> int:
    from moto_pl.data.view import view

    sheet, film = view(args.dataset, args.output_dir, args.episodes, args.columns, args.fps)
    print(f"Contact sheet: {sheet.resolve()}\nFilm: {film.resolve()}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from rich.console import Console

    from moto_pl.data.info import list_table

    Console().print(list_table())
    return 0
