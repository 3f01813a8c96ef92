import io
import json

import pytest
from rich.console import Console

from moto_pl import doctor


def run(monkeypatch, as_json: bool = False, **changes) -> tuple[int, str]:
    rendering = {"backend": "egl", "renderer": "llvmpipe (LLVM 15)", "fps": 100.0}
    monkeypatch.setattr(doctor, "_render_apart", lambda: rendering)
    monkeypatch.setattr(doctor, "_gpus", lambda: [])
    for name, value in changes.items():
        monkeypatch.setattr(doctor, name, value)
    console = Console(file=io.StringIO(), width=200)
    return doctor.run_doctor(console, as_json), console.file.getvalue()


def test_a_machine_in_order(monkeypatch):
    status, text = run(monkeypatch)
    assert status == 0, text
    assert "Everything needed works" in text
    for what in ("python", "torch", "lightning", "mujoco", "metaworld", "gymnasium", "minari", "moto_pl", "GL backend"):
        assert what in text
    assert "llvmpipe (LLVM 15), on the CPU" in text and "100 frames/s" in text


def test_a_missing_package(monkeypatch):
    version = doctor._version
    status, text = run(monkeypatch, _version=lambda name: None if name == "minari" else version(name))
    assert status == 1 and "pip install minari" in text


def test_for_programs(monkeypatch):
    """The same findings, whole lines whatever the width, and the same exit status."""
    error = "no image " * 40
    status, text = run(monkeypatch, as_json=True, _render_apart=lambda: {"error": error}, _free_disk=lambda: 2**31)
    report = json.loads(text)
    assert status == 1 and report["works"] is False
    states = {finding["what"]: finding["state"] for finding in report["findings"]}
    assert states["rendering"] == "bad" and states["free disk"] == "poor" and states["python"] == "good"
    assert any(error in finding["advice"] for finding in report["findings"])
    status, text = run(monkeypatch, as_json=True)
    assert status == 0 and json.loads(text)["works"] is True


def test_malicious_lightning(monkeypatch):
    status, text = run(monkeypatch, _version=lambda name: "2.6.3")
    assert status == 1 and "malicious" in text


@pytest.mark.parametrize(
    "error", ["MUJOCO_GL: found egl. Unset it.", "FatalError: no display", "no image within 180 s"]
)
def test_rendering_that_fails(monkeypatch, error):
    status, text = run(monkeypatch, _render_apart=lambda: {"error": error})
    assert status == 1 and error in text and "MUJOCO_GL" in text
    assert "1 of the above must be put right" in text


def test_things_that_work_but_could_be_better(monkeypatch):
    status, text = run(monkeypatch, _free_memory=lambda: 2**30, _free_disk=lambda: 2**31, _gpus=lambda: ["H100"])
    assert status == 0
    assert "1.0 GiB" in text and "2.0 GiB" in text
    assert "although there is a GPU" in text and "fewer workers" in text and "another disk" in text


def test_a_driver_that_hangs_or_crashes_harms_the_doctor_not(monkeypatch):
    monkeypatch.setattr(doctor, "RENDER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(doctor, "_RENDER", "import time; time.sleep(60)")
    assert doctor._render_apart() == {"error": "no image within 1 s"}
    monkeypatch.setattr(doctor, "RENDER_TIMEOUT_S", 30.0)
    monkeypatch.setattr(doctor, "_RENDER", "import os; os.abort()")
    assert doctor._render_apart() == {"error": "exit status -6"}


def test_it_really_renders():
    result = doctor._render_apart()
    if "error" in result and result["error"].startswith("MUJOCO_GL: "):
        pytest.skip(f"no OpenGL: {result['error']}")
    assert result["fps"] > 0 and result["renderer"] not in ("", "unknown") and result["backend"]


def test_summary_is_text(monkeypatch):
    summary = doctor.environment_summary()
    assert all(isinstance(value, str) and value for value in summary.values())
    assert {"python", "torch", "MUJOCO_GL", "compiled operators", "CUDA", "free memory", "free disk"} <= set(summary)
