"""MetaWorld's 50 manipulation tasks from pixels, with a sparse reward."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moto_pl.envs import METAWORLD_TASKS, unknown_name
from moto_pl.envs.pixel import MujocoPixelEnv, check_least
from moto_pl.envs.rendering import Camera, Quality

if TYPE_CHECKING:
    import mujoco

PAPER_CAMERA = Camera(distance=0.75, lookat=(-0.15, 0.65, 0.25), azimuth=15.0, elevation=-22.5)
PAPER_HAND = np.array([0.1, 0.5, 0.3])
PAPER_HAND_STD = 0.02
PAPER_ZERO_ACTIONS = 10
# Arrays of the model that hold pictures, meshes and names: large, and never written by a task.
_CONSTANT_ARRAYS = ("mesh_", "tex_", "skin_", "hfield_", "flex", "name", "names", "paths", "text_", "bvh_")


class MetaWorldEnv(MujocoPixelEnv):
    """One MetaWorld v3 task, seen through a camera.

    Observation: ``{"image": uint8 [image_size, image_size, 3]}``; where ``observe`` names them, images of the same size
    from other cameras, ``"corner"``, ``"corner2"``, ``"topview"`` and ``"gripper"`` (in the hand); and ``"hand"``,
    float64 ``[4]``: the hand's position in metres, and how far the gripper is open, 0 to 1: the first four numbers of
    MetaWorld's own observation, which say nothing of the objects. Action: float32 ``[4]`` in [-1, 1]: the hand's
    displacement along x, y, z (1 is a centimetre a simulator step) and the gripper (1 closes). Reward: 1.0 at each
    step in which the task is solved at the step's end, that is at the last of its ``action_repeat`` simulator steps,
    else 0.0; ``info["success"]`` is the same as a bool. An episode is truncated after ``episode_steps`` steps and
    never terminates, so a policy is paid for staying in success.

    The objects' positions are drawn anew at each reset. An episode is a pure function of the seed and the actions: the
    simulator returns to its pristine state at each reset, so that nothing of earlier episodes shows.

    Args:
        task: MetaWorld's name without its version, such as ``"door-open"``; see ``moto_pl.envs.METAWORLD_TASKS``.
        image_size: height and width of each image in pixels.
        camera: what ``image`` is seen through: ``"paper"`` (a free camera near the hand), a camera of the scene by name
            (``"corner2"``, upright; ``"corner"``, ``"corner3"``, ``"corner4"``, ``"topview"``, ``"gripperPOV"``,
            ``"behindGripper"``), or a free camera (:class:`~moto_pl.envs.rendering.Camera`, or its fields as a
            mapping).
        render_quality: ``"fast"`` (no shadows, reflections, multisampling) or ``"full"``.
        action_repeat: simulator steps for each action.
        episode_steps: steps in an episode, as the agent counts them.
        paper_reset: start the hand at (0.1, 0.5, 0.3) m plus noise of standard deviation 0.02 m, and let the arm
            settle for ten simulator steps with zero action, instead of starting at the task's own hand position.
        render_mode: ``"rgb_array"`` or None.
        observe: what is observed: ``image``, any of the other cameras, and ``hand``.

    Raises:
        SettingError: an unknown task or camera, an argument out of its range, or no working OpenGL.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 40}
    paper_camera = PAPER_CAMERA
    SCENE_CAMERAS = {"corner": "corner", "corner2": "corner2", "topview": "topview", "gripper": "gripperPOV"}
    CAMERAS = ("image", *SCENE_CAMERAS)
    VECTORS = {"hand": 4}

    def __init__(
        self,
        task: str,
        image_size: int = 64,
        camera: Camera | Mapping[str, Any] | str = "paper",
        render_quality: Quality = "fast",
        action_repeat: int = 2,
        episode_steps: int = 101,
        paper_reset: bool = False,
        render_mode: str | None = None,
        observe: Sequence[str] = ("image",),
    ) -> None:
        if task not in METAWORLD_TASKS:
            raise unknown_name("task", task, METAWORLD_TASKS)
        check_least("action_repeat", action_repeat)
        super().__init__(4, image_size, episode_steps, render_mode, camera, render_quality, observe)
        from metaworld.env_dict import ENV_CLS_MAP
        from metaworld.policies import ENV_POLICY_MAP

        self.task, self.action_repeat, self.paper_reset = task, action_repeat, paper_reset
        policies: dict[str, Any] = ENV_POLICY_MAP
        self._policy_class = policies[f"{task}-v3"]
        self._policy = self._policy_class()
        self._simulator: Any = ENV_CLS_MAP[f"{task}-v3"]()
        self._simulator._set_task_called = True
        self._simulator._partially_observable = False
        del self._simulator.sawyer_observation_space  # cached with a hidden goal
        self._simulator._freeze_rand_vec = False
        self._simulator.seeded_rand_vec = True
        self._simulator.max_path_length = sys.maxsize  # this class counts the steps
        self._pristine = _Snapshot(self._simulator)
        self._state = np.zeros(39)

    @property
    def state(self) -> np.ndarray:
        """MetaWorld's state observation, goal included, which scripted policies read: float64 ``[39]``."""
        return self._state.copy()

    def vector(self, name: str) -> np.ndarray:
        """The hand: position and gripper."""
        return self._state[:4].copy()

    @property
    def model(self) -> mujoco.MjModel:
        """The scene, with the task's objects."""
        return self._simulator.model

    @property
    def data(self) -> mujoco.MjData:
        """The scene's present state."""
        return self._simulator.data

    def _begin(self) -> None:
        """Put the objects in new places."""
        self._pristine.restore()
        self._simulator.seed(int(self.np_random.integers(2**31)))
        self._policy = self._policy_class()
        if self.paper_reset:
            self._simulator.hand_init_pos = PAPER_HAND + PAPER_HAND_STD * self.np_random.standard_normal(3)
        self._simulator.reset()
        self._settle()
        if self.paper_reset:
            for _ in range(PAPER_ZERO_ACTIONS):
                self._state, *_ = self._simulator.step(np.zeros(4))

    def _simulate(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        """Apply the action for ``action_repeat`` simulator steps."""
        for _ in range(self.action_repeat):
            self._state, _, _, _, details = self._simulator.step(action)
        success = bool(details["success"])
        return float(success), {"success": success}

    def scripted_action(self) -> np.ndarray:
        """What MetaWorld's own policy for the task does in the present state: float32 ``[4]`` in [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the policies warn of responses beyond 1, which are clipped here
            action = self._policy.get_action(self._state)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def close(self) -> None:
        """Free the renderer and the simulator."""
        super().close()
        self._simulator.close()

    def _settle(self) -> None:
        # A task's reset moves bodies and the goal's marker in the model last; without this the first image and the
        # first state observation would still show them where they were.
        import mujoco

        mujoco.mj_forward(self._simulator.model, self._simulator.data)
        self._simulator._prev_obs = self._simulator._get_curr_obs_combined_no_goal()
        self._state = self._simulator._get_obs()


class _Snapshot:
    """The state of a simulator right after its construction, for a return to it.

    MetaWorld's tasks keep much between episodes: positions of bodies and sites in the model, flags and poses in
    attributes, and a first pass of ``reset`` that simulates from wherever the last episode ended. Any of it would make
    an episode depend on those before.
    """

    def __init__(self, simulator: Any) -> None:
        self._simulator = simulator
        kept = (bool, int, float, str, tuple, list, dict, np.ndarray, type(None))
        self._attributes = {
            name: copy.deepcopy(value)
            for name, value in vars(simulator).items()
            if isinstance(value, kept) and name != "spec"
        }
        model = simulator.model
        self._arrays = {
            name: array.copy()
            for name in dir(model)
            if not name.startswith(("__", *_CONSTANT_ARRAYS))
            and isinstance(array := getattr(model, name), np.ndarray)
            and array.flags.writeable
        }

    def restore(self) -> None:
        import mujoco

        simulator = self._simulator
        for name in vars(simulator).keys() - self._attributes.keys():
            if isinstance(vars(simulator)[name], (bool, int, float, np.ndarray)):
                delattr(simulator, name)
        vars(simulator).update(copy.deepcopy(self._attributes))
        for name, value in self._arrays.items():
            getattr(simulator.model, name)[...] = value
        mujoco.mj_resetData(simulator.model, simulator.data)
