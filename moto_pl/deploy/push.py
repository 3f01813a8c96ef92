"""``moto push``: a run's policy, with what says how good it is, on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import yaml

from moto_pl import __version__
from moto_pl.deploy.weights import acting
from moto_pl.errors import SettingError
from moto_pl.evaluations import FILE
from moto_pl.files import bytes_text
from moto_pl.hub import SCHEME, WEIGHTS, check_name, push
from moto_pl.reading import is_inside, read_bytes
from moto_pl.report.records import Evaluation, RunRecord, read_run
from moto_pl.report.statistics import wilson_interval

#: Films that are pushed, where there are some of the weights' own gradient step.
FILMS = {"test": "test episodes", "eval": "evaluation episodes", "open_loop": "what the world model expects"}
MAX_FILM = 30 * 2**20
_MIT = """MIT License

Copyright (c) {year} {owner}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated \
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the \
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit \
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the \
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE \
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR \
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR \
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def run_push(
    run: Path, name: str, checkpoint: Literal["best", "last"], license: str, private: bool, dry_run: bool
) -> int:
    """Puts a run's files together and pushes them; see :func:`moto_pl.cli.push`.

    Raises:
        SettingError: the run is none, holds links in place of files, or the hub cannot be reached.
    """
    name = check_name("name", name.removeprefix(SCHEME))
    if re.fullmatch(r"[A-Za-z0-9][\w.+-]*", license) is None:
        raise SettingError("--license", repr(license), "Give a licence's short name, such as mit or apache-2.0.")
    record = read_run(run)
    with TemporaryDirectory(prefix="moto-") as temporary:
        folder = Path(temporary)
        put_together(record, name, checkpoint, license, folder)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            print(f"{path.relative_to(folder)}: {bytes_text(path.stat().st_size)}")
        if dry_run:
            print(f"{name}: nothing was pushed")
            return 0
        print(f"pushed: {push(folder, name, private)}")
    return 0


def put_together(record: RunRecord, name: str, checkpoint: str, license: str, folder: Path) -> None:
    """Writes what is pushed into ``folder``, laid out as a run is. Nothing from outside the run's directory is read.

    Args:
        record: the run.
        name: of the repository.
        checkpoint: ``best`` or ``last``.
        license: of the weights, as the hub calls it.
        folder: an empty directory.

    Raises:
        SettingError: a file is missing, or a link.
    """
    weights = record.root / "checkpoints" / f"{checkpoint}.ckpt"
    _check(weights, record.root)
    content = acting(weights)
    (folder / WEIGHTS).parent.mkdir(parents=True)
    torch.save(content, folder / WEIGHTS)
    (folder / "config.yaml").write_bytes(_own(record.root / "config.yaml", record.root))
    if (record.root / FILE).is_symlink() or (record.root / FILE).exists():
        (folder / FILE).write_bytes(_own(record.root / FILE, record.root))
    films = dict(_films(record.root, content["global_step"]))
    for path in films:
        target = folder / path.relative_to(record.root)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(_own(path, record.root))
    shown = {path.relative_to(record.root).as_posix(): title for path, title in films.items()}
    (folder / "README.md").write_text(card(record, name, checkpoint, license, content["global_step"], shown))
    if license == "mit":
        text = _MIT.format(year=date.today().year, owner=f"the owner of {name}")
        (folder / "LICENSE").write_text(text)


def _check(path: Path, run: Path) -> None:
    if path.is_symlink() or (path.exists() and not is_inside(path, run)):
        raise SettingError("run", f"{path}, a link that may lead elsewhere", "Put the file there that it stands for.")
    if not path.exists():
        raise SettingError("run", f"{run}, which has no {path.relative_to(run)}", "Give a run that was trained.")


def _own(path: Path, run: Path) -> bytes:
    """A file of the run's own."""
    _check(path, run)
    try:
        return read_bytes(path, inside=run)
    except (OSError, ValueError) as error:
        raise SettingError("run", f"{path}, which cannot be read ({error})", "Put it right, or remove it.") from None


def _films(run: Path, step: int) -> Iterator[tuple[Path, str]]:
    """The films of these weights, and what each shows."""
    for kind, title in FILMS.items():
        path = run / "videos" / f"{kind}_{step:07d}.mp4"
        if path.exists() or path.is_symlink():
            _check(path, run)
            if path.stat().st_size <= MAX_FILM:
                yield path, title


# The model card.


def card(record: RunRecord, name: str, checkpoint: str, license: str, step: int, films: dict[str, str]) -> str:
    """The page that the hub shows."""
    env = str(record.setting("data", "env") or "an environment that config.yaml does not name")
    agent = str(record.setting("model", "class_path") or "agent").rpartition(".")[2]
    head = {
        "license": license,
        "library_name": "moto_pl",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["robotics", "reinforcement-learning", "world-model", agent.lower()],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {agent} on {env}",
        f"A policy that moto_pl {__version__} trained: the weights that act after {step:,} gradient steps"
        f" (`{checkpoint}.ckpt`), without the optimizer. Licence: {license}.",
        _demonstrations(record),
        "## Evaluation\n\n" + _table(record.evaluations, step),
    ]
    if checkpoint == "best":
        chosen = "These weights were chosen by the evaluation episodes, so that their success there is too good."
        parts.append(f"{chosen} Judge them by test seeds (`moto test`).")
    if films:
        shown = [f'{title}:\n\n<video src="{path}" controls muted></video>' for path, title in films.items()]
        parts.append("## Films\n\n" + "\n\n".join(shown))
    use = f"moto fit --config config.yaml --init {SCHEME}{name}    # a new run that begins with these weights\n"
    use += f"moto play FOLDER/{WEIGHTS}    # in a copy of this repository: episodes, and a film of them"
    parts.append(f"## Use\n\n```bash\n{use}\n```")
    parts.append("All settings are in `config.yaml`, and each evaluation, episode by episode, in `evaluations.jsonl`.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _demonstrations(record: RunRecord) -> str:
    dataset, count = record.dataset.get("dataset"), record.dataset.get("episodes")
    if not dataset:
        return ""
    return f"It began with {count} demonstrations of `{dataset}`." if count else f"It began with `{dataset}`."


def _table(evaluations: list[Evaluation], step: int) -> str:
    """Each evaluation up to a step, in Markdown."""
    rows = [
        "| seeds | gradient steps | success | 95% interval | success at the last step | steps in success | return |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in evaluations:
        if one.step > step:
            continue
        low, high = wilson_interval(one.successes, one.episodes)
        rows.append(
            f"| {'test' if one.stage == 'test' else 'evaluation'} | {one.step:,} | {one.successes} of {one.episodes} "
            f"| {low:.0%} to {high:.0%} | {' | '.join(one.cells())} |"
        )
    return "\n".join(rows) if len(rows) > 2 else "It was not evaluated."
