"""An exported step is the agent, step by step, and what does not fit is said before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moto_pl
from moto_pl.agents.loading import load_agent
from moto_pl.cli import main
from moto_pl.deploy import export
from moto_pl.deploy.export import compare, exported
from moto_pl.deploy.step import policy_step
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.rollout.policy import Policy
from runs import AGENTS
from small_agents import make, save

SEEN = Observation(("front", "wrist"), {"hand": 2, "grip": 1}, (0.5, 0.0, -1.0), (1.0, 0.5, 2.0), 96)
CATEGORICAL = {"latent": "categorical", "stoch": 4, "classes": 4}


def checkpoint(name: str, root: Path, seen: Observation | None = None) -> Path:
    sizes: dict[str, Any] = {"world_model": CATEGORICAL} if name in ("MOTO", "DreamerV2") else {}
    if name == "MOTO" and seen is not None:
        sizes["behaviour"] = {"greedy": "mean"}
    return save(make(name, observation=seen, **sizes), root / "a.ckpt")


@pytest.mark.parametrize("seen", [None, SEEN], ids=["image", "more"])
@pytest.mark.parametrize("name", [*AGENTS, "Gaussian"])
def test_the_step_is_the_agent(name: str, seen: Observation | None, tmp_path: Path) -> None:
    """Before it is exported: the same actions and states, for every agent and both kinds of latents."""
    if name == "Gaussian":
        agent = make("MOTO", observation=seen, world_model={"latent": "gaussian"}, behaviour={"greedy": "mean"})
    else:
        agent = make(name, observation=seen)
    path = save(agent, tmp_path / "a.ckpt")
    step = policy_step(load_agent(path))

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in step(*map(torch.from_numpy, inputs))]

    compared = compare(run, step, Policy(load_agent(path), "mode", Key(0, 0)), 120)
    assert compared.steps == 120 and compared.largest <= 1e-5 and compared.ties == 0

    def forgetful(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        kept = len(step.observation) + 1
        return run([*inputs[:kept], *(0 * part for part in inputs[kept:])])

    def blind(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        last = len(step.observation) - 1  # of what is seen beside the first image
        return run([*inputs[:last], 0 * inputs[last], *inputs[last + 1 :]])

    def late(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        action, *rest = run(inputs)
        return [action + np.float32(2e-5), *rest]

    assert compared.rounded == 0
    for wrong in (forgetful, late, blind):
        with pytest.raises(SettingError, match="differs from the agent"):
            compare(wrong, step, Policy(load_agent(path), "mode", Key(0, 0)), 120)


@pytest.mark.parametrize(
    ("name", "seen"), [("MOTO", None), ("LOMPO", None), ("BC", None), ("MOTO", SEEN), ("IQL", SEEN)]
)
def test_an_archive_of_torch(
    name: str, seen: Observation | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = checkpoint(name, tmp_path, seen), tmp_path / "policy.pt2"
    assert main(["export", str(path), str(out), "--control-rate", "20", "--steps", "100"]) == 0
    assert "bytes; 100 steps, largest difference from the agent" in capsys.readouterr().out
    facts = json.loads((tmp_path / "policy.pt2.json").read_text())
    inside: dict[str, Any] = {"moto_pl.json": ""}
    program = torch.export.load(out, extra_files=inside)
    assert json.loads(inside["moto_pl.json"]) == facts and facts["control_rate_hz"] == 20
    policy = moto_pl.load_policy(path)
    assert list(facts["observation"]) == list(policy.observes)
    with torch.no_grad():
        rolled(policy, facts, lambda inputs: [out.numpy() for out in program.module()(*map(torch.from_numpy, inputs))])
    # What acts, and no more: no decoder, critics or priors.
    words = " ".join(program.state_dict)
    assert program.state_dict and not any(word in words for word in ("decoder", "critic", "prior", "reward", "target"))


def rolled(policy: Policy, facts: dict[str, Any], run: Any) -> None:
    """Follows what the metadata says, as another's loop would, for ten steps."""
    rng = np.random.default_rng(1)
    state = {name: np.zeros(part["shape"], part["dtype"]) for name, part in facts["state"].items()}
    for t in range(10):
        observation = {
            name: rng.integers(0, 256, part["shape"]).astype(part["dtype"])
            for name, part in facts["observation"].items()
        }
        draws = {}
        for name, part in facts["draws"].items():
            latent = policy.agent.world_model.latent  # type: ignore[attr-defined]
            assert part["distribution"].startswith("uniform" if latent.kind == "categorical" else "standard normal")
            assert part["shape"] == [latent.stoch]
            draws[name] = policy_step(policy.agent).draw(policy.key.fold(t))[0]
        given = {**observation, "is_first": np.array(t == 0), **state, **draws}
        outputs = dict(zip(facts["outputs"], run([given[name] for name in facts["inputs"]]), strict=True))
        np.testing.assert_allclose(outputs["action"], policy.act(observation), atol=1e-5)
        assert facts["action"] == {"dtype": "float32", "shape": [2], "low": -1.0, "high": 1.0}
        state = {name: outputs[part["from"]] for name, part in facts["state"].items()}


ALONE = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["moto_pl"])
rng = np.random.default_rng(0)
state = {name: np.zeros(part["shape"], part["dtype"]) for name, part in facts["state"].items()}
for t in range(3):
    given = {n: rng.integers(0, 256, p["shape"]).astype(p["dtype"]) for n, p in facts["observation"].items()}
    draws = {name: rng.random(part["shape"], np.float32) for name, part in facts["draws"].items()}
    given |= {"is_first": np.array(t == 0), **state, **draws}
    found = dict(zip(facts["outputs"], session.run(facts["outputs"], given)))
    state = {name: found[part["from"]] for name, part in facts["state"].items()}
    assert found["action"].shape == tuple(facts["action"]["shape"]) and np.isfinite(found["action"]).all()
assert "torch" not in sys.modules and "moto_pl" not in sys.modules
"""


@pytest.mark.parametrize(("name", "seen"), [("MOTO", None), ("SAC", None), ("MOTO", SEEN), ("BC", SEEN)])
def test_onnx_runs_without_torch(
    name: str, seen: Observation | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="ONNX is an extra")
    pytest.importorskip("onnxscript", reason="ONNX is an extra")
    path, out = checkpoint(name, tmp_path, seen), tmp_path / "policy.onnx"
    assert main(["export", str(path), str(out)]) == 0
    assert "1,000 steps, largest difference from the agent" in capsys.readouterr().out
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    facts = json.loads((tmp_path / "policy.onnx.json").read_text())
    assert json.loads(session.get_modelmeta().custom_metadata_map["moto_pl"]) == facts
    assert [put.name for put in session.get_inputs()] == facts["inputs"]
    assert [put.name for put in session.get_outputs()] == facts["outputs"] and facts["control_rate_hz"] is None
    rolled(
        moto_pl.load_policy(path),
        facts,
        lambda inputs: session.run(None, dict(zip(facts["inputs"], inputs, strict=True))),
    )
    done = subprocess.run([sys.executable, "-c", ALONE, str(out)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def test_what_does_not_fit_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(make("BC"), tmp_path / "a.ckpt")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(path.read_bytes()[:-500])
    (tmp_path / "is.pt2").mkdir()
    for words, said in (
        ([path, tmp_path / "policy.pt"], "out: found"),
        ([path, tmp_path / "none" / "policy.pt2"], "out: found"),
        ([path, tmp_path / "is.pt2"], "out: found"),
        ([broken, tmp_path / "policy.pt2"], "checkpoint: found"),
        ([tmp_path / "none.ckpt", tmp_path / "policy.pt2"], "checkpoint: found"),
        ([path, tmp_path / "policy.pt2", "--control_rate", "-1"], "--control_rate: found"),
        ([path, tmp_path / "policy.pt2", "--steps", "0"], "--steps: found"),
    ):
        assert main(["export", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(path), str(tmp_path / "policy.onnx")]) == 2
    assert "pip install 'moto_pl[onnx]'" in capsys.readouterr().err
    monkeypatch.setitem(export.FORMS, ".pt2", (lambda *_: b"", lambda _: lambda _: [np.zeros(2), np.zeros(1)]))
    assert main(["export", str(path), str(tmp_path / "policy.pt2")]) == 2
    assert "differs from the agent" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"a.ckpt", "broken.ckpt", "is.pt2"}


def test_a_name_that_is_an_inputs_already(tmp_path: Path) -> None:
    for name, seen in (("BC", Observation(("frames",))), ("MOTO", Observation(("image", "deter")))):
        with pytest.raises(SettingError, match=f"checkpoint: found an agent that observes '{seen.cameras[-1]}'"):
            policy_step(make(name, observation=seen))


def test_what_actions_stand_for_is_said() -> None:
    agent = make("BC")
    assert "stands_for" not in policy_step(agent).metadata(None)["action"]
    agent.action_scale = ActionScale((-5.0, 0.0), (5.0, 90.0))
    found = json.loads(json.dumps(policy_step(agent).metadata(None)["action"]))
    assert found["stands_for"] == {"low": [-5, 0], "high": [5, 90]} and found["low"] == -1


def test_what_does_not_act_is_left_out() -> None:
    step = policy_step(make("MOTO").requires_grad_(False))
    before = {name for name, _ in step.named_parameters()}
    exported(step)
    left = before - {name for name, _ in step.named_parameters()}
    assert {name.split(".")[1] for name in left} == {"world_model", "critic"}
    assert any("prior" in name for name in left) and not any("posterior" in name for name in left)


def test_whose_rounding_it_is(tmp_path: Path) -> None:
    """A file that is right where the agent rounds passes; one that rounds itself does not."""
    path = save(make("BC"), tmp_path / "a.ckpt")
    step, policy = policy_step(load_agent(path)), Policy(load_agent(path), "mode", Key(0, 0))
    act = policy.agent.act

    def rounding(*args: Any) -> Any:
        action, state = act(*args)
        return action + 2e-5, state

    policy.agent.act = rounding  # type: ignore[method-assign]
    compared = compare(step.exactly, step, policy, 5)
    assert compared.rounded == 5 and 1.5e-5 < compared.largest < 2.5e-5

    def rounds_too(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        action, *rest = step.exactly(inputs)
        return [action - 2e-5, *rest]

    with pytest.raises(SettingError, match="differs from the agent"):
        compare(rounds_too, step, policy, 5)
