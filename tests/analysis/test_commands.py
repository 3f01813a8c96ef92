"""``moto analyze`` on a run of the debug configuration, and on what is none."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from moto_pl.agents.loading import load_agent
from moto_pl.analysis import reproduce
from moto_pl.analysis.bound import expert_uncertainty
from moto_pl.analysis.episodes import load_episodes, model_based
from moto_pl.analysis.generalization import find_generalization
from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from runs import final, fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with snapshots and the callback."""
    root = tmp_path_factory.mktemp("analyze") / "run"
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.eval_every", "10")
    callbacks = (
        "--trainer.callbacks+=moto_pl.callbacks.Snapshots",
        "--trainer.callbacks+=moto_pl.analysis.expert_uncertainty.ExpertUncertainty",
        f"--trainer.callbacks.episodes={reach_dataset}",
        "--trainer.callbacks.horizon=5",
        "--trainer.callbacks.max_episodes=3",
    )
    done = fit(root, *data, *callbacks)
    assert done.returncode == 0, done.stderr
    return root


def test_snapshots_are_what_was_evaluated(run: Path) -> None:
    names = [path.name for path in sorted((run / "snapshots").iterdir())]
    assert names == [f"step_{step:07d}.ckpt" for step in (10, 20, 30, 40)]
    last, agent = final(run), load_agent(run / "snapshots/step_0000040.ckpt")
    for name, weight in agent.state_dict().items():
        assert torch.equal(weight, last["average"].get(name, last["state_dict"][name])), name
    assert any(not torch.equal(last["average"][name], last["state_dict"][name]) for name in last["average"])


def test_the_bound_along_a_run(run: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "bound", "--run", str(run), "--episodes", str(reach_dataset), "--horizon", "5"]) == 0
    assert "2 * alpha * eps_u" in capsys.readouterr().out
    with open(run / "analysis/bound.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40]
    assert [int(row["online_episodes"]) for row in rows] == [0, 0, 2, 4]
    episodes = load_episodes(str(reach_dataset), 10, 6)
    model = model_based(load_agent(run / "snapshots/step_0000030.ckpt")).world_model
    eps = [expert_uncertainty(model, episode, 5, "mean", Key(0, i)) for i, episode in enumerate(episodes)]
    assert float(rows[2]["expert_uncertainty"]) == pytest.approx(sum(eps) / len(eps))
    best = sum(episode.total_reward for episode in episodes) / len(episodes)
    assert float(rows[2]["gap"]) == pytest.approx(best - float(rows[2]["return"]))
    assert [row["phase"] for row in rows] == ["offline", "online", "online", "online"]
    said = json.loads((run / "analysis/bound.json").read_text())
    for name, of in (("alpha", rows[1:]), ("alpha_all", rows)):
        alpha = said["summary"][name]
        assert all(2 * alpha * float(row["expert_uncertainty"]) >= float(row["gap"]) - 1e-9 for row in of)
    assert "At the agent's own alpha, 10," in said["caption"]


def test_the_callback_logs_what_the_analysis_finds(run: Path, reach_dataset: Path) -> None:
    logged: dict[int, float] = {}
    for path in (run / "csv").glob("version_*/metrics.csv"):
        with open(path) as file:
            for row in csv.DictReader(file):
                if row.get("bound/expert_uncertainty"):
                    logged[int(row["step"])] = float(row["bound/expert_uncertainty"])
    assert len(logged) == 4
    agent = load_agent(run / "snapshots/step_0000040.ckpt")
    episodes = load_episodes(str(reach_dataset), 3, 6)
    eps = [expert_uncertainty(model_based(agent).world_model, e, 5, "mean", Key(0, i)) for i, e in enumerate(episodes)]
    assert logged[max(logged)] == pytest.approx(sum(eps) / 3, rel=1e-4)


def test_calibration_of_a_checkpoint_and_the_report(run: Path, reach_dataset: Path) -> None:
    checkpoint = str(run / "checkpoints/last.ckpt")
    command = ["analyze", "calibration", "--ckpt", checkpoint, "--horizon", "4"]
    assert main([*command, "--episodes", str(reach_dataset), "--count", "4"]) == 0
    assert main([*command, "--episodes", "rollout", "--count", "2", "--out", str(run / "elsewhere")]) == 0
    for directory in ("analysis", "elsewhere"):
        kinds = {path.suffix for path in (run / directory).glob("calibration.*")}
        assert kinds == {".png", ".svg", ".csv", ".json"}
    caption = json.loads((run / "elsewhere/calibration.json").read_text())["caption"]
    assert "2 episodes of the policy itself" in caption
    (run / "analysis/broken.json").write_text("{")
    assert main(["report", str(run)]) == 0
    html = (run / "report.html").read_text()
    assert 'id="analyses"' in html and html.count("data:image/png;base64,") >= 1
    assert "Does disagreement know where the model errs?" in html and "broken.json is not whole" in html


@pytest.mark.parametrize("agent", ["MOTO", "COMBO"])
def test_generalization(agent: str, run: Path, reach_dataset: Path, tmp_path: Path) -> None:
    if agent == "COMBO":
        data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.online_steps", "0")
        run = tmp_path / "run"
        assert fit(run, *data, agent=agent).returncode == 0
    command = ["analyze", "generalization", "--ckpt", str(run / "checkpoints/last.ckpt"), "--samples", "2"]
    assert main([*command, "--episodes", str(reach_dataset), "--count", "4", "--real", "1"]) == 0
    with open(run / "analysis/generalization.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(row["steps"] == "30" and row["final_true_reward"] == "1.0" for row in rows)
    said = json.loads((run / "analysis/generalization.json").read_text())
    assert "success in " in said["caption"] and 0 <= float(rows[0]["success shown"]) <= 1
    assert "The largest reward that it was trained on is 1." in said["caption"] and said["summary"]["episodes"] == 4
    mean = sum(float(row["final_predicted_reward"]) for row in rows) / 4
    assert said["summary"]["final_predicted_reward"] == pytest.approx(mean)


def test_figure_5_is_of_the_end_of_pretraining(
    run: Path, reach_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "_trained", lambda size, runs: run)
    monkeypatch.setattr(reproduce, "_whole", lambda size: str(reach_dataset))
    monkeypatch.setattr(reproduce, "_kitchen_dataset", lambda kind, size: reach_dataset)
    monkeypatch.setattr(reproduce, "KITCHEN_TASKS", {"partial": ("success",)})
    size = reproduce.SIZES["cpu"]._replace(whole=2, kitchen_episodes=2, samples=2, real=1)
    finding, ours = reproduce._figure5(size, tmp_path)
    assert finding.caption.startswith("Model and policy after 20 gradient steps.")
    episodes = 2 * load_episodes(str(reach_dataset), 2)
    of = {}
    for name in ("pretrained", "last"):
        agent = model_based(load_agent(run / f"checkpoints/{name}.ckpt"))
        of[name] = find_generalization(agent, episodes, [], "", ("success",), None, 2).summary
    assert ours["final predicted reward"] == of["pretrained"]["final_predicted_reward"]
    assert ours["final reward imagined"] == of["pretrained"]["imagined_final_reward"]
    assert ours["final predicted reward"] != of["last"]["final_predicted_reward"]


def test_bad_input_is_one_line(
    run: Path, reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    checkpoint, data = str(run / "checkpoints/last.ckpt"), str(reach_dataset)
    for command, said in (
        (["bound", "--run", str(tmp_path), "--episodes", data], "run"),
        (["bound", "--run", str(run), "--episodes", data, "--horizon", "500"], "30 steps. Give 501"),
        (
            ["bound", "--run", str(run), "--episodes", data, "--horizon", "5", "--disagreement", "max_var"],
            "categorical",
        ),
        (["calibration", "--ckpt", str(tmp_path / "none.ckpt"), "--episodes", data], "--ckpt"),
        (["calibration", "--ckpt", str(tmp_path / "junk.ckpt"), "--episodes", data], "no checkpoint"),
        (["calibration", "--ckpt", checkpoint, "--episodes", data, "--horizon", "0"], "--horizon"),
        (["calibration", "--ckpt", checkpoint, "--episodes", "moto_pl/none-v0"], "none-v0"),
    ):
        assert main(["analyze", *command]) == 2, command
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error, error


def test_only_our_agents_are_built(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    content["agent"]["class_path"] = "subprocess.Popen"
    torch.save(content, tmp_path / "hostile.ckpt")
    with pytest.raises(SettingError, match=r"subprocess\.Popen"):
        load_agent(tmp_path / "hostile.ckpt")


def test_counterfactuals_of_a_run(run: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = ("--ckpt", str(run / "checkpoints/pretrained.ckpt"), "--count", "2", "--samples", "2")
    small = (*checkpoint, "--context", "5", "--steps", "8")
    assert main(["analyze", "counterfactual", *small, "--episodes", str(reach_dataset)]) == 0
    assert "AUROC" in capsys.readouterr().out
    assert main(["analyze", "counterfactual", *small, "--episodes", "rollout", "--out", str(run / "own")]) == 0
    for path in (run / "analysis/counterfactual.csv", run / "own/counterfactual.csv"):
        with open(path) as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2 * 5 * 8 and {row["actions"] for row in rows} >= {"recorded", "policy"}
    capsys.readouterr()
    assert main(["analyze", "counterfactual", *checkpoint, "--episodes", "rollout"]) == 2  # 25 + 45 steps of 30
    assert "--steps" in capsys.readouterr().err
    assert main(["analyze", "counterfactual", *small, "--tolerance", "0", "--episodes", "rollout"]) == 2
    assert "--tolerance" in capsys.readouterr().err


def test_orderings_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["analyze", "ordering", "--ckpt", str(run / "checkpoints/pretrained.ckpt"), "--count", "2"]
    small = ["--moments", "2", "5", "--variants", "3", "--hold", "2", "--steps", "6", "--samples", "2"]
    assert main([*command, *small]) == 0
    assert "2 episodes of the policy itself, left after 2, 5 steps" in capsys.readouterr().out
    with open(run / "analysis/ordering.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3 and all({"true", "earned", "rewards", "disagreement"} <= row.keys() for row in rows)
    for wrong, value in (("--moments", "300"), ("--variants", "1"), ("--std", "0"), ("--hold", "7")):
        assert main([*command, *small, wrong, value]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and wrong in error, error
