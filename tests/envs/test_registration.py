import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from moto_pl import envs
from moto_pl.errors import SettingError


def test_importing_the_package_imports_no_simulator():
    code = (
        "import sys, moto_pl.envs; print([m for m in ('mujoco', 'metaworld', 'OpenGL', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_task_of_metaworld_has_an_id(gl):
    from metaworld.env_dict import ENV_CLS_MAP

    assert {f"{task}-v3" for task in envs.METAWORLD_TASKS} == set(ENV_CLS_MAP)
    assert len(envs.METAWORLD_TASKS) == 50
    assert set(envs.PAPER_TASKS) <= set(envs.METAWORLD_TASKS) and len(envs.PAPER_TASKS) == 10
    for task in envs.METAWORLD_TASKS:
        assert envs.metaworld_id(task) in gymnasium.registry
    assert len(envs.list_envs()) >= 51


@pytest.mark.parametrize(
    ("env_id", "near"),
    [("moto_pl/MetaWorld-dor-open-v0", "moto_pl/MetaWorld-door-open-v0"), ("moto_pl/Reach-v7", "moto_pl/Reach-v0")],
)
def test_an_unknown_id_names_near_ones(env_id, near):
    with pytest.raises(SettingError, match=f"env_id: found '{env_id}'. Did you mean {near}.*List all with"):
        envs.make(env_id)


@pytest.mark.parametrize("env_id", ["no such thing!", "", "elsewhere/Thing-v0"])
def test_a_strange_id_is_refused(env_id):
    with pytest.raises(SettingError, match="env_id"):
        envs.make(env_id)


def test_the_printed_way_to_list_all_works():
    listing = str(envs.unknown_name("task", "x", [])).split("List all with: python -c '")[1].rstrip("'")
    out = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert out.stdout.split() == envs.list_envs()


@pytest.mark.parametrize(
    ("env_id", "argument", "said"),
    [
        ("moto_pl/Reach-v0", "goall", "goall, which moto_pl/Reach-v0 does not take. Did you mean goal. It takes image"),
        ("moto_pl/Reach-v0", "disable_env_checker", "disable_env_checker, which .* does not take. It takes image"),
        ("CartPole-v1", "sutton_barto", "sutton_barto, which .*Did you mean sutton_barto_reward"),
    ],
)
def test_an_argument_that_the_environment_does_not_take(env_id, argument, said):
    with pytest.raises(SettingError, match=f"^data.env_options: found {said}"):
        envs.make(env_id, **{argument: 3})


def test_arguments_are_looked_at_before_an_environment_is_made():
    for env_id, argument in (("moto_pl/MetaWorld-door-open-v0", "cameras"), ("moto_pl:moto_pl/Kitchen-mixed-v0", "x")):
        with pytest.raises(SettingError, match=f"^here: found {argument}, which {env_id} does not take"):
            envs.check_arguments("here", env_id, {argument: 3})
    for env_id in ("moto_pl/Reach-v0", "moto_pl/Kitchen-mixed-v0"):
        envs.check_arguments("here", env_id, {"image_size": 64, "max_episode_steps": 3})
    for env_id, arguments in (
        ("moto_pl/Reach-v0", {"image_size": "abc"}),
        ("moto_pl/Reach-v0", {"image_size": 64.0}),
        ("moto_pl/Reach-v0", {"image_size": True}),
        ("moto_pl/Reach-v0", {"episode_steps": None}),
        ("moto_pl/Reach-v0", {"hand_radius": [1]}),
        ("moto_pl/Reach-v0", {"observe": 3}),
        ("moto_pl/Kitchen-mixed-v0", {"objects": 3}),
        ("moto_pl/Kitchen-mixed-v0", {"state": "yes"}),
        ("moto_pl/MetaWorld-door-open-v0", {"paper_reset": 1}),
        ("moto_pl/MetaWorld-door-open-v0", {"action_repeat": 1.5}),
    ):
        ((name, value),) = arguments.items()
        with pytest.raises(SettingError, match=rf"^here: found {name}: {re.escape(repr(value))}. Give (a |true or)"):
            envs.check_arguments("here", env_id, arguments)
    fitting = {
        "image_size": np.int64(64),
        "hand_radius": 1,
        "goal": "centre",
        "observe": ("image",),
        "render_mode": None,
    }
    envs.check_arguments("here", "moto_pl/Reach-v0", fitting)
    for env_id in ("CartPole-v1", "moto_pl/none-v0", "no such thing!"):  # they say so themselves
        envs.check_arguments("here", env_id, {"x": 3})


def registered(code):
    """What a fresh interpreter prints after ``code``, and the heavy packages that it has imported by then."""
    heavy = "print([m for m in ('torch', 'mujoco', 'metaworld', 'gymnasium_robotics') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", f"import sys\n{code}\n{heavy}"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


def test_importing_the_package_registers_all():
    code = "import gymnasium, moto_pl; print(*sorted(i for i in gymnasium.registry if i.startswith('moto_pl/')))"
    ids, heavy = registered(code)
    assert ids.split() == envs.list_envs() and len(envs.list_envs()) == 50 + len(envs.KITCHEN_TASKS) + 1
    assert heavy == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "import gymnasium, moto_pl; env = gymnasium.make('moto_pl/Reach-v0')",
        "import gymnasium; env = gymnasium.make('moto_pl:moto_pl/Reach-v0')",
    ],
)
def test_gymnasium_makes_them(code):
    shape, heavy = registered(f"{code}; print(env.reset(seed=0)[0]['image'].shape)")
    assert shape == "(64, 64, 3)" and heavy == "[]"
