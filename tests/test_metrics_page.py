"""docs/metrics.md explains every key that a run logs, and none that it does not."""

from __future__ import annotations

import ast
import csv
import re
from pathlib import Path

import pytest

import moto_pl
from moto_pl.callbacks.metrics import VALUE_FIGURES
from moto_pl.cli import main

PACKAGE = Path(moto_pl.__file__).parent
PAGE = (PACKAGE.parent / "docs/metrics.md").read_text()
#: What the page explains: keys of the first column of its tables, with <names> of things.
EXPLAINED = [
    key for line in PAGE.splitlines() if re.match(r"\| `", line) for key in re.findall(r"`([^`]+)`", line.split("|")[1])
]
SOURCES = [*(PACKAGE / "agents").glob("*.py"), *(PACKAGE / "callbacks").glob("*.py"), PACKAGE / "nn/world_model.py"]
SOURCES += [*(PACKAGE / "training").glob("*.py"), PACKAGE / "analysis/expert_uncertainty.py"]
#: Keys that Lightning makes, or a callback of its own.
LIGHTNINGS = ("epoch", "step", "lr-<name>")
#: Keys that are shown and not logged, or made of others.
SHOWN = ("updates/s", "grad_norm/<*>", "<*>/<*>", "held_out/<*>")


def text_of(node: ast.AST) -> str | None:
    """A string, its replaced parts as <*>."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "<*>" for part in node.values)  # type: ignore[misc]
    return None


def keys_in(source: str) -> set[str]:
    """Names of figures in a source: keys of dicts, of items that are set, and what is logged by name."""
    nodes: list[ast.AST | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            nodes += node.keys
        elif isinstance(node, ast.DictComp):
            nodes.append(node.key)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            nodes.append(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "log":
            nodes += node.args[:1]
    found = {text for node in nodes if node is not None and (text := text_of(node)) is not None}
    return {text for text in found if re.fullmatch(r"[a-z_]+/[a-z_<>*/-]+|loss|temperature|<\*>/<\*>", text)}


LOGGED = {key for path in SOURCES for key in keys_in(path.read_text())} - {"object/<*>"}
#: What an evaluation and collected episodes come to (EpisodeMetrics), under each of their names.
FIGURES = ("return", "success", "success_last", "success_steps", "length", "objects", "object/<name>")
EPISODES = [f"{stage}/{name}" for stage in ("eval", "online", "test") for name in FIGURES]
EPISODES += [f"{stage}/{name}" for stage in ("eval", "test") for name in VALUE_FIGURES]


def matches(key: str, pattern: str) -> bool:
    """Whether a key is what a pattern with <names> stands for; a name of the key itself may be any."""
    parts = [part if index % 2 == 0 else "" for index, part in enumerate(re.split(r"(<[^>]+>)", pattern))]
    return re.fullmatch(r"[\w<>*.-]+".join(map(re.escape, parts)), key) is not None


def explained(key: str) -> bool:
    return any(matches(key, pattern) for pattern in EXPLAINED)


def test_every_logged_key_is_explained() -> None:
    assert len(LOGGED) > 45 and {"critic/real", "speed/exchange", "online/<*>", "temperature"} <= LOGGED
    generic = {"eval/<*>", "test/<*>", "online/<*>"}
    assert [key for key in sorted({*LOGGED, *EPISODES} - generic - {*SHOWN}) if not explained(key)] == []


def test_every_explained_key_is_logged() -> None:
    assert len(EXPLAINED) == len(set(EXPLAINED))
    known = [*EPISODES, *LIGHTNINGS, *LOGGED]
    for key in EXPLAINED:
        held_out = key.startswith("held_out/") and key.removeprefix("held_out/") in LOGGED
        alike = re.sub(r"<[^>]+>", "<*>", key)
        pairs = alike == "actor_gradient/cosine/<*>" and "actor_gradient/cosine/<*>-<*>" in LOGGED
        assert key in known or alike in known or held_out or pairs, key


def test_a_key_without_an_explanation_is_found() -> None:
    assert keys_in('metrics = {"critic/new": 1}\nlosses["actor/x"] = 2\nself.log(f"speed/{name}", 3)') == {
        *("critic/new", "actor/x", "speed/<*>")
    }
    assert not explained("critic/new") and not explained("actor/x") and not explained("loss/x")
    assert explained("eval/object/light_switch") and explained("batch/clone_demonstrations")


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["moto", "lompo", "cql", "iql", "bc"])
def test_the_header_of_a_run_is_explained(agent: str, reach_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--config", str(PACKAGE.parent / "configs/debug.yaml"), "--agent", agent]
    arguments += ["--trainer.default_root_dir", str(run), "--data.dataset", str(reach_dataset), "--data.build_missing"]
    arguments += ["false", "--data.offline_steps", "2", "--data.offline_round_steps", "2", "--data.online_steps", "2"]
    arguments += ["--data.updates_per_episode", "2", "--data.val_episodes", "2", "--data.env_workers", "0"]
    arguments += ["--data.eval_episodes", "1", "--video_episodes", "0", "--actor_gradients_every", "1"]
    more = ["--data.model_steps", "2"] if agent == "lompo" else []
    assert main(["fit", *arguments, *more]) == 0
    (path,) = run.glob("csv/*/metrics.csv")
    header = next(csv.reader(path.read_text().splitlines()))
    keys = {re.sub(r"_(step|epoch)$", "", key) for key in header}
    assert len(keys) > 20 and [key for key in sorted(keys) if not explained(key)] == []
