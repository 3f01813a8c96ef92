"""A run that begins with another's weights: what is taken, what is not, and which wins on resume."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from moto_pl.agents.initial import InitialWeights, take
from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.training.initial import read_initial, resolve
from runs import AGENTS, CONFIGS, final, small
from small_agents import make, save


@pytest.mark.parametrize("name", AGENTS)
def test_all_of_an_agents_own_weights_fit(name: str, tmp_path: Path) -> None:
    theirs, ours = make(name), make(name, seed=1)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    assert take(ours, read_initial(str(save(theirs, tmp_path / "a.ckpt")))) == []
    after, wanted = ours.state_dict(), theirs.state_dict()
    assert all(torch.equal(after[key], wanted[key]) for key in wanted)
    assert sum(not torch.equal(before[key], after[key]) for key in after) > len(after) / 3


def test_other_actions_and_another_agent() -> None:
    theirs, ours = make("MOTO"), make("MOTO", actions=3, seed=1)
    kept = ours.state_dict()["world_model.rssm.input.weight"].clone()
    left = take(ours, InitialWeights("a.ckpt", theirs.state_dict()))
    assert "world_model.rssm.input.weight [8, 7]: there it is [8, 6]" in left
    assert torch.equal(ours.state_dict()["world_model.rssm.input.weight"], kept)
    name = "world_model.encoder.convs.0.weight"
    assert torch.equal(ours.state_dict()[name], theirs.state_dict()[name])
    assert all("there it is" in line for line in left)  # a shape, and nothing else
    dreamer = make("DreamerV2", seed=1)
    left = take(dreamer, InitialWeights("a.ckpt", theirs.state_dict()))
    assert any(line.startswith("critic.") and line.endswith(": not there") for line in left)
    assert any(line.startswith("critic.") and line.endswith(": not here") for line in left)
    assert not any(line.startswith("world_model.") for line in left)
    assert torch.equal(dreamer.state_dict()[name], theirs.state_dict()[name])


def test_the_averaged_weights_are_taken(tmp_path: Path) -> None:
    agent, average = make("BC"), make("BC", seed=1)
    path = save(agent, tmp_path / "a.ckpt", average=dict(average.state_dict()))
    ours = make("BC", seed=2)
    take(ours, read_initial(str(path)))
    assert all(torch.equal(tensor, average.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_what_cannot_be_begun_with_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--init: found a.ckpt, of which no tensor fits"):
        take(make("MOTO"), InitialWeights("a.ckpt", make("BC").state_dict()))
    broken = {name: tensor.clone() for name, tensor in make("BC").state_dict().items()}
    broken["encoder.convs.0.bias"][0] = float("nan")
    with pytest.raises(SettingError, match="--init: found a.ckpt, whose encoder.convs.0.bias has NaN"):
        take(make("BC"), InitialWeights("a.ckpt", broken))
    whole = save(make("BC"), tmp_path / "a.ckpt")
    (tmp_path / "half.ckpt").write_bytes(whole.read_bytes()[:-100])
    for source in ("hf://someone/something", str(tmp_path), str(tmp_path / "none.ckpt"), str(tmp_path / "half.ckpt")):
        with pytest.raises(SettingError) as raised:
            read_initial(source)
        assert raised.value.setting == "--init" and "\n" not in str(raised.value)
    assert resolve("runs/a.ckpt") == Path("runs/a.ckpt")


def first_loss(run: Path) -> float:
    (path,) = run.glob("csv/*/metrics.csv")
    with open(path) as file:
        return next(float(row["actor/clone"]) for row in csv.DictReader(file) if row.get("actor/clone"))


@pytest.mark.slow
def test_training_from_weights_begins_where_they_end(
    reach_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("moto_pl.agents.initial.rank_zero_info", told.append)

    def fit(name: str, steps: int, *args: str) -> int:
        run = tmp_path / name
        data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.env_workers", "0")
        schedule = ("--data.offline_steps", str(steps), "--data.offline_round_steps", "10", "--data.online_steps", "0")
        quiet = ("--data.eval_episodes", "0", "--video_episodes", "0", "--trainer.log_every_n_steps", "1")
        agent = ("--model", "moto_pl.agents.BC", *small("BC"), "--trainer.default_root_dir", str(run))
        return main(["fit", "--config", str(CONFIGS / "debug.yaml"), *agent, *data, *schedule, *quiet, *args])

    weights = str(tmp_path / "long/checkpoints/last.ckpt")
    assert fit("long", 150) == 0 and fit("fresh", 10) == 0
    assert fit("begun", 10, "--init", weights) == 0
    (line,) = told
    assert line.endswith(f"tensors from {weights}")
    capfd.readouterr()
    long, fresh, begun = (first_loss(tmp_path / name) for name in ("long", "fresh", "begun"))
    assert long == fresh and begun < fresh - 0.05
    new, old = final(tmp_path / "begun"), final(tmp_path / "long")
    assert new["global_step"] == 10 and new["optimizer_states"][0]["state"][0]["step"] == 10  # a new optimizer
    assert any(not torch.equal(new["state_dict"][name], old["state_dict"][name]) for name in old["state_dict"])
    # The same command, with more to do, goes on from its own weights.
    assert fit("begun", 20, "--init", weights) == 0
    said = capfd.readouterr()
    assert "is not read again" in said.out and "resuming" in said.out and told == [line]
    assert final(tmp_path / "begun")["global_step"] == 20
    assert fit("fresh", 10, "--init", weights, "--ckpt_path", weights) == 2
    assert "--init: found" in capfd.readouterr().err
