"""``moto analyze``: what a checkpoint's model knows, and what it knows that it does not know."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from moto_pl.errors import SettingError
from moto_pl.ops import Disagreement


def add_analyze_parser(verbs: Any) -> None:
    """Adds the verb and its analyses."""
    analyze = verbs.add_parser("analyze", help="generalization, bound, calibration of a model")
    kinds = analyze.add_subparsers(dest="analysis", required=True, metavar="ANALYSIS")

    bound = kinds.add_parser("bound", help="the bound on the performance gap along a run (paper, Fig. 6)")
    bound.add_argument("--run", type=Path, required=True, dest="directory", help="a run with snapshots")
    bound.add_argument("--disagreement", choices=get_args(Disagreement), default="mean", help="the estimator of u")
    bound.set_defaults(run=_bound)

    calibration = kinds.add_parser("calibration", help="disagreement against true prediction errors")
    calibration.add_argument("--ckpt", type=Path, required=True, help="a checkpoint with a world model")
    calibration.set_defaults(run=_calibration)

    general = kinds.add_parser("generalization", help="open-loop beyond what the data holds (paper, Fig. 5)")
    general.add_argument("--ckpt", type=Path, required=True, help="a checkpoint with a world model")
    general.add_argument("--samples", type=int, default=5, help="rolls of each episode")
    general.add_argument("--real", type=int, default=5, help="episodes of the policy in its environment; 0: none")
    general.set_defaults(run=_generalization)

    for parser in (bound, calibration, general):
        parser.add_argument(
            "--episodes",
            required=True,
            metavar="DATASET|rollout",
            help="a dataset, by id or path; rollout: rolled by the (last) checkpoint's own policy",
        )
        parser.add_argument("--count", type=int, default=10, help="episodes at most")
        if parser is not general:
            parser.add_argument("--horizon", type=int, default=15, help="steps of a prediction")
        parser.add_argument("--out", type=Path, help="directory to write to; default: analysis/ in the run")


def _bound(parsed: argparse.Namespace) -> int:
    from moto_pl.analysis.bound import find_bound
    from moto_pl.analysis.output import DIRECTORY

    run: Path = parsed.directory
    _check(parsed)
    episodes, name = _episodes(parsed, run, run / "checkpoints" / "last.ckpt")
    finding = find_bound(run, episodes, name, parsed.horizon, parsed.disagreement)
    return _write(finding, parsed.out or run / DIRECTORY)


def _calibration(parsed: argparse.Namespace) -> int:
    from moto_pl.agents.loading import load_agent
    from moto_pl.analysis.calibration import find_calibration
    from moto_pl.analysis.episodes import model_based
    from moto_pl.analysis.output import DIRECTORY

    _check(parsed)
    model, run = model_based(load_agent(parsed.ckpt)).world_model, parsed.ckpt.resolve().parent.parent
    episodes, name = _episodes(parsed, run, parsed.ckpt)
    horizons = sorted({1, parsed.horizon})
    return _write(find_calibration(model, episodes, name, horizons), parsed.out or run / DIRECTORY)


def _generalization(parsed: argparse.Namespace) -> int:
    from moto_pl.agents.loading import load_agent
    from moto_pl.analysis.episodes import model_based, roll_own
    from moto_pl.analysis.generalization import find_generalization
    from moto_pl.analysis.output import DIRECTORY

    _check(parsed)
    agent, run = model_based(load_agent(parsed.ckpt)), parsed.ckpt.resolve().parent.parent
    episodes, name = _episodes(parsed, run, parsed.ckpt)
    own = roll_own(agent, run, parsed.real) if parsed.real else []
    largest = _largest_reward(run, agent.loaded_step)
    finding = find_generalization(agent, episodes, own, name, _objects(run), largest, parsed.samples)
    return _write(finding, parsed.out or run / DIRECTORY)


def _objects(run: Path) -> tuple[str, ...]:
    """Names of the task's objects; of a task without objects, success."""
    from moto_pl.analysis.records import read_run
    from moto_pl.envs import task_objects

    record = read_run(run)
    env, options = record.setting("data", "env"), record.setting("data", "env_options")
    return (task_objects(env, options or {}) if env else ()) or ("success",)


def _largest_reward(run: Path, step: int) -> float | None:
    """Of what the run had learned from by a gradient step; None where its replay is not there.

    A checkpoint of the offline phase has seen the dataset alone, whatever was collected after it.
    """
    from moto_pl.analysis.records import read_run
    from moto_pl.replay import EpisodeStore

    if not (run / "replay").is_dir():
        return None
    store = EpisodeStore(run / "replay")
    store.refresh(len(list((run / "replay").glob("*.safetensors"))))
    record = read_run(run)
    seen = len(store)
    if record.offline_steps is not None and step <= record.offline_steps:
        known = record.dataset.get("episodes")
        seen = min(seen, known) if isinstance(known, int) else seen
    return max((float(store[i].reward.max()) for i in range(seen)), default=None)


def _check(parsed: argparse.Namespace) -> None:
    for name, least in (("count", 1), ("horizon", 1), ("samples", 1), ("real", 0)):
        if getattr(parsed, name, least) < least:
            raise SettingError(f"--{name}", getattr(parsed, name), f"Give at least {least}.")


def _episodes(parsed: argparse.Namespace, run: Path, checkpoint: Path) -> tuple[list[Any], str]:
    from moto_pl.agents.loading import load_agent
    from moto_pl.analysis.episodes import load_episodes, roll_own
    from moto_pl.analysis.generalization import LEAST_CONTEXT

    if parsed.episodes == "rollout":
        episodes = roll_own(load_agent(checkpoint), run, parsed.count)
        return episodes, "the policy itself"
    least = getattr(parsed, "horizon", LEAST_CONTEXT) + 1
    return load_episodes(parsed.episodes, parsed.count, least), parsed.episodes


def _write(finding: Any, out: Path) -> int:
    from moto_pl.analysis.output import write_finding

    paths = write_finding(finding, out)
    print(finding.caption)
    print("\n".join(str(path) for path in paths))
    return 0
