"""The number of processes changes nothing but rounding, also from one start of a run to the next."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import warm
from moto_pl.replay import EpisodeStore
from runs import ROOT, environment, fault, final, ranks

pytestmark = pytest.mark.slow

#: Whatever is drawn or summed in a step, and two episodes a round, with noise and detours.
SETTINGS = (
    *("--trainer.precision", "64-true", "--trainer.callbacks+=double_fit.Steps", "--data.build_missing", "false"),
    *("--data.num_envs", "2", "--data.updates_per_episode", "1", "--data.online_steps", "20"),
    *("--data.exploration_noise", "0.3", "--data.exploration_detours", "0.3", "--data.eval_episodes", "0"),
    *("--data.value_steps", "0", "--video_episodes", "0", "--evaluate_untrained", "false"),
    *("--model.init_args.optim.ema_decay", "0.9", "--model.init_args.optim.final_lr", "0.1"),
    *("--model.init_args.world_model.open_loop_steps", "2", "--model.init_args.behaviour.disagreement_unit", "data"),
)
COMPARED = ("loss", "model/", "critic/", "actor/", "imagined/", "grad_norm/", "batch/", "online/")


def fit(run: Path, dataset: Path, processes: int, *args: str) -> subprocess.CompletedProcess[str]:
    """A debug run in double precision; of several processes each has one environment."""
    several = ("--trainer.strategy", "ddp") if processes > 1 else ()
    words = ["double_fit", "fit", "--config", str(ROOT / "configs/debug.yaml")]
    words += ["--trainer.default_root_dir", str(run), "--data.dataset", str(dataset), *SETTINGS]
    words += ["--trainer.devices", str(processes), *several, "--data.env_workers", "2" if processes == 1 else "0"]
    if processes == 1:
        return warm.run([*words, *args], environment(), timeout=600)
    return ranks([*words, *args], processes, timeout=600)


def steps(run: Path, processes: int) -> dict[int, dict[str, Any]]:
    """What each gradient step of the start with this many processes learned from and logged."""
    ranks = [
        [json.loads(line) for line in (run / f"steps_{processes}_{rank}.jsonl").read_text().splitlines()]
        for rank in range(processes)
    ]
    found = {}
    for records in zip(*ranks, strict=False):  # a killed process may have written one more than another
        assert len({record["step"] for record in records}) == 1
        rows = {name: [row for record in records for row in record["rows"][name]] for name in records[0]["rows"]}
        logged = [{k: v for k, v in record["logged"].items() if k.startswith(COMPARED)} for record in records]
        assert all(other == logged[0] for other in logged)  # all processes have the same figures
        found[records[0]["step"]] = {"rows": rows, "logged": logged[0]}
    return found


@pytest.mark.timeout(900)  # of nine processes, where others want the cores, too
def test_one_two_and_four_processes_take_the_same_steps(reach_dataset: Path, tmp_path: Path) -> None:
    """Two processes are killed, four go on and are killed, one ends what they began."""
    whole, changing = tmp_path / "whole", tmp_path / "changing"
    done = fit(whole, reach_dataset, 1)
    assert done.returncode == 0, done.stderr
    killed = fit(changing, reach_dataset, 2, *fault(25, rank=1))
    assert killed.returncode != 0
    killed = fit(changing, reach_dataset, 4, *fault(33, rank=0))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = fit(changing, reach_dataset, 1)
    assert done.returncode == 0, done.stderr
    assert "written by 4 process" in done.stdout + done.stderr
    expected = steps(whole, 1)
    assert sorted(expected) == list(range(40))
    seen: set[int] = set()
    for processes in (2, 4, 1):
        found = steps(changing, processes)
        seen |= found.keys()
        assert len(found) > 5
        for step, record in found.items():
            assert record["rows"] == expected[step]["rows"], (processes, step)
            # What a round began with is not logged again where a start goes on in the middle of it; and callbacks, this
            # one too, come before the agent's own hook, which logs norms: after a start they know none of its first.
            missing = expected[step]["logged"].keys() - record["logged"].keys()
            allowed = ("online/", "batch/") if step - 1 in found else ("online/", "batch/", "grad_norm/")
            assert all(name.startswith(allowed) for name in missing), missing
            for name, value in record["logged"].items():
                assert value == pytest.approx(expected[step]["logged"][name], rel=1e-9, abs=1e-9), (
                    processes,
                    step,
                    name,
                )
    assert seen == set(range(40))
    one, other = EpisodeStore(whole / "replay"), EpisodeStore(changing / "replay")
    assert len(one) == len(other) == 10 + 2 * 10
    for i in range(len(one)):
        assert one[i].info == other[i].info and (one[i].image == other[i].image).all()
        assert one[i].action == pytest.approx(other[i].action, abs=1e-6)
    assert final(whole)["callbacks"]["CollectEpisodes"] == final(changing)["callbacks"]["CollectEpisodes"]
