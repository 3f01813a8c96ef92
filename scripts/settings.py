"""Writes docs/settings.md: every setting of ``moto fit``, from the docstrings of the classes that have them.

python scripts/settings.py            # in the environment of make setup
python scripts/settings.py --check    # only says whether the page is what would be written
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser
from written_page import write_or_compare

from moto_pl import agents
from moto_pl.agents.model_free import ModelFreeAgent
from moto_pl.agents.presets import Preset
from moto_pl.agents.trainer_arguments import ARGUMENTS
from moto_pl.datasets.builders import builder
from moto_pl.envs.observation import ObservationConfig
from moto_pl.training.cli import MotoCLI
from moto_pl.training.configs import config_names, settings_of
from moto_pl.training.datamodule import OfflineToOnlineDataModule

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"

#: Settings of the data module by what they are about; one that is missing here, or not there any more, is an error.
DATA = {
    "Demonstrations and environment": "env dataset build_missing build_options env_options val_episodes",
    "What is observed, and how it acts": "observation.cameras observation.state image_size action_repeat action_scale",
    "How long it trains": "pretrain model_steps offline_steps online_steps offline_round_steps updates_per_episode",
    "Collecting episodes": "num_envs env_workers worker_timeout_s max_episode_steps collect_mode exploration_noise "
    "exploration_hold exploration_detours collect exchange online_fraction",
    "Evaluations": "eval_episodes eval_every value_steps value_every test_episodes",
    "Memory and disk": "residency replay_limit_gb prefetch",
}
#: The agents: those with a world model, then those without, whose settings stand side by side.
AGENTS = ("MOTO", "DreamerV2", "LOMPO", "COMBO", "BC", "IQL", "SAC", "CQL")
#: What Lightning's own arguments are. Its docstrings describe other runs than these.
LIGHTNING = {
    "config": ("file", "A [configuration](configurations.md) in YAML. Several are read in their order."),
    "print_config": ("", "Print all settings as they would be, and end."),
    "seed_everything": (
        "whole number",
        "Names every draw of the run: initial weights, batches, noise, the places of objects; 0 to 4294967295. The "
        "`seed` of data module and agent follows it.",
    ),
    "ckpt_path": (
        "file, `last`, `best` or `null`",
        "The checkpoint that the verb takes. `last` and `null` are the run's newest, `best` the one that has evaluated "
        "best. `moto fit` goes on from it.",
    ),
    "verbose": ("`true` or `false`", "Whether `moto validate` and `moto test` print their figures as a table."),
    "optimizer": ("`null`", "Refused: an agent's optimizer is part of its method. Its rates are in `optim` or `td`."),
    "lr_scheduler": ("`null`", "Refused, as `optimizer` is."),
    "weights_only": ("`true` or `null`", "A checkpoint is never unpickled; `false` is refused."),
}
TRAINER = {
    "accelerator": "What computes.",
    "strategy": "How several processes share a gradient step.",
    "devices": "How many devices compute on each machine, or which.",
    "num_nodes": "How many machines compute.",
    "precision": "The numbers that networks compute in.",
    "logger": "Loggers of your own.",
    "callbacks": "Callbacks of your own.",
    "fast_dev_run": "Try the configuration.",
    "max_steps": "The gradient step at which the run is ended; -1 sets none.",
    "max_time": "The time after which the run is ended.",
    "log_every_n_steps": "Gradient steps between lines of the log.",
    "enable_progress_bar": "Whether progress is shown.",
    "enable_model_summary": "Whether Lightning prints a table of the networks.",
    "accumulate_grad_batches": "Batches for a gradient step.",
    "gradient_clip_val": "Clipping of gradients.",
    "gradient_clip_algorithm": "What clipping looks at.",
    "deterministic": "Whether PyTorch takes deterministic kernels alone.",
    "benchmark": "Whether convolutions are timed at first.",
    "profiler": "What measures where time goes.",
    "detect_anomaly": "Autograd's search for the operation that made a NaN.",
    "plugins": "Lightning's plugins.",
    "default_root_dir": "Where the run is kept.",
    "enable_autolog_hparams": "Whether Lightning logs hyperparameters.",
}
#: Letters of formulas, which keep their case.
SYMBOLS = ("alpha", "beta", "beta_bc", "eta", "lambda", "b")
SIZES = ("debug", "cpu", "small", "paper")
SIZED = "tasks/metaworld/drawer_open"

HEAD = """# Settings

Every setting of `moto fit`, with its default and what it does. `scripts/settings.py` writes this page from the
docstrings of the code; a test fails where it is stale.

A setting is given on the command line by its dotted name (`--data.online_steps 5000`), or in a
[configuration](configurations.md) (`data: {online_steps: 5000}`).

Tasks, sizes and agents override the defaults that stand here. `--print_config` shows what a run would have:
`moto fit --config configs/debug.yaml --print_config`. A name that does not exist, or a value out of its range, is one
line that says what to give, and exit status 2. `--trust PACKAGE` is no setting: it says whose code a configuration may
name ([security](security.md)).
"""
AGENTS_HEAD = """## The agents

Names below `model.init_args`: `behaviour.horizon` is `--model.init_args.behaviour.horizon` on the command line.
`--agent` chooses the agent; `--model my_package.MyAgent` is one of your own, whose settings its own docstring explains.
Letters such as D and S are those of [shapes](shapes.md).
"""
PRESETS_HEAD = """### Presets of BC, IQL, SAC and CQL

A setting that is `null` has the value of `preset`. [Baselines](baselines.md) says where the two come from.
"""
TRAINER_HEAD = """## The trainer

Lightning's arguments, as far as they mean something here. [Trainer](trainer.md) says more, and what to give in place of
those that are refused: {}.
"""
SIZES_HEAD = """## Sizes

What `--size` sets for MOTO on a task of MetaWorld, where sizes differ. Of another task or agent `--print_config` shows
it. A campaign's file has [keys of its own](campaigns.md).
"""


class Row(NamedTuple):
    """A setting."""

    key: str
    values: str
    default: str
    meaning: str


def explained(owner: Any) -> dict[str, str]:
    """What a docstring says of a class's or a function's parameters and attributes, by name."""
    found = docstring_parser.parse(inspect.getdoc(owner) or "", docstring_parser.DocstringStyle.GOOGLE)
    return {one.arg_name: sentence(one.description or "") for one in found.params if one.description}


def sentence(text: str) -> str:
    """A docstring's text as Markdown, with a capital at its beginning and a full stop."""
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", " ".join(text.split())).replace("``", "`")
    text = re.sub(r"`\"([\w-]+)\"`", r"`\1`", text)
    text = re.sub(r"\bNone is\b", "null is", re.sub(r"\bor None\b", "or null", text))
    symbol = re.match(r"\w+, ", text) is not None and text.split(",")[0] in SYMBOLS
    return (text if symbol else text[:1].upper() + text[1:]) + ("" if not text or text.endswith(".") else ".")


def written(value: Any) -> str:
    """A default, as a configuration has it."""
    if value is inspect.Parameter.empty:
        return "to be given"
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower() if value is not None else 'null'}`"
    if isinstance(value, float):
        return f"`{re.sub(r'e-0', 'e-', repr(value))}`"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(written(item).strip('`') for item in value)}]`"
    return f"`{value}`"


def kind(hint: Any) -> str:
    """What values a type has, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        kinds = [kind(part) for part in parts]
        return " or ".join(dict.fromkeys(kinds))
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"{len(parts)} {kind(parts[0])}s"
    if inspect.isclass(origin or hint) and issubclass(origin or hint, Sequence) and (origin or hint) is not str:
        return f"list of {kind(parts[0])}s" if parts else "list"
    if inspect.isclass(origin or hint) and issubclass(origin or hint, Mapping):
        return "settings by name"
    named = {int: "whole number", float: "number", bool: "`true` or `false`", str: "name", type(None): "`null`"}
    return named.get(hint, "name")


def fields(owner: type, prefix: str, keys: Iterable[str] | None = None) -> list[Row]:
    """A dataclass's fields as settings below a name; of a derived one its own, where it says more than its base."""
    hints, rows = get_type_hints(owner), []
    texts: dict[str, str] = {}
    for one in reversed(owner.__mro__):
        texts |= explained(one)
    preset = "null is the preset's value" in summary_of(owner)
    for field in dataclasses.fields(owner):
        if keys is not None and field.name not in keys:
            continue
        hint, text = hints[field.name], texts.get(field.name, "")
        if preset and type(None) in get_args(hint) and text and "null" not in text:
            text += " null is the preset's."
        rows.append(Row(prefix + field.name, kind(hint), written(field.default), text))
    return rows


def summary_of(owner: Any) -> str:
    """A docstring's first paragraph."""
    return sentence((inspect.getdoc(owner) or "").split("\n\n")[0])


def parameters(owner: Any, prefix: str = "", skip: Iterable[str] = ()) -> list[Row]:
    """The parameters of a class or a function as settings."""
    target = owner.__init__ if isinstance(owner, type) else owner
    hints, texts = get_type_hints(target), explained(owner)
    return [
        Row(prefix + name, kind(hints[name]), written(one.default), texts.get(name, ""))
        for name, one in inspect.signature(target).parameters.items()
        if name not in ("self", *skip) and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]


def table(rows: Sequence[Row]) -> str:
    """Settings as Markdown."""
    lines = [f"| `{row.key}` | {row.values} | {row.default} | {row.meaning} |" for row in rows]
    return "\n".join(("| setting | values | default | what it is |", "|---|---|---|---|", *lines))


class _Parser(MotoCLI):
    """The parser alone: nothing is made, and nothing run."""

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@cache
def parser(verb: str = "fit") -> ArgumentParser:
    """The parser of one of Lightning's verbs."""
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    return _Parser.run([verb, "--config", str(ROOT / "configs/debug.yaml")])._parser(verb)


def top_level() -> list[Row]:
    """The settings that belong to no part."""
    rows: dict[str, Row] = {}
    for verb in ("fit", "validate"):
        for action in parser(verb)._actions:
            name = action.dest
            if "." in name or name in ("help", "trainer", "model", "data"):
                continue
            own = kind(action._typehint) if hasattr(action, "_typehint") else kind(action.type or bool)
            values, text = LIGHTNING.get(name, (own, sentence(action.help or "")))
            default = "" if name in ("config", "print_config") else written(action.default)
            rows[name] = Row(name, values, default, text)
    return sorted(rows.values(), key=lambda row: row.key in ("optimizer", "lr_scheduler", "weights_only"))


def data_module() -> Iterator[str]:
    """The data module's settings, in groups."""
    rows = {row.key: row for row in parameters(OfflineToOnlineDataModule, "data.", skip=("observation", "seed"))}
    rows |= {row.key: row for row in fields(ObservationConfig, "data.observation.")}
    for heading, names in DATA.items():
        yield f"### {heading}\n\n{table([rows.pop(f'data.{name}') for name in names.split()])}\n"
    if rows:
        raise LookupError(f"scripts/settings.py: found no group in DATA for {', '.join(rows)}. Add them.")


def parts_of(agent: type) -> dict[str, type]:
    """An agent's dataclasses of settings by their names."""
    found = {}
    for name, hint in get_type_hints(agent.__init__).items():  # type: ignore[misc]
        for part in filter(dataclasses.is_dataclass, (hint, *get_args(hint))):
            found[name] = part
    return found


def agent_parts() -> Iterator[str]:
    """A table for each dataclass of settings; one that derives from another shows what it has of its own."""
    owners: dict[tuple[str, type], list[str]] = {}
    for word in AGENTS:
        for name, part in parts_of(getattr(agents, word)).items():
            for one in part.__mro__:
                # Another agent's settings that are built upon are no settings of this one.
                if dataclasses.is_dataclass(one) and (one is part or one.__module__.endswith(".settings")):
                    owners.setdefault((name, one), []).append(word)
    names = list(dict.fromkeys(name for name, _ in owners))

    def place(one: tuple[str, type]) -> tuple[int, int, int, int]:
        """Together what is of one name, and what derives from another after that."""
        first = AGENTS.index(owners[one][0])
        return int(first >= AGENTS.index("BC")), names.index(one[0]), first, -len(owners[one])

    for name, part in sorted(owners, key=place):
        words = owners[name, part]
        base = part.__mro__[1] if dataclasses.is_dataclass(part.__mro__[1]) else None
        own = None if base is None else list(part.__dict__["__annotations__"])
        summary = summary_of(part)
        if (name, base) in owners and set(words) <= set(owners[name, base]):  # type: ignore[index]
            summary += f" All else is as [above](#{anchor(heading(name, owners[name, base]))})."  # type: ignore[index]
        yield f"### {heading(name, words)}\n\n{summary}\n\n{table(fields(part, f'{name}.', own))}\n"


def heading(name: str, words: Sequence[str]) -> str:
    """Of a table."""
    return f"`{name}` of {', '.join(words[:-1])}{' and ' if len(words) > 1 else ''}{words[-1]}"


def anchor(text: str) -> str:
    """As GitHub and the site name a heading."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


def single_settings() -> list[Row]:
    """The agents' settings that are no dataclasses, those of several agents once."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for word in AGENTS:
        agent = getattr(agents, word)
        for row in parameters(agent, skip=(*parts_of(agent), "seed")):
            found.setdefault((row.key, row.values, row.default), []).append((word, row.meaning))
    rows = []
    for (key, values, default), said in found.items():
        words = [word for word, _ in said]
        rows.append(Row(key, values, default, f"{said[0][1]} Of {', '.join(words)}."))
    return rows


def presets() -> str:
    """What null stands for in the model-free agents."""
    lines = []
    for word in AGENTS:
        agent = getattr(agents, word)
        if not issubclass(agent, ModelFreeAgent):
            continue
        for name in agent.PRESETS["paper"]:
            values = " | ".join(written(agent.PRESETS[preset][name]) for preset in get_args(Preset))
            lines.append(f"| {word} | `{name}` | {values} |")
    names = " | ".join(f"`{name}`" for name in get_args(Preset))
    return "\n".join((f"| agent | setting | {names} |", "|---|---|---|---|", *lines))


def trainer() -> list[Row]:
    """The Trainer's arguments that are not refused."""
    rows = []
    for name, argument in ARGUMENTS.items():
        if argument.fate == "refused":
            continue
        note = argument.note.replace("](#", "](trainer.md#")
        default = parser().get_default(f"trainer.{name}")
        rows.append(Row(f"trainer.{name}", "", written(default), f"{TRAINER[name]} {sentence(note)}"))
    return rows


def trainer_table() -> str:
    """Without a column of values, which the notes say."""
    lines = [f"| `{row.key}` | {row.default} | {row.meaning} |" for row in trainer()]
    return "\n".join(("| setting | default | what it is |", "|---|---|---|", *lines))


def environments() -> Iterator[str]:
    """What data.env_options and data.build_options may hold."""
    done: set[type] = set()
    for dataset, title in (
        ("metaworld/door-open", "MetaWorld"),
        ("kitchen/mixed", "Franka Kitchen"),
        ("reach", "the reach"),
    ):
        found = builder(dataset)
        if found.environment not in done:
            done.add(found.environment)
            rows = parameters(found.environment, skip=("render_mode",))
            yield f"### `data.env_options` of {title}\n\n{table(rows)}\n"
    metaworld, kitchen = builder("metaworld/door-open"), builder("kitchen/mixed")
    for found, title in ((metaworld, "MetaWorld and the reach"), (kitchen, "Franka Kitchen")):
        rows = parameters(found.function, skip=tuple(found.fixed))
        head = f"### `data.build_options` of {title}\n\nOptions of `moto data build`; the environment's go with them.\n"
        yield f"{head}\n{table(rows)}\n"


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def sizes() -> str:
    """What the sizes set for MOTO on a task of MetaWorld."""
    config = str(config_names("")[SIZED])
    given = {size: flat(settings_of("--config", config, "--size", size, "--agent", "moto")) for size in SIZES}
    lines = []
    for key in sorted({key for one in given.values() for key in one}):
        if len({repr(one.get(key)) for one in given.values()}) == 1:
            continue
        values = " | ".join(written(one[key]) if key in one else "default" for one in given.values())
        lines.append(f"| `{key.removeprefix('model.init_args.')}` | {values} |")
    names = " | ".join(f"`{size}`" for size in SIZES)
    return "\n".join((f"| setting | {names} |", "|---" * (len(SIZES) + 1) + "|", *lines))


def page() -> str:
    """The page.

    Raises:
        LookupError: a setting that has no group, or no explanation.
    """
    refused = ", ".join(f"`{name}`" for name, argument in ARGUMENTS.items() if argument.fate == "refused")
    parts = [
        HEAD,
        f"## The run\n\n{table(top_level())}\n",
        "## Data, lengths and evaluations\n",
        *data_module(),
        AGENTS_HEAD,
        *agent_parts(),
        f"### Single settings\n\n{table(single_settings())}\n",
        f"{PRESETS_HEAD}\n{presets()}\n",
        f"{TRAINER_HEAD.format(refused)}\n{trainer_table()}\n",
        "## Environments and datasets\n",
        *environments(),
        f"{SIZES_HEAD}\n{sizes()}\n",
    ]
    text = "\n".join(parts)
    if bare := re.findall(r"^\| `([\w.]+)` \|.*\|\s*\|$", text, re.M):
        raise LookupError(f"settings: found no explanation of {', '.join(bare)}. Write one in the docstring.")
    return text


if __name__ == "__main__":
    sys.exit(write_or_compare("settings", PAGE, page))
