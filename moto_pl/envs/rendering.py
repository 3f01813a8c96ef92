"""Off-screen rendering with MuJoCo: which OpenGL answers, and a renderer that is fast on a CPU."""

from __future__ import annotations

import atexit
import functools
import importlib
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moto_pl.errors import SettingError

if TYPE_CHECKING:
    import mujoco

Quality = Literal["fast", "full"]
QUALITIES: tuple[Quality, ...] = ("fast", "full")
BACKENDS = ("egl", "osmesa")
"""The backends that need no display, in the order in which they are tried."""
_KNOWN = (*BACKENDS, "glfw", "glx", "wgl", "cgl")
APT_PACKAGES = "libegl1 libgl1-mesa-dri libosmesa6"
INSTALL_HINT = f"Install an OpenGL that needs no display (Debian, Ubuntu: apt-get install -y {APT_PACKAGES})"
PROBE_TIMEOUT_S = 60.0

_PROBE = """
import mujoco, numpy
xml = '<mujoco><worldbody><light pos="0 0 3"/><geom type="box" size="1 1 1"/></worldbody></mujoco>'
model = mujoco.MjModel.from_xml_string(xml)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert numpy.ptp(renderer.render()) > 0, "the image is one flat colour"
print("rendered", flush=True)
"""


@dataclass(frozen=True)
class Camera:
    """A free camera.

    Args:
        distance: from the camera to the point looked at, in metres.
        lookat: the point looked at, world coordinates in metres.
        azimuth: in degrees.
        elevation: in degrees; negative looks down.
    """

    distance: float
    lookat: tuple[float, float, float]
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class MountedCamera:
    """A camera that a hand carries: it looks along the hand, from behind and above it, and stays upright.

    Args:
        site: the hand's site in the model; its z axis is where the hand points.
        distance: from the camera to the point looked at, in metres.
        ahead: of the point looked at, from the site on, in metres.
        tilt: in degrees, negative: how much further down than the hand it looks.
    """

    site: str
    distance: float
    ahead: float
    tilt: float

    def placed(self, data: mujoco.MjData) -> Camera:
        """Where it is now."""
        site = data.site(self.site)
        direction = site.xmat.reshape(3, 3)[:, 2]
        x, y, z = (site.xpos + self.ahead * direction).tolist()
        azimuth = math.degrees(math.atan2(direction[1], direction[0]))
        elevation = math.degrees(math.asin(max(-1.0, min(1.0, direction[2])))) + self.tilt
        return Camera(self.distance, (x, y, z), azimuth, max(-89.0, elevation))


def probe(backend: str, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Render one small image with ``backend`` in a process of its own.

    A driver that hangs or crashes takes that process with it and nothing else.

    Args:
        backend: ``"egl"`` or ``"osmesa"``.
        timeout_s: how long the process may take, in seconds.

    Returns:
        None if an image came back, else one line that says what went wrong.
    """
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROBE],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        # Not waited for: a process stuck in a driver may not even die when it is killed.
        process.kill()
        return f"no answer within {timeout_s:g} s"
    # The exit status is not asked: some drivers crash while they are unloaded, after having rendered well.
    if "rendered" in out:
        return None
    lines = err.strip().splitlines()
    return lines[-1] if lines else f"exit status {process.returncode}"


def select_backend() -> str:
    """Choose the OpenGL backend of this process and of its children, once.

    ``MUJOCO_GL`` is respected where it is set. Else EGL, then OSMesa, are probed in a process of their own, and the
    first that renders is written to ``MUJOCO_GL`` and ``PYOPENGL_PLATFORM``; child processes inherit both and do not
    probe again. MuJoCo reads ``MUJOCO_GL`` when it is imported: if it was imported before, its choice is made anew.

    Returns:
        The value of ``MUJOCO_GL``, such as ``"egl"``.

    Raises:
        SettingError: no backend renders; the message says what to install.
    """
    # llvmpipe draws small images faster in the calling thread than with help: waking threads costs more than they save.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not chosen:
        if not sys.platform.startswith("linux"):
            return "glfw"  # MuJoCo's own choice needs no display there
        failures = {}
        for backend in BACKENDS:
            failure = probe(backend)
            if failure is None:
                chosen = backend
                break
            failures[backend] = failure
        if not chosen:
            found = "unset, and " + "; ".join(f"{backend} does not render ({why})" for backend, why in failures.items())
            raise SettingError("MUJOCO_GL", found, f"{INSTALL_HINT}, then run `moto doctor`.")
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = chosen
    elif chosen not in _KNOWN:
        raise SettingError("MUJOCO_GL", chosen, f"Unset it, or use one of {', '.join(_KNOWN)}.")
    elif chosen in BACKENDS:
        os.environ.setdefault("PYOPENGL_PLATFORM", chosen)
    _follow_environment(chosen)
    return chosen


def software_fallback(backend: str) -> str:
    """The backend to use after processes that drew with ``backend`` hung or died.

    EGL reaches for a graphics driver; OSMesa draws in plain software, which is slower and does not hang.

    Returns:
        ``"osmesa"`` if ``backend`` is EGL and OSMesa renders here, else ``backend``.
    """
    return "osmesa" if backend == "egl" and probe("osmesa") is None else backend


def _follow_environment(backend: str) -> None:
    """Make a MuJoCo that was imported before ``MUJOCO_GL`` was set use ``backend`` all the same."""
    if "mujoco" not in sys.modules or backend not in BACKENDS:
        return
    module: Any = sys.modules["mujoco.gl_context"]
    current = getattr(module, "GLContext", None)
    if current is None or current.__module__ != f"mujoco.{backend}":
        try:
            importlib.reload(module)
        except Exception as error:
            raise _broken(backend, error) from error
        sys.modules["mujoco"].GLContext = module.GLContext  # type: ignore[attr-defined]


def _broken(backend: str, error: BaseException) -> SettingError:
    found = f"{backend}, which does not render here ({type(error).__name__}: {str(error).strip() or 'no message'})"
    return SettingError("MUJOCO_GL", found, f"Unset it, so that one that works is chosen. {INSTALL_HINT}.")


def parse_camera(camera: Camera | Mapping[str, Any] | str) -> Camera | str:
    """A camera as the user may write it: a name, a :class:`Camera`, or its fields as a mapping.

    Raises:
        SettingError: the mapping lacks a field, has one too many, or a value is no number.
    """
    if isinstance(camera, (str, Camera)):
        return camera
    try:
        values = dict(camera)
        x, y, z = values.pop("lookat")
        numbers = {key: float(value) for key, value in values.items()}
        return Camera(lookat=(float(x), float(y), float(z)), **numbers)
    except (TypeError, KeyError, ValueError) as error:
        fix = "Give a camera's name, or distance, lookat (three numbers), azimuth and elevation."
        raise SettingError("camera", camera, fix) from error


class FrameRenderer:
    """Square images of one MuJoCo model, in the process and thread that created it.

    ``fast`` leaves out shadows, reflections and multisampling, which on a software renderer is several times faster;
    ``full`` draws what the model asks for.

    Args:
        model: the model; its visual settings are left as they were.
        camera: a free camera, or the name of one of the model's; others can be asked for later. A named camera that is
            fixed in the world and stands on its head is turned, so that the image is upright.
        size: height and width in pixels, at least 1.
        quality: ``"fast"`` or ``"full"``.

    Raises:
        SettingError: an unknown camera or quality, or an OpenGL that does not render.
    """

    def __init__(self, model: mujoco.MjModel, camera: Camera | str, size: int = 64, quality: Quality = "fast") -> None:
        if quality not in QUALITIES:
            raise SettingError("render_quality", quality, f"Use one of {', '.join(QUALITIES)}.")
        if size < 1:
            raise SettingError("image_size", size, "Use 1 or more pixels.")
        backend = select_backend()
        try:
            import mujoco
        except Exception as error:
            raise _broken(backend, error) from error
        self._model, self._camera = model, camera
        self._cameras = {camera: _mujoco_camera(model, camera)}

        # The context takes its settings from the model when it is made; afterwards they are put back.
        visual, offscreen = model.vis.quality, model.vis.global_
        before = visual.offsamples, visual.shadowsize, offscreen.offwidth, offscreen.offheight
        offscreen.offwidth = offscreen.offheight = size
        if quality == "fast":
            visual.offsamples = visual.shadowsize = 0
        try:
            self._renderer = mujoco.Renderer(model, size, size)
        except Exception as error:
            raise _broken(backend, error) from error
        finally:
            visual.offsamples, visual.shadowsize, offscreen.offwidth, offscreen.offheight = before
        # After MuJoCo's own, so before it: a context that outlives the interpreter's modules complains as it goes.
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)
        if quality == "fast":
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = 0

    def render(self, data: mujoco.MjData, camera: Camera | MountedCamera | str | None = None) -> np.ndarray:
        """Draw the present state: a new uint8 array ``[size, size, 3]``; ``camera``: another than the renderer's own.

        Raises:
            SettingError: an unknown camera.
        """
        chosen = self._camera if camera is None else camera
        if isinstance(chosen, MountedCamera):
            seen_from, upside_down = _mujoco_camera(self._model, chosen.placed(data))
        else:
            if chosen not in self._cameras:
                self._cameras[chosen] = _mujoco_camera(self._model, chosen)
            seen_from, upside_down = self._cameras[chosen]
        self._renderer.update_scene(data, seen_from)
        image = self._renderer.render()
        return np.ascontiguousarray(image[::-1, ::-1]) if upside_down else image

    @functools.cached_property
    def gl_renderer(self) -> str:
        """What OpenGL says of itself, such as ``"llvmpipe (LLVM 15.0.6, 256 bits)"``."""
        if self._renderer._gl_context is not None:
            self._renderer._gl_context.make_current()
        from OpenGL import GL

        answer = GL.glGetString(GL.GL_RENDERER)
        return answer.decode() if answer else "unknown"

    def close(self) -> None:
        """Free the context and its memory. Closing twice is harmless."""
        atexit.unregister(self._at_exit)
        renderer = self._renderer
        if renderer._mjr_context is not None:
            # MuJoCo frees the OpenGL context first, which leaves it nothing to free the scene's buffers in.
            if renderer._gl_context is not None:
                renderer._gl_context.make_current()
            renderer._mjr_context.free()
            renderer._mjr_context = None
        renderer.close()


def _close(reference: weakref.ref[FrameRenderer]) -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()


def is_software(gl_renderer: str) -> bool:
    """Whether an OpenGL renderer's name is one of those that draw on the CPU."""
    return any(name in gl_renderer.lower() for name in ("llvmpipe", "softpipe", "swrast", "software"))


def _mujoco_camera(model: mujoco.MjModel, camera: Camera | str) -> tuple[mujoco.MjvCamera, bool]:
    """MuJoCo's own camera struct, and whether its images have to be turned by half a turn."""
    import mujoco

    result = mujoco.MjvCamera()
    if isinstance(camera, Camera):
        result.type = mujoco.mjtCamera.mjCAMERA_FREE
        result.distance, result.azimuth, result.elevation = camera.distance, camera.azimuth, camera.elevation
        result.lookat[:] = camera.lookat
        return result, False
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
    if index < 0:
        names = ", ".join(model.camera(i).name for i in range(model.ncam))
        raise SettingError("camera", camera, f"Use paper, one of the scene's ({names}), or a free camera's fields.")
    result.type, result.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, index
    up = np.zeros(3)
    mujoco.mju_rotVecQuat(up, np.array([0.0, 1.0, 0.0]), model.cam_quat[index])
    return result, bool(model.cam_bodyid[index] == 0 and up[2] < 0)
