"""The verbs ``moto data build | import | export | render | info | view | repair | list``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from json import dumps
from typing import Any

from rich.console import Console

from moto_pl.datasets.builders import build, builder
from moto_pl.datasets.formats.exporting import export_dataset
from moto_pl.datasets.formats.importing import import_dataset
from moto_pl.datasets.formats.table import FORMATS
from moto_pl.datasets.info import info, list_table
from moto_pl.datasets.kitchen.render import render_states
from moto_pl.datasets.minari_io import buildable_names
from moto_pl.datasets.repair import repair
from moto_pl.datasets.view import view
from moto_pl.verbs import Verb, VerbParser


class Build(Verb):
    """``moto data build NAME``: the options are those of the dataset's builder and of its environment."""

    def __init__(self) -> None:
        super().__init__(build)

    def parser(self, prog: str) -> VerbParser:
        """The parser of a command that has no name of a dataset."""
        parser = super().parser(prog)
        parser.epilog = f"Each dataset has options of its own: {prog} metaworld/door-open --help."
        return parser

    def named(self, name: str, prog: str) -> tuple[VerbParser, dict[str, Any]]:
        """The parser of a dataset's options, and the defaults of those that are its environment's."""
        found = builder(name)
        summary = Verb(found.function).summary
        parser = VerbParser(f"{prog} {name}", summary)
        parser.add_signature(found.function, skip=tuple(found.fixed))
        # What the builder sets itself is not asked for again.
        added = parser.add_signature(found.environment, skip=("task", "objects", "episode_steps", "render_mode"))
        return parser, {option: parser.get_default(option) for option in added}

    def __call__(self, args: Sequence[str], prog: str) -> int:
        """Finds the dataset's name among the arguments, and builds it with the others."""
        known = buildable_names()
        place = next((i for i, arg in enumerate(args) if arg in known or (i == 0 and not arg.startswith("-"))), None)
        if place is None:
            help_wanted = [arg for arg in args if arg in ("-h", "--help")]
            self.parser(prog).read(help_wanted)  # which ends here, as there is no name
            raise AssertionError("a name is required")
        name = args[place]
        parser, defaults = self.named(name, prog)
        options = parser.read([*args[:place], *args[place + 1 :]])
        # An environment's own defaults hold where nothing was given: they are not written into the dataset.
        given = {key: value for key, value in options.items() if key not in defaults or value != defaults[key]}
        built = build(name, **given)
        episodes, retries = built.recording.episodes, built.recording.retries
        steps = sum(episode.length for episode in episodes)
        mean = sum(episode.total_reward for episode in episodes) / len(episodes)
        successes = sum(episode.succeeded for episode in episodes)
        share = "all" if successes == len(episodes) else str(successes)
        print(f"{len(episodes)} episodes, {share} successful, {steps:,} transitions, mean return {mean:.1f}")
        print(f"Retries: {retries} failed episodes were discarded")
        print(f"Dataset: {built.path}")
        return 0


@functools.wraps(import_dataset)
def _import(*args: Any, **options: Any) -> int:
    done = import_dataset(*args, **options)
    again = f", of which {done.resumed} were there from an earlier call" if done.resumed else ""
    print(f"{done.episodes} episodes of {FORMATS[done.format].title}{again}")
    if done.left_out:
        print(f"Left out: the last {done.left_out} episodes, since the first of them is {done.reason}")
    if not done.bounds.identity:
        print(f"Actions: {done.bounds}")
    print(f"Dataset: {done.path}")
    return 0


@functools.wraps(render_states)
def _render(*args: Any, **options: Any) -> int:
    rendered = render_states(*args, **options)
    print(f"Replayed: {rendered.verification}")
    print(f"{rendered.episodes} episodes, of which {rendered.resumed} were there from an earlier call")
    print(f"Dataset: {rendered.path}")
    return 0


@functools.wraps(export_dataset)
def _export(*args: Any, **options: Any) -> int:
    done = export_dataset(*args, **options)
    print(f"{done.episodes} episodes\nDataset: {done.path}")
    return 0


def _info(dataset: str, json: bool = False) -> int:
    """Count trajectories, transitions, returns and successes.

    Args:
        dataset: a dataset id, short name or path; metaworld or kitchen: all such beside the paper's Table 1.
        json: print the numbers as JSON instead of a table.
    """
    numbers = info(dataset, Console(quiet=True) if json else None)
    if json:
        print(dumps(numbers, indent=2))
    return 0


@functools.wraps(view)
def _view(*args: Any, **options: Any) -> int:
    sheet, film = view(*args, **options)
    print(f"Contact sheet: {sheet.resolve()}\nFilm: {film.resolve()}")
    return 0


def _list() -> int:
    """List the local Minari datasets."""
    Console().print(list_table())
    return 0


VERBS: dict[str, Verb] = {
    "build": Build(),
    "import": Verb(_import),
    "export": Verb(_export),
    "render": Verb(_render),
    "info": Verb(_info),
    "view": Verb(_view),
    "repair": Verb(repair),
    "list": Verb(_list),
}
