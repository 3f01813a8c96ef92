"""Every SettingError names a setting that some parser, function or file of the user's knows."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from settings import parser

from moto_pl import agents, cli
from moto_pl.campaigns import clusters, plan
from moto_pl.datasets import commands
from moto_pl.envs import kitchen, metaworld, reach
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode

PACKAGE = Path(__file__).parents[1] / "moto_pl"

#: What is named that is no setting.
NOT_SETTINGS = {
    "MUJOCO_GL": "an environment variable",
    **dict.fromkeys(("extends", "for"), "a key of a configuration"),
    "arguments": "what a parser says of a whole command line, where it names nothing",
    "MASTER_PORT": "a variable of the environment, where torch's processes meet",
    "MINARI_DATASETS_PATH": "a variable of the environment, under which Minari's datasets lie",
    "gradient": "of the networks; the line names --max_skipped",
    "activation": "an argument of ops.conv",
    "embed": "an operator's tensor",
    "is_first": "an operator's tensor",
    **dict.fromkeys(("request", "Origin"), "what a client of moto serve sent"),
    **dict.fromkeys(("first", "executed"), "a key of such a request"),
}
#: Names that are put together where they are raised: the file, the expression, and what it comes to.
PUT_TOGETHER = {
    ("verbs.py", "prog"): "the command that lacks a verb",
    ("verbs.py", "name"): "what the user typed",
    ("verbs.py", "bare[1]"): "what the user typed",
    ("verbs.py", "names[0]"): "the verb's own parameter",
    ("verbs.py", "option"): "the verb's own parameter",
    ("training/configs.py", "f'--{name}'"): "--size or --agent",
    **{
        ("training/refusals.py", expression): "what the parser names, looked at in test_refusals"
        for expression in ("name", "unknown[1]", "bare[1]", "place", "f'{below}.{name}'")
    },
    ("datasets/builders.py", "key"): "an option of moto data build",
    ("errors.py", "f'{part}.{name}'"): "given by the caller, looked at in test_settings_page",
    ("hub.py", "setting"): "given by the caller: --init, or name",
    ("files.py", "setting"): "given by the caller: trainer.default_root_dir, or runs; or its call is looked at too",
    ("campaigns/plan.py", "place"): "a place in the user's file",
    ("campaigns/plan.py", "str(key)"): "a key in the user's file",
    ("campaigns/clusters.py", "f'ray.{name}'"): "a key in the user's file",
    ("campaigns/check.py", "error.setting"): "what moto fit's parser names",
    ("campaigns/check.py", "f'{place}: {answer.setting}'"): "a place in the user's file, and the same",
    ("envs/pixel.py", "name"): "an argument of an environment, given where it is checked",
    ("trust.py", "setting"): "given by the caller: data.env, or class_path",
    ("envs/__init__.py", "setting"): "given by the caller, whose call is looked at too",
    ("ops/latent.py", "setting"): "given by the caller: disagreement, or behaviour.disagreement",
    ("ops/extension.py", "name"): "an operator's tensor",
    ("ops/observe.py", "name"): "an operator's tensor",
    ("datasets/parallel.py", "*value"): "an error of another process",
    ("datasets/formats/options.py", "setting"): "given by the caller: --cameras, or --state",
    ("datasets/recording.py", "plan.env_id"): "an environment",
    ("datasets/kitchen/demonstrations.py", "f'kitchen/{plan.kind}'"): "a dataset",
    ("datasets/minari_io.py", "self._label"): "a dataset",
    ("datasets/minari_files.py", "label"): "a dataset",
    **{("datasets/offered.py", name): "a dataset; what asked for its image" for name in ("label", "setting")},
    **{("datasets/kitchen/states.py", expression): "a dataset" for expression in ("name", "self.name", "self.id")},
    ("datasets/raw_episode.py", "self.label"): "a dataset",
    **{
        (f"{name}.py", "str(path)"): "a file"
        for name in ("training/ingest", "datasets/kitchen/states", "datasets/npz_import")
    },
    **{
        ("datasets/npz_import.py", f"f'{{path}}: {key}'"): "a file's array"
        for key in ("image", "is_first", "action", "reward")
    },
    **{("datasets/npz_import.py", f"f'{{path}}: {{{key}}}'"): "a file's array" for key in ("key", "error.setting")},
    **{
        ("replay/store.py", expression): "a file or directory"
        for expression in ("str(path)", "str(known.path)", "str(self.root)")
    },
    ("replay/episode_file.py", "str(path)"): "a file",
    ("replay/sampler.py", "str(self.store.root)"): "a directory",
    **{("replay/episode.py", expression): "a field of Episode" for expression in ("label", "f'episode.{name}'")},
    ("replay/episode.py", "f'episode.info[{key!r}]'"): "an entry of Episode.info",
    ("nn/settings.py", "f'world_model.{name}'"): "a field of WorldModelConfig, looked at in test_settings_page",
    ("agents/trainer_arguments.py", "f'trainer.{name}'"): "looked at in test_trainer_arguments",
    ("agents/base.py", "f'{self.optimizer_settings}.{name}'"): "looked at in test_what_agents_name",
    ("training/datamodule.py", "setting"): "BatchPart's, looked at in test_what_agents_name",
    ("training/views.py", "f'model.init_args.{setting}'"): "the same",
    ("agents/loading.py", "setting"): "given by the caller: --ckpt, or checkpoint",
    ("analysis/episodes.py", "setting"): "the same",
    ("analysis/commands.py", "f'--{name}'"): "looked at in test_what_agents_name",
}


#: What an error's text names beside settings.
NAMES = {
    **dict.fromkeys(
        ("config.yaml", "huggingface_hub", "moto_pl", "moto_pl.agents", "moto_pl.callbacks", "my_package"),
        "files, packages",
    ),
    **dict.fromkeys(("log_prob", "max_var", "q_ensemble", "trunc_normal", "model_first"), "values of a setting"),
    "--shm-size": "an option of docker run",
    **dict.fromkeys(("class_path", "data_format"), "keys of a checkpoint, of Minari's metadata"),
}
MENTIONED = re.compile(r"(?<![\w./-])(--[a-z][\w-]*|[a-z_]+(?:\.[a-z_]+)+|[a-z]+_[a-z_]+)(?![\w/(:-])")


@cache
def known() -> frozenset[str]:
    """Every setting that a user may write."""
    names = {action.dest for verb in ("fit", "validate", "test") for action in parser(verb)._actions}
    for name in agents.__all__:
        agent = getattr(agents, name)
        if isinstance(agent, type) and issubclass(agent, agents.Agent):
            names |= {f"model.init_args.{path}" for path in _paths(agent)}
    for name, verb in cli.VERBS.items():
        inner = import_module(cli.GROUPS[name][0]).VERBS if name in cli.GROUPS else {name: verb}
        for one in inner.values():
            if not isinstance(one, str):
                names |= one.parser("moto").hints.keys()
    for dataset in ("reach", "metaworld/door-open", "kitchen/mixed", "kitchen/replay"):
        names |= commands.Build().named(dataset, "moto")[0].hints.keys()
    for env in (reach.ReachEnv, metaworld.MetaWorldEnv, kitchen.KitchenEnv):
        names |= inspect.signature(env).parameters.keys()
    names |= {*plan.KEYS, *(f"ray.{name}" for name in clusters.RayWorkers.OPTIONS)}
    names |= {f"episode.{field.name}" for field in dataclasses.fields(Episode)}
    return frozenset(names)


def _paths(owner: type) -> Iterator[str]:
    """The settings of a class and, below their names, of the dataclasses among them."""
    for name, hint in get_type_hints(owner.__init__).items():  # type: ignore[misc]
        yield name
        for part in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(part):
                yield from (f"{name}.{field.name}" for field in dataclasses.fields(part))


def is_known(name: str) -> bool:
    name = name.removeprefix("--")
    return any(key == name or key.endswith(f".{name}") for key in known())


class Raised:
    """Where a SettingError is made: file, line, the expression that names the setting, and what is around it."""

    def __init__(self, path: Path, call: ast.Call, around: list[ast.AST]) -> None:
        self.file, self.line = path.relative_to(PACKAGE).as_posix(), call.lineno
        self.expression, self.around = call.args[0], around
        inside = (node for argument in call.args[1:] for node in ast.walk(argument))
        texts = [node.value for node in inside if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        for node in ast.walk(next((one for one in around if isinstance(one, ast.FunctionDef)), call)):
            # A fix that is put together before the error is raised.
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] in (
                ["fix"],
                ["found"],
            ):
                texts += [
                    one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
                ]
        #: What its text names as a user would write it: options, dotted names, names with an underscore.
        self.mentioned = {word for text in texts for word in MENTIONED.findall(text)}

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {ast.unparse(self.expression)}"

    def names(self) -> set[str] | None:
        """What the expression comes to; None where that is not written out beside it."""
        found = _values(self.expression, self.around)
        return None if found is None else {str(name) for name in found}

    def parameters(self) -> set[str]:
        """Arguments of the public function that raises it, or of the public class that is made."""
        functions = [node for node in self.around if isinstance(node, ast.FunctionDef)]
        classes = [node for node in self.around if isinstance(node, ast.ClassDef)]
        names: set[str] = set()
        if functions and (not functions[0].name.startswith("_") or functions[0].name.startswith("__")):
            arguments = functions[0].args
            names |= {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        for node in classes:
            fields = {
                one.target.id
                for one in node.body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            }
            makers = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
            names |= fields | {argument.arg for maker in makers for argument in maker.args.args}
        return names


def _values(expression: ast.expr, around: list[ast.AST]) -> set[Any] | None:
    """The constants that an expression may come to, through loops over literals and assignments in its function."""
    if isinstance(expression, ast.Constant):
        return {expression.value}
    if isinstance(expression, ast.IfExp):
        parts = [_values(part, around) for part in (expression.body, expression.orelse)]
        return None if None in parts else set().union(*parts)  # type: ignore[arg-type]
    if isinstance(expression, ast.JoinedStr):
        values = [part.value if isinstance(part, ast.FormattedValue) else part for part in expression.values]
        pieces = [_values(value, around) for value in values]
        if None in pieces:
            return None
        return {"".join(map(str, combination)) for combination in itertools.product(*pieces)}  # type: ignore[arg-type]
    if isinstance(expression, ast.Name):
        found: set[Any] = set()
        for node in around:
            if isinstance(node, ast.For):
                found |= _looped(node, expression.id)
        function = next((node for node in around if isinstance(node, ast.FunctionDef)), None)
        for node in ast.walk(function) if function is not None else ():
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [expression.id]:
                found |= _values(node.value, around) or set()
        return found or None
    return None


def _looped(loop: ast.For, name: str) -> set[Any]:
    """The constants that a loop over a literal gives to a name."""
    targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
    place = next((i for i, target in enumerate(targets) if ast.unparse(target) == name), None)
    if place is None or not isinstance(loop.iter, ast.Tuple | ast.List):
        return set()
    rows = [row.elts[place] if isinstance(loop.target, ast.Tuple) else row for row in loop.iter.elts]  # type: ignore[attr-defined]
    return {row.value for row in rows if isinstance(row, ast.Constant)}


def raised() -> list[Raised]:
    found = []

    def visit(path: Path, node: ast.AST, around: list[ast.AST]) -> None:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            if node.func.id in ("SettingError", "unknown_name", "unknown_argument", "check_can_write"):
                found.append(Raised(path, node, around))
        for child in ast.iter_child_nodes(node):
            visit(path, child, [node, *around])

    for path in sorted(PACKAGE.rglob("*.py")):
        visit(path, ast.parse(path.read_text()), [])
    return found


RAISED = raised()


def wrong(place: Raised) -> str | None:
    """What is wrong with the name of an error; None where it is known."""
    names = place.names()
    if (place.file, ast.unparse(place.expression)) in PUT_TOGETHER:
        names = set()
    if names is None:
        return f"{place}: what it comes to is not in PUT_TOGETHER"
    named = (names | place.mentioned) - NAMES.keys() - NOT_SETTINGS.keys() - place.parameters()
    unknown = {name for name in named if not is_known(name)}
    return f"{place}: no parser knows {', '.join(sorted(unknown))}" if unknown else None


def test_every_error_names_a_setting_that_exists() -> None:
    assert len(RAISED) > 200
    assert [found for found in map(wrong, RAISED) if found is not None] == []


def test_the_lists_hold_nothing_that_is_not_raised() -> None:
    expressions = {(place.file, ast.unparse(place.expression)) for place in RAISED}
    assert set(PUT_TOGETHER) - expressions == set()
    names = set().union(*(place.names() or set() for place in RAISED))
    assert set(NOT_SETTINGS) - names == set()
    assert {name for name in NOT_SETTINGS if is_known(name)} == set()
    assert set(NAMES) - set().union(*(place.mentioned for place in RAISED)) == set()


def test_what_agents_name() -> None:
    """Names that agents give, and ``moto analyze`` puts together, where they are raised."""
    for name in agents.__all__:
        agent = getattr(agents, name)
        if not isinstance(agent, type) or agent in (agents.Agent, agents.BatchPart):
            continue
        own = {f"model.init_args.{path}" for path in _paths(agent)}
        for part, wanted in agent().parts().items():
            assert f"model.init_args.{wanted.size_setting.format(part)}" in own, name
            assert f"model.init_args.{wanted.length_setting.format(part)}" in own, name
        for setting in ("final_lr", "ema_decay"):
            assert f"model.init_args.{agent.optimizer_settings}.{setting}" in own, name
    for verb in import_module(cli.GROUPS["analyze"][0]).VERBS.values():
        names = verb.parser("moto").hints.keys()
        checked = re.findall(r"_check\((.*?)\)", inspect.getsource(verb.function))
        assert checked and all(word.split("=")[0].strip() in names for word in checked[0].split(","))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SettingError('run_dir', 1, 'x')", "run_dir"),
        ("raise SettingError('model.batch.model_size', 1, 'x')", "model.batch.model_size"),
        ("for name in ('horizon', 'reach'):\n    raise SettingError(f'behaviour.{name}', 1, 'x')", "behaviour.reach"),
        ("raise SettingError(where, 1, 'x')", "PUT_TOGETHER"),
        ("def _f(dire: int) -> None:\n    raise SettingError('dire', 1, 'x')", "dire"),
        ("raise SettingError('--probe-episodes', 1, 'x')", "--probe-episodes"),
        ("raise SettingError('model', 1, 'Use another run_dir.')", "run_dir"),
        ("raise SettingError('model', 1, f'Raise {1} or data.nothing.')", "data.nothing"),
        ("def f() -> None:\n    fix = 'Give --nothing.'\n    raise SettingError('model', 1, fix)", "--nothing"),
        ("raise SettingError('model', 1, 'Raise data.online_steps, or give --out.')", None),
        ("raise SettingError('behaviour.horizon', 1, 'x')", None),
        ("raise SettingError('--image_size', 1, 'x')", None),
        ("def f(dire: int) -> None:\n    raise SettingError('dire', 1, 'x')", None),
    ],
)
def test_an_invented_name_is_found(
    code: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "invented.py").write_text(code)
    known()
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (place,) = raised()
    found = wrong(place)
    assert (found is None) if said is None else (found is not None and said in found)


def test_what_was_found_breaks_no_line_and_moves_no_cursor() -> None:
    """A name in somebody's file may hold anything."""
    error = SettingError("data.dataset", "an array \n\x1b[2Jmoto: all is well \u202e", "Correct it.")
    assert str(error) == "data.dataset: found an array \\n\\x1b[2Jmoto: all is well \\u202e. Correct it."


def test_why_a_process_ends_is_told_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that share a terminal would else write into each other's lines."""
    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    assert cli.main(["data", "info", "no/such-data-v0"]) == 2
    (line,) = written
    assert line.startswith("moto: dataset: found") and line.endswith("\n") and line.count("\n") == 1
