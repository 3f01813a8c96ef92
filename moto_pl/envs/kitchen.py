"""Franka Kitchen from pixels: a nine-joint arm, seven objects, and a reward for those that are where they should be."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_TASKS, unknown_name
from moto_pl.envs.pixel import MujocoPixelEnv
from moto_pl.envs.rendering import Camera, MountedCamera, Quality
from moto_pl.errors import SettingError

PAPER_CAMERA = Camera(distance=1.86, lookat=(-0.3, 0.5, 2.0), azimuth=90.0, elevation=-60.0)
SIDE_CAMERA = Camera(distance=2.2, lookat=(-0.2, 0.5, 2.0), azimuth=70.0, elevation=-35.0)
"""Where gymnasium-robotics itself looks from. The scene's own two cameras do not see the arm."""
GRIPPER_CAMERA = MountedCamera("end_effector", distance=0.5, ahead=0.05, tilt=-35.0)
ACTION_SIZE, POSITIONS, VELOCITIES = 9, 30, 29
LAMP, LAMP_SHADE = "ovenlight", 18
SHADE_CLOSED, SHADE_OPEN = -0.010, -0.022
"""Positions of the lamp's shade between which its light comes through, metres. The lamp always burns, and the switch
moves the shade away: where no shadows are drawn, the lamp itself has to be dimmed to show whether it is on."""
STATE_SIZE = POSITIONS + VELOCITIES
"""Numbers in a state: the simulator's 30 positions (nine of the robot, 21 of the objects), then its 29 velocities (nine
and 20: the kettle is free, with a quaternion in its positions)."""


class KitchenEnv(MujocoPixelEnv):
    """Franka Kitchen (gymnasium-robotics' FrankaKitchen-v1), seen through a camera.

    Observation: ``{"image": uint8 [image_size, image_size, 3]}``, and where ``observe`` names them ``"side"``, an image
    of the same size from a lower place to the right, ``"gripper"``, one from the hand, which it shows from behind and
    above together with what it reaches for, ``"joints"``, float64 ``[9]``, the positions of the arm's seven
    joints and two fingers (radians and metres), and ``"state"``, float64 ``[59]``, all of the simulator's positions and
    velocities. Action: float32 ``[9]`` in [-1, 1]: velocities of the arm's seven joints and two fingers, in units of 2
    rad/s and 2 m/s, held for a step of 0.08 s. Reward: the number of the task's objects that are in their right
    configuration at the step's end. An object counts at every step at which it is in place, and no longer where it is
    moved away again. An episode is truncated after ``episode_steps`` steps and never terminates.

    ``info["completed"]`` is bool ``[objects]``, which are in place now, in the task's order;
    ``info["completed_ever"]`` the same for any step of the episode so far; ``info["success"]`` whether all are in place
    now; ``info["in_place"]`` bool ``[7]``, which of all objects are, in the order of ``moto_pl.envs.KITCHEN_OBJECTS``.

    Every episode begins in the same state. The controller reads the joints with a little noise, so that episodes of
    different seeds differ; an episode is a pure function of the seed and the actions.

    Args:
        objects: the task: which objects count, in this order; see ``moto_pl.envs.KITCHEN_OBJECTS``.
        image_size: height and width of each image in pixels.
        camera: what ``image`` is seen through: ``"paper"``, a camera of the scene by name, or a free camera
            (:class:`~moto_pl.envs.rendering.Camera`, or its fields as a mapping).
        render_quality: ``"fast"`` (no shadows, reflections, multisampling) or ``"full"``.
        episode_steps: steps in an episode.
        state: observe the simulator's state as well, for analysis, as ``observe`` with ``state`` does.
        joint_noise: 0.01 is the simulator's own: uniform within 0.001 rad (and 0.001 m for the fingers); 0 is none.
        render_mode: ``"rgb_array"`` or None.
        observe: what is observed: ``image``, ``side``, ``gripper``, ``joints`` and ``state``.

    Raises:
        SettingError: an unknown object or camera, an argument out of its range, or no working OpenGL.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}
    paper_camera = PAPER_CAMERA
    SCENE_CAMERAS = {"side": SIDE_CAMERA, "gripper": GRIPPER_CAMERA}
    CAMERAS = ("image", *SCENE_CAMERAS)
    VECTORS = {"joints": ACTION_SIZE, "state": STATE_SIZE}

    def __init__(
        self,
        objects: Sequence[str] = KITCHEN_TASKS["mixed"],
        image_size: int = 64,
        camera: Camera | Mapping[str, Any] | str = "paper",
        render_quality: Quality = "fast",
        episode_steps: int = 280,
        state: bool = False,
        joint_noise: float = 0.01,
        render_mode: str | None = None,
        observe: Sequence[str] = ("image",),
    ) -> None:
        self.objects = check_objects(objects)
        if not 0.0 <= joint_noise <= 1.0:
            raise SettingError("joint_noise", joint_noise, "Use a number from 0 to 1.")
        if state and "state" not in observe:
            observe = [*observe, "state"]
        super().__init__(ACTION_SIZE, image_size, episode_steps, render_mode, camera, render_quality, observe)
        import mujoco

        self._robot: Any = _simulator().KitchenEnv(robot_noise_ratio=joint_noise).robot_env
        self._unstable = (
            mujoco.mjtWarning.mjWARN_BADQPOS,
            mujoco.mjtWarning.mjWARN_BADQVEL,
            mujoco.mjtWarning.mjWARN_BADQACC,
        )
        lamp = self.model.light(LAMP)
        self._lamp = lamp.diffuse, lamp.specular, lamp.diffuse.copy(), lamp.specular.copy()
        self._counted = [KITCHEN_OBJECTS.index(name) for name in self.objects]
        self._ever = np.zeros(len(self.objects), bool)

    @property
    def model(self) -> Any:
        """The kitchen."""
        return self._robot.model

    @property
    def data(self) -> Any:
        """The kitchen's present state."""
        return self._robot.data

    @property
    def state(self) -> np.ndarray:
        """Positions and velocities of the simulator: float64 ``[59]``, a copy."""
        return np.concatenate([self.data.qpos, self.data.qvel])

    def objects_in_place(self) -> np.ndarray:
        """Which of the task's objects are in their right configuration now: bool ``[objects]``, in the task's order."""
        return self.all_in_place()[self._counted]

    def all_in_place(self) -> np.ndarray:
        """Which of all seven objects are: bool ``[7]``, in the order of ``moto_pl.envs.KITCHEN_OBJECTS``."""
        return objects_in_place(self.data.qpos)

    def set_state(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Put the simulator into a state, as if it had always been there; the episode's counts stay.

        Args:
            positions: the 30 positions, or all 59 numbers of ``state``.
            velocities: the 29 velocities; None is at rest, or those in ``positions``.

        Raises:
            SettingError: a wrong number of numbers, or one that is not finite; the simulator is left as it was.
        """
        import mujoco

        positions = np.asarray(positions, np.float64)
        if velocities is None and positions.shape == (STATE_SIZE,):
            positions, velocities = np.split(positions, [POSITIONS])
        velocities = np.zeros(VELOCITIES) if velocities is None else np.asarray(velocities, np.float64)
        if positions.shape != (POSITIONS,) or velocities.shape != (VELOCITIES,):
            found = f"positions {positions.shape} and velocities {velocities.shape}"
            raise SettingError("state", found, f"Give {POSITIONS} positions and {VELOCITIES} velocities.")
        values = np.concatenate([positions, velocities])
        # Beyond this MuJoCo takes a number for a failure of the simulation.
        bad = ~(np.abs(values) < mujoco.mjMAXVAL)
        if bad.any():
            place = int(bad.argmax())
            raise SettingError("state", f"{values[place]} at number {place}", "Give finite numbers of a real state.")
        mujoco.mj_resetData(self.model, self.data)  # no warm start or control from before
        self._robot.set_state(positions, velocities)
        self._robot._last_robot_qpos = positions[:ACTION_SIZE].copy()

    def _begin(self) -> None:
        self._robot.reset(seed=int(self.np_random.integers(2**31)))
        self._ever = np.zeros(len(self.objects), bool)

    def _first_info(self) -> dict[str, Any]:
        return self._info(self.all_in_place())

    def _simulate(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        """Apply the action for 0.08 s. A simulation that blows up is ``unstable``, and its step's reward is 0."""
        stable = self.advance(action)
        info = self._info(self.all_in_place() & stable)
        if not stable:
            info["unstable"] = True
        return float(info["completed"].sum()), info

    def advance(self, action: np.ndarray) -> bool:
        """The simulation of one step, without an image: several times faster than :meth:`step` in software rendering.

        Returns:
            Whether the simulation stayed stable; where it did not, MuJoCo has put everything back to its zero state.

        Raises:
            SettingError: the action is not finite or not of nine numbers.
        """
        self._robot.step(self._clipped(action))
        return not any(self.data.warning[kind].number for kind in self._unstable)

    def vector(self, name: str) -> np.ndarray:
        """The arm's joints and fingers, or the simulator's whole state."""
        return self.state if name == "state" else self.data.qpos[:ACTION_SIZE].copy()

    def view(self, name: str) -> np.ndarray:
        """See :meth:`PixelEnv.view`; nothing but the state decides the image."""
        import mujoco

        # A simulation step leaves the bodies where they were before its last, small integration.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        if self.render_quality == "fast":
            self._dim_lamp()
        return super().view(name)

    def close(self) -> None:
        """Free the renderer and the simulator."""
        super().close()
        self._robot.close()

    def _dim_lamp(self) -> None:
        diffuse, specular, full_diffuse, full_specular = self._lamp
        share = np.interp(-self.data.qpos[LAMP_SHADE], [-SHADE_CLOSED, -SHADE_OPEN], [0.0, 1.0])
        diffuse[:], specular[:] = share * full_diffuse, share * full_specular

    def _info(self, in_place: np.ndarray) -> dict[str, Any]:
        completed = in_place[self._counted]
        self._ever |= completed
        return {
            "in_place": in_place,
            "completed": completed,
            "completed_ever": self._ever.copy(),
            "success": bool(completed.all()),
        }


def objects_in_place(positions: np.ndarray) -> np.ndarray:
    """Which of the seven objects are in their right configuration: bool ``[..., 7]`` of positions ``[..., 30]``."""
    kitchen = _simulator()
    away = [
        positions[..., kitchen.OBS_ELEMENT_INDICES[name]] - kitchen.OBS_ELEMENT_GOALS[name] for name in KITCHEN_OBJECTS
    ]
    return np.stack([np.linalg.norm(difference, axis=-1) < kitchen.BONUS_THRESH for difference in away], axis=-1)


@functools.cache
def _simulator() -> Any:
    """gymnasium-robotics' module of the kitchen, without what it prints of its other robots when it is imported."""
    with contextlib.redirect_stderr(io.StringIO()):
        from gymnasium_robotics.envs.franka_kitchen import kitchen_env
    return kitchen_env


def check_objects(objects: Sequence[str]) -> tuple[str, ...]:
    """A task's objects by their names, ``light_switch`` for ``light switch`` allowed.

    Raises:
        SettingError: none, an unknown one, or one twice.
    """
    if isinstance(objects, str) or not objects:
        raise SettingError("objects", repr(objects), f"Give a list of one or more of {', '.join(KITCHEN_OBJECTS)}.")
    names = tuple(str(name).replace("_", " ") for name in objects)
    for name in names:
        if name not in KITCHEN_OBJECTS:
            raise unknown_name("objects", name, KITCHEN_OBJECTS, f"The objects are {', '.join(KITCHEN_OBJECTS)}.")
    if len(set(names)) < len(names):
        raise SettingError("objects", ", ".join(names), "Name each object once.")
    return names
