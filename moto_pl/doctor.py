"""What this machine offers, what does not work on it, and what to do about that."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

import moto_pl
from moto_pl.errors import SettingError
from moto_pl.files import bytes_text
from moto_pl.threads import cores

PACKAGES = (
    "torch",
    "lightning",
    "torchmetrics",
    "mujoco",
    "metaworld",
    "gymnasium",
    "gymnasium-robotics",
    "minari",
    "moto_pl",
)
MALICIOUS_LIGHTNING = ("2.6.2", "2.6.3")
RENDER_TIMEOUT_S = 180.0
LEAST_MEMORY, LEAST_DISK = 4 * 2**30, 5 * 2**30  # bytes

_RENDER = "from moto_pl import doctor; import json; print('RESULT ' + json.dumps(doctor.measure_rendering()))"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Args:
        what: what was looked at.
        found: what it is.
        state: ``"good"``; ``"poor"``: works, and could be better; ``"bad"``: something needed does not work.
        advice: what to do about it; empty where nothing has to be done.
    """

    what: str
    found: str
    state: Literal["good", "poor", "bad"] = "good"
    advice: str = ""


def environment_summary() -> dict[str, str]:
    """Versions and resources as text, for logs. Renders nothing, so it cannot hang."""
    import torch

    from moto_pl.ops import extension

    return {
        "python": platform.python_version(),
        **{name: _version(name) or "not installed" for name in PACKAGES},
        "platform": platform.platform(),
        "MUJOCO_GL": os.environ.get("MUJOCO_GL") or "not chosen yet",
        "compiled operators": extension.status().removeprefix("compiled operators: "),
        "CUDA": ", ".join(_gpus()) or "none",
        "CPU threads": f"{cores()} ({torch.get_num_threads()} used by torch)",
        "free memory": bytes_text(_free_memory()),
        "free disk": bytes_text(_free_disk()),
    }


def version_line() -> str:
    """Which code this is, and what runs it, for ``moto --version`` and reports of faults; torch is not imported."""
    try:
        record = json.loads((Path(moto_pl.__file__).parent / "_build.json").read_text())
    except (OSError, ValueError):
        record = {}
    commit = _checked_out() or record.get("commit") or "unknown"
    operators = f"compiled for torch {record['torch']}" if record.get("built") else "not built"
    running = f"torch {_version('torch') or 'not installed'}, Python {platform.python_version()}"
    return f"moto_pl {moto_pl.__version__} (commit {commit}; operators {operators}; {running})"


def _checked_out() -> str | None:
    """The commit of the clone that this runs from; None of an installed package."""
    root = Path(moto_pl.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def run_doctor(console: Console | None = None, as_json: bool = False) -> int:
    """Print what is there, and what to do about each thing that is wrong.

    Args:
        console: where to print; the standard output by default.
        as_json: print one JSON object, for programs: ``works``, and ``findings`` with the fields of :class:`Finding`.

    Returns:
        0 if everything needed works, else 1.
    """
    console = console or Console()
    if as_json:
        findings = _examine()
        works = all(finding.state != "bad" for finding in findings)
        report = {"works": works, "findings": [asdict(finding) for finding in findings]}
        console.file.write(f"{json.dumps(report, indent=1)}\n")  # not print: a console breaks lines at its width
        return int(not works)
    with console.status("looking at this machine, and rendering on it for a second"):
        findings = _examine()
    table = Table(title="moto doctor", title_justify="left", show_lines=False)
    table.add_column("")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    marks = {"good": ("ok", "green"), "poor": ("!", "yellow"), "bad": ("x", "red")}
    for finding in findings:
        mark, colour = marks[finding.state]
        table.add_row(Text(mark, colour), finding.what, Text(finding.found))
    console.print(table)
    for finding in findings:
        if finding.advice:
            mark, colour = marks[finding.state]
            console.print(Text.assemble((f"{mark} {finding.what}: ", colour), finding.advice), soft_wrap=True)
    broken = sum(finding.state == "bad" for finding in findings)
    if broken:
        console.print(Text(f"{broken} of the above must be put right before training.", "red"))
    else:
        console.print(Text("Everything needed works.", "green"))
    return int(broken > 0)


def measure_rendering(seconds: float = 1.0) -> dict[str, Any]:
    """Render a MetaWorld scene in this process.

    Args:
        seconds: for how long.

    Returns:
        ``backend``, ``renderer`` (OpenGL's own name for it) and ``fps`` (64x64 images of quality ``fast`` a second),
        or ``error``.
    """
    try:
        from moto_pl.envs import make, metaworld_id
        from moto_pl.envs.metaworld import MetaWorldEnv

        env = make(metaworld_id("door-open"))
        scene = env.unwrapped
        assert isinstance(scene, MetaWorldEnv)
        env.reset(seed=0)
        frames, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            scene.render()
            frames += 1
        backend = os.environ.get("MUJOCO_GL", "glfw")
        result = {"backend": backend, "renderer": scene.gl_renderer, "fps": frames / elapsed}
        env.close()
        return result
    except Exception as error:
        return {"error": str(error) if isinstance(error, SettingError) else f"{type(error).__name__}: {error}"}


def _examine() -> list[Finding]:
    return [
        Finding("python", platform.python_version())
        if sys.version_info >= (3, 11)
        else Finding("python", platform.python_version(), "bad", "Use Python 3.11 or newer."),
        *(_package(name) for name in PACKAGES),
        *_rendering(),
        *_accelerators(),
        *_resources(),
    ]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "not installed", "bad", f"Install it: {sys.executable} -m pip install {name}")
    if name == "lightning" and version in MALICIOUS_LIGHTNING:
        advice = "This release was malicious: remove it, change the credentials it could read, install 2.6.4 or newer."
        return Finding(name, version, "bad", advice)
    return Finding(name, version)


def _render_apart() -> dict[str, Any]:
    """What ``measure_rendering`` gives in a process of its own: a driver that hangs or crashes harms only that one."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:] = {[p or os.getcwd() for p in sys.path]!r}; {_RENDER}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=RENDER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return {"error": f"no image within {RENDER_TIMEOUT_S:g} s"}
    for line in out.splitlines():
        if line.startswith("RESULT "):
            answer: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
            return answer
    return {"error": (err.strip().splitlines() or [f"exit status {process.returncode}"])[-1]}


def _rendering() -> list[Finding]:
    from moto_pl.envs.rendering import INSTALL_HINT, is_software

    result = _render_apart()
    if "error" in result:
        error = result["error"]
        # An error about the setting says itself what to do.
        advice = error if error.startswith("MUJOCO_GL: ") else f"{error}. {INSTALL_HINT}, and unset MUJOCO_GL."
        return [Finding("rendering", "does not work", "bad", advice)]
    software = is_software(result["renderer"])
    findings = [
        Finding("GL backend", f"{result['backend']}{' (MUJOCO_GL is set)' if os.environ.get('MUJOCO_GL') else ''}"),
        Finding("GL renderer", f"{result['renderer']}, {'on the CPU' if software else 'hardware'}"),
    ]
    speed = f"{result['fps']:.0f} frames/s (MetaWorld, 64x64, fast)"
    if software and _gpus():
        advice = (
            "Rendering runs on the CPU although there is a GPU. Install the driver's EGL library (libnvidia-gl of the "
            "driver's version; in a container set NVIDIA_DRIVER_CAPABILITIES=all) and use MUJOCO_GL=egl."
        )
        findings.append(Finding("GL speed", speed, "poor", advice))
    elif result["fps"] < 30:
        advice = "Rendering is slow: use render_quality fast, and give the machine to one run at a time."
        findings.append(Finding("GL speed", speed, "poor", advice))
    else:
        findings.append(Finding("GL speed", speed))
    return findings


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _accelerators() -> list[Finding]:
    try:
        import torch

        from moto_pl.ops import extension
    except ImportError as error:
        return [Finding("torch", f"cannot be imported ({error})", "bad", "Reinstall torch.")]
    status = extension.status().removeprefix("compiled operators: ")
    if extension.available():
        findings = [Finding("compiled operators", status)]
    else:
        found, _, advice = status.partition("; ")
        findings = [Finding("compiled operators", found, "poor", f"The slower references serve instead; {advice}.")]
    gpus = _gpus()
    if gpus:
        findings.append(Finding("CUDA", f"{torch.version.cuda}: {', '.join(gpus)}"))
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        advice = "There is an NVIDIA driver, but this torch was built for the CPU: install a CUDA build of torch."
        findings.append(Finding("CUDA", "not in this torch", "poor", advice))
    elif shutil.which("nvidia-smi"):
        advice = f"torch's CUDA {torch.version.cuda} does not start: see nvidia-smi; the driver may be too old."
        findings.append(Finding("CUDA", "does not answer", "poor", advice))
    else:
        findings.append(Finding("CUDA", "none (training runs on the CPU)"))
    return findings


def _resources() -> list[Finding]:
    memory, disk = _free_memory(), _free_disk()
    findings = [Finding("CPU threads", str(cores()))]
    for what, size, where, least, advice in (
        ("free memory", memory, "", LEAST_MEMORY, "Close other programs, or use fewer workers."),
        ("free disk", disk, f" in {Path.cwd()}", LEAST_DISK, "Free some, or run on another disk."),
    ):
        found = bytes_text(size) + where
        findings.append(Finding(what, found) if size >= least else Finding(what, found, "poor", advice))
    return findings


def _free_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_disk() -> int:
    return shutil.disk_usage(Path.cwd()).free
