import os
import subprocess
import sys
import time

import numpy as np
import pytest

from moto_pl.envs import rendering
from moto_pl.envs.rendering import Camera, FrameRenderer, is_software, parse_camera, probe, select_backend
from moto_pl.errors import SettingError

FRONT = Camera(distance=4.0, lookat=(0.0, 0.0, 0.0), azimuth=90.0, elevation=-30.0)
# A red box stands on a blue floor. "down" looks at it from the same place as "up", standing on its head.
SCENE = """
<mujoco><visual><global offwidth="300" offheight="200"/><quality offsamples="4" shadowsize="1024"/></visual>
<worldbody>
  <light pos="0 -2 4" dir="0 0.4 -1"/>
  <geom name="floor" type="plane" size="5 5 1" rgba="0 0 1 1"/>
  <geom type="box" size="0.3 0.3 0.5" pos="0 0 0.5" rgba="1 0 0 1"/>
  <camera name="up" pos="0 -4 2" xyaxes="1 0 0 0 0.4 0.9"/>
  <camera name="down" pos="0 -4 2" xyaxes="-1 0 0 0 -0.4 -0.9"/>
</worldbody></mujoco>
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    full = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    return subprocess.run([sys.executable, "-c", code], env={**full, **environment}, capture_output=True, text=True)


@pytest.fixture
def clean(monkeypatch):
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rendering, "_follow_environment", lambda backend: None)
    return monkeypatch


@pytest.fixture
def scene(gl):
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def draw(scene, camera, quality="fast", size=64) -> np.ndarray:
    renderer = FrameRenderer(scene[0], camera, size, quality)
    image = renderer.render(scene[1])
    renderer.close()
    return image


def test_the_users_choice_is_respected_without_a_probe(clean):
    clean.setenv("MUJOCO_GL", "osmesa")
    clean.setattr(rendering, "probe", lambda backend: pytest.fail("probed"))
    assert select_backend() == "osmesa"
    assert os.environ["PYOPENGL_PLATFORM"] == "osmesa"


def test_egl_is_tried_first_then_osmesa_and_the_choice_is_inherited(clean):
    tried = []
    clean.setattr(rendering, "probe", lambda backend: tried.append(backend) or (None if backend == "osmesa" else "no"))
    assert select_backend() == "osmesa"
    assert select_backend() == "osmesa"
    assert tried == ["egl", "osmesa"]
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "osmesa"


def test_no_backend_names_the_variable_and_what_to_install(clean):
    clean.setattr(rendering, "probe", lambda backend: "library not found")
    with pytest.raises(SettingError, match="MUJOCO_GL.*egl does not render.*library not found.*libegl1.*libosmesa6"):
        select_backend()
    assert "MUJOCO_GL" not in os.environ


def test_an_invalid_choice_is_named(clean):
    clean.setenv("MUJOCO_GL", "opengl")
    with pytest.raises(SettingError, match="MUJOCO_GL: found opengl"):
        select_backend()


def test_a_probe_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(rendering, "_PROBE", "import time; time.sleep(60)")
    start = time.monotonic()
    assert probe("egl", timeout_s=0.5) == "no answer within 0.5 s"
    assert time.monotonic() - start < 10


def test_a_probe_that_crashes_says_so(monkeypatch):
    monkeypatch.setattr(rendering, "_PROBE", "import os; os.abort()")
    assert probe("egl") == "exit status -6"
    monkeypatch.setattr(rendering, "_PROBE", "raise ImportError('libEGL.so.1 is missing')")
    assert "libEGL.so.1 is missing" in probe("egl")


def test_mujoco_imported_before_the_choice_follows_it(gl):
    code = """
import mujoco
from moto_pl.envs.rendering import select_backend, FrameRenderer, Camera
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model); mujoco.mj_forward(model, data)
image = FrameRenderer(model, Camera(4.0, (0, 0, 0), 90, -30), 32).render(data)
assert image.max() > image.min()
print(select_backend())
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in rendering.BACKENDS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glfw needs a display on Linux only")
def test_a_choice_that_does_not_work_is_named(gl):
    code = """
from moto_pl.envs import make
make("moto_pl/MetaWorld-door-open-v0").reset(seed=0)
"""
    done = python(code, MUJOCO_GL="glfw", DISPLAY="")
    assert "SettingError: MUJOCO_GL: found glfw, which does not render here" in done.stderr


def test_image_is_upright_and_new_each_time(scene):
    renderer = FrameRenderer(scene[0], FRONT, 64)
    image, again = renderer.render(scene[1]), renderer.render(scene[1])
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image is not again
    np.testing.assert_array_equal(image, again)
    redness = image[..., 0].astype(int) - image[..., 2]
    rows, columns = np.where(redness > 50)
    assert rows.mean() < 28, "the box rises above the point looked at, on the floor in the middle"
    assert np.where(redness < -50)[0].max() == 63, "the floor reaches the image's lower edge"
    assert columns.mean() == pytest.approx(31.5, abs=1)
    renderer.close()
    renderer.close()


def test_a_camera_on_its_head_gives_the_upright_image(scene):
    up, down = draw(scene, "up").astype(int), draw(scene, "down").astype(int)
    assert np.abs(up - up[::-1, ::-1]).mean() > 20
    assert np.abs(up - down).mean() < 1


def test_full_has_shadows_and_smooth_edges_and_fast_has_not(scene):
    fast, full = draw(scene, FRONT, "fast"), draw(scene, FRONT, "full")
    assert len(np.unique(full.reshape(-1, 3), axis=0)) > len(np.unique(fast.reshape(-1, 3), axis=0))
    fast_floor, full_floor = (image[..., 2][image[..., 2] > image[..., 0].astype(int) + 20] for image in (fast, full))
    assert np.sort(full_floor)[20] < np.sort(fast_floor)[20] - 20, "the shadow darkens some of the floor"


def test_the_models_own_settings_survive(scene):
    model = scene[0]
    draw(scene, FRONT, "fast", size=400)  # larger than the model's own buffer
    assert (model.vis.global_.offwidth, model.vis.global_.offheight) == (300, 200)
    assert (model.vis.quality.offsamples, model.vis.quality.shadowsize) == (4, 1024)


def test_gl_renderer_has_a_name(scene):
    renderer = FrameRenderer(scene[0], FRONT)
    assert renderer.gl_renderer and renderer.gl_renderer != "unknown"
    renderer.close()
    assert is_software("llvmpipe (LLVM 15.0.6, 256 bits)") and not is_software("NVIDIA A100/PCIe/SSE2")


def test_bad_arguments(scene):
    with pytest.raises(SettingError, match=r"camera: found side.*up, down"):
        FrameRenderer(scene[0], "side")
    with pytest.raises(SettingError, match="render_quality: found best. Use one of fast, full"):
        FrameRenderer(scene[0], FRONT, quality="best")
    with pytest.raises(SettingError, match="image_size"):
        FrameRenderer(scene[0], FRONT, size=0)


def test_cameras_as_users_write_them():
    written = {"distance": 4, "lookat": [0, 0, 0], "azimuth": 90, "elevation": -30}
    assert parse_camera(written) == FRONT
    assert parse_camera("corner2") == "corner2" and parse_camera(FRONT) is FRONT
    for bad in ({**written, "roll": 1}, {"distance": 1}, {**written, "lookat": [0, 0]}, {**written, "azimuth": "left"}):
        with pytest.raises(SettingError, match="camera"):
            parse_camera(bad)
