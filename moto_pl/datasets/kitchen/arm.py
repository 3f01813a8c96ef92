"""A scripted arm for Franka Kitchen: it operates each of the seven objects, from wherever the last one left it.

The script reads the simulator's state but acts only through the environment's actions, joint velocities in [-1, 1]. For
each object it walks along waypoints that are placed relative to the object's own sites, so that it finds the object
wherever it is. Inverse kinematics with the simulator's Jacobians turns a waypoint into joint angles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from moto_pl.envs import KITCHEN_OBJECTS
from moto_pl.envs.kitchen import KitchenEnv

MAX_STEP = 0.16
"""Radians (metres for the fingers) by which a full action moves a joint's commanded position in one step."""
JITTER = 0.005
"""Metres, a standard deviation, by which waypoints stray where the object allows it."""
ARM = 7
TOOL = 0.03
"""Metres from the simulator's end-effector site to the point between the finger pads."""
OPEN, CLOSED = 0.04, 0.0
APPROACH_STEPS, APPROACHED = 30, 0.2
"""Steps after which an approach gives up, and radians of the worst joint within which its posture is reached."""
ATTEMPTS = 3
"""Times that an object is tried before the next one."""
# How much of a commanded change the slow joint motors have made at the end of a step is about half.
GAIN = 1.7
# The intersection of the model's joint ranges and the controller's, a little inside.
LOWER = np.array([-2.88, -1.75, -2.88, -3.05, -2.88, 0.02, -2.88])
UPPER = np.array([2.88, 1.75, 2.88, -0.42, 2.88, 2.10, 2.88])

Point = np.ndarray
Actions = Iterator[np.ndarray]


def orientation(direction: Sequence[float], roll: float = 0.0) -> np.ndarray:
    """The hand's orientation as a 3x3 matrix.

    Args:
        direction: where the hand points; it need not be of unit length.
        roll: radians about that direction; at 0 the fingers open horizontally.
    """
    z = np.asarray(direction, float) / np.linalg.norm(direction)
    y = np.cross(z, [0.0, 0.0, 1.0])
    y /= np.linalg.norm(y)
    x = np.cross(y, z)
    turned = math.cos(roll) * y - math.sin(roll) * x
    return np.stack([np.cross(turned, z), turned, z], axis=1)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Axis times angle (radians) of a rotation matrix, for angles below pi."""
    skew = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    sine = np.linalg.norm(skew) / 2
    angle = math.atan2(sine, (np.trace(matrix) - 1) / 2)
    return skew / 2 if sine < 1e-9 else skew * (angle / (2 * sine))


# Joint angles near which the arm likes to be at each object: the elbow low and to the right, out of the way.
POSTURE = {
    "microwave": [-1.1, -1.7, 1.8, -1.7, -0.5, 1.4, 2.4],
    "kettle": [-0.9, -1.7, 2.0, -2.1, 0.1, 1.1, 2.1],
    "bottom burner": [-1.2, -1.65, 1.4, -2.2, -0.2, 1.75, 1.9],
    "top burner": [-1.3, -1.65, 1.3, -2.2, -0.1, 1.85, 1.9],
    "light switch": [-1.3, -1.65, 1.25, -2.1, 0.0, 1.8, 2.0],
    "slide cabinet": [-1.7, -1.5, 0.9, -2.1, 0.0, 2.0, 1.5],
    "hinge cabinet": [-1.3, -1.7, 0.8, -2.1, 0.0, 1.8, 1.7],
}


class KitchenArm:
    """The script.

    Args:
        env: the kitchen, whose simulator is read and never written.
        rng: draws the variant of each approach and how each waypoint strays.
        jitter: standard deviation in metres by which waypoints stray where the object allows it.
    """

    def __init__(
        self,
        env: KitchenEnv,
        rng: np.random.Generator,
        jitter: float = JITTER,
    ) -> None:
        # Not above: MuJoCo must not be imported before a rendering backend is chosen, as the environment does.
        import mujoco

        model, data = env.model, env.data
        self._env, self._model, self._data, self._rng, self._jitter = env, model, data, rng, jitter
        self._scratch = mujoco.MjData(model)
        self._site = model.site("end_effector").id
        self._stiffness = model.actuator_gainprm[:ARM, 0]
        self._posture = np.array(POSTURE["kettle"])
        self._grip = OPEN
        self._joints = data.qpos[:ARM].copy()
        # What is commanded of the hand; it runs ahead of where the hand is.
        self._point, self._turn = self.tool()

    # Where things are

    def tool(self) -> tuple[Point, np.ndarray]:
        """The point between the finger pads, and the hand's orientation ``[3, 3]``: x, finger axis, direction."""
        turn = self._data.site_xmat[self._site].reshape(3, 3).copy()
        return self._data.site_xpos[self._site] + TOOL * turn[:, 2], turn

    def site(self, name: str) -> Point:
        """Where a site is now."""
        return np.array(self._data.site(name).xpos)

    def in_place(self, name: str) -> bool:
        """Whether an object is in its right configuration now."""
        return bool(self._env.all_in_place()[KITCHEN_OBJECTS.index(name)])

    def joint(self, name: str) -> float:
        """The position of a hinge or slide now."""
        return float(self._data.joint(name).qpos[0])

    def around_hinge(self, joint: str, point: Point, angle: float) -> Point:
        """Where a point fixed to a hinged door goes when the door turns by ``angle`` (radians) more."""
        index = self._model.joint(joint).id
        anchor, axis = self._data.xanchor[index], self._data.xaxis[index]
        return anchor + _rotation(axis, angle) @ (point - anchor)

    # How the arm moves

    def move(
        self,
        point: Callable[[], Point] | Point,
        turn: Callable[[], np.ndarray] | np.ndarray,
        grip: float,
        steps: int,
        speed: float = 0.06,
        tolerance: float = 0.02,
        until: Callable[[], bool] | None = None,
        patience: int = 4,
    ) -> Actions:
        """Actions that bring the tool to a point.

        Args:
            point: where to, in metres; a function is asked at each step.
            turn: the hand's orientation there.
            grip: opening of each finger in metres.
            steps: give up after so many.
            speed: metres a step.
            tolerance: metres within which the point is reached.
            until: stop as soon as this holds; reaching the point does not stop then.
            patience: steps in a row without getting anywhere after which to give up.
        """
        stalled, before = 0, self.tool()[0]
        for _ in range(steps):
            goal = point() if callable(point) else point
            goal_turn = turn() if callable(turn) else turn
            here, turned = self.tool()
            if until is not None:
                if until():
                    self._point, self._turn = here, turned
                    return
            elif (
                np.linalg.norm(goal - here) < tolerance and np.linalg.norm(rotation_vector(goal_turn @ turned.T)) < 0.3
            ):
                return
            stalled = stalled + 1 if np.linalg.norm(here - before) < 0.003 else 0
            if stalled > patience:
                return
            before = here
            # The command runs ahead of the hand, but not far: what holds the hand up holds the command up.
            self._point = here + _shortened(self._point - here, 0.07)
            self._point = self._point + _shortened(goal - self._point, speed)
            lag = rotation_vector(self._turn @ turned.T)
            self._turn = _rotation_by(_shortened(lag, 0.4)) @ turned
            step = _shortened(rotation_vector(goal_turn @ self._turn.T), 0.16)
            self._turn = _rotation_by(step) @ self._turn
            yield self._towards(self._point, self._turn, grip)

    def hold(self, grip: float, steps: int) -> Actions:
        """Actions that keep the hand where it is and move the fingers."""
        for _ in range(steps):
            yield self._towards(self._point, self._turn, grip)

    def approach(self, point: Point, turn: np.ndarray, grip: float) -> Actions:
        """Actions that bring the tool near a point, all joints moving evenly to a solution in the object's posture.

        The way from one object to the next is long, and along a straight path of the hand the joints would run into
        their limits.

        Args:
            point: where to, in metres.
            turn: the hand's orientation there.
            grip: opening of each finger in metres.
        """
        self._joints = self._posture.copy()
        goal = self._solve(point - TOOL * turn[:, 2], turn, iterations=60)
        for _ in range(APPROACH_STEPS):
            if np.abs(goal - self._data.qpos[:ARM]).max() < APPROACHED:
                break
            yield self._act(goal, grip)
        self._joints = self._data.qpos[:ARM].copy()
        self._point, self._turn = self.tool()
        yield from self.move(point, turn, grip, 10, tolerance=0.025)

    def _towards(self, point: Point, turn: np.ndarray, grip: float) -> np.ndarray:
        self._joints = self._solve(point - TOOL * turn[:, 2], turn)
        return self._act(self._joints, grip)

    def _act(self, joints: np.ndarray, grip: float) -> np.ndarray:
        q = self._data.qpos[: ARM + 2]
        action = np.zeros(ARM + 2)
        self._grip = grip
        sag = self._data.qfrc_bias[:ARM] / self._stiffness
        change = GAIN * (joints - q[:ARM])
        # All joints slowed alike, so that the hand keeps to its path where one of them cannot keep up.
        change /= max(1.0, np.abs(change).max() / (0.95 * MAX_STEP))
        action[:ARM] = (change + sag) / MAX_STEP
        action[ARM:] = (grip - q[ARM:]) / MAX_STEP * (3.0 if grip < 0.5 * OPEN else 1.5)
        return np.clip(action, -1.0, 1.0)

    def _solve(self, position: Point, turn: np.ndarray, iterations: int = 12) -> np.ndarray:
        """Joint angles ``[7]`` for a pose of the end-effector site: damped least squares from the last solution."""
        import mujoco

        model, scratch = self._model, self._scratch
        q = self._joints.copy()
        scratch.qpos[:] = self._data.qpos
        jacobian, spin = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        # A centimetre weighs as much as 3 hundredths of a radian: where both cannot be had, position comes first.
        weight = np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3])
        for _ in range(iterations):
            scratch.qpos[:ARM] = q
            mujoco.mj_kinematics(model, scratch)
            mujoco.mj_comPos(model, scratch)
            mujoco.mj_jacSite(model, scratch, jacobian, spin, self._site)
            now = scratch.site_xmat[self._site].reshape(3, 3)
            error = np.concatenate([position - scratch.site_xpos[self._site], rotation_vector(turn @ now.T)]) * weight
            j = np.concatenate([jacobian[:, :ARM], spin[:, :ARM]]) * weight[:, None]
            rest = 0.05 * (self._posture - q)
            inverse = j.T @ np.linalg.inv(j @ j.T + 1e-3 * np.eye(6))
            change = rest + inverse @ (error - j @ rest)
            q = np.clip(q + np.clip(change, -0.2, 0.2), LOWER, UPPER)
        return q

    # The objects

    def sequence(self, objects: Sequence[str]) -> Actions:
        """Actions, without end, that operate objects one after another and then wait with the hand away from them all.

        Args:
            objects: in which order; each is tried ``ATTEMPTS`` times before the next one, and at the end again until
                it is in place.
        """
        for name in objects:
            for _ in range(ATTEMPTS):
                yield from self.operate(name)
                if self.in_place(name):
                    break
        while True:
            for name in objects:
                if not self.in_place(name):
                    yield from self.operate(name)
            yield from self.hold(self._grip, 1)

    def operate(self, name: str) -> Actions:
        """Actions that bring one object into its right configuration, and the hand away from it afterwards."""
        self._posture = np.array(POSTURE[name])
        scripts: dict[str, Callable[[], Actions]] = {
            "microwave": self._microwave,
            "kettle": self._kettle,
            "bottom burner": lambda: self._burner("knob2_site", "knob_Joint_2"),
            "top burner": lambda: self._burner("knob4_site", "knob_Joint_4"),
            "light switch": self._light_switch,
            "slide cabinet": self._slide_cabinet,
            "hinge cabinet": self._hinge_cabinet,
        }
        return scripts[name]()

    def _stray(self, scale: float = 1.0) -> Point:
        return self._rng.normal(0.0, self._jitter * scale, 3)

    def _retreat(self, steps: int = 8, distance: float = 0.1, grip: float = OPEN) -> Actions:
        here, turn = self.tool()
        yield from self.move(here - distance * turn[:, 2], turn, grip, steps, tolerance=0.03)

    def _microwave(self) -> Actions:
        grasp = self.site("microhandle_site") + [0.0, 0.0, self._rng.uniform(0.06, 0.09)]
        hand = orientation([self._rng.uniform(-0.35, -0.15), 0.95, -0.08])
        yield from self.approach(grasp + [0.03, -0.16, 0.03] + self._stray(), hand, OPEN)
        yield from self.move(grasp + [0.0, 0.02, 0.0] + self._stray(0.5), hand, OPEN, 14, speed=0.04, tolerance=0.015)
        yield from self.hold(CLOSED, 3)
        goal = -self._rng.uniform(0.6, 0.85)
        start = self.joint("microwave")

        def ahead() -> Point:
            handle = self.site("microhandle_site") + [0.0, 0.0, grasp[2] - self.site("microhandle_site")[2]]
            return self.around_hinge("microwave", handle, -0.25)

        def turn() -> np.ndarray:
            return _rotation(np.array([0.0, 0.0, 1.0]), 0.35 * (start - self.joint("microwave"))) @ hand

        def lost() -> bool:
            return bool(np.linalg.norm((self.tool()[0] - self.site("microhandle_site"))[:2]) > 0.12)

        yield from self.move(
            ahead, turn, CLOSED, 30, speed=0.04, until=lambda: self.joint("microwave") < goal or lost()
        )
        yield from self.hold(OPEN, 3)
        yield from self._retreat()
        # To the right, past the door's edge: the way ahead leads through the door otherwise, and closes it.
        here, hand = self.tool()
        yield from self.move(here + [0.2, -0.03, 0.05], hand, OPEN, 8, speed=0.08, tolerance=0.06)

    def _kettle(self) -> Actions:
        hand = orientation([self._rng.uniform(0.2, 0.4), 0.9, -0.15])

        def post() -> Point:
            return self._data.geom_xpos[self._post]

        grasp = post().copy()
        here, turn = self.tool()
        if here[2] > 2.0 and here[1] > 0.25:
            # From above the way down leads through the kettle: back first.
            yield from self.move(np.array([here[0], 0.2, here[2] - 0.1]), turn, OPEN, 10, tolerance=0.08)
        yield from self.approach(grasp + [-0.05, -0.14, 0.03] + self._stray(), hand, OPEN)
        yield from self.move(grasp + [0.0, 0.02, 0.0] + self._stray(0.5), hand, OPEN, 14, speed=0.04)
        yield from self.hold(CLOSED, 3)
        goal = np.array([self._rng.uniform(-0.24, -0.2), self._rng.uniform(0.68, 0.75), 1.67])

        def kettle() -> Point:
            return np.array(self._data.body("kettleroot").xpos)

        def carry() -> Point:
            # It swings in the grasp: the hand leads it by where the kettle is and not by where the hand is. To the side
            # first, because the microwave's corner is in the way of the spout.
            left = goal - kettle()
            return self.tool()[0] + np.array([1.5 * left[0], left[1], left[2]])

        def lost() -> bool:
            return bool(np.linalg.norm(self.tool()[0] - post()) > 0.15)

        yield from self.move(grasp + [0.03, 0.02, 0.08], hand, CLOSED, 7, speed=0.04)
        yield from self.move(carry, hand, CLOSED, 24, speed=0.05, until=lambda: kettle()[1] > goal[1] - 0.03 or lost())
        here, _ = self.tool()
        # Down again until it stands, and the hand clear of the handle above it.
        yield from self.move(np.array([*here[:2], grasp[2] - 0.01]), hand, CLOSED, 8, speed=0.04)
        yield from self.hold(OPEN, 3)
        yield from self._retreat(12, 0.2)

    @property
    def _post(self) -> int:
        body = self._model.body("kettleroot").id
        posts = [
            g for g in range(self._model.ngeom) if self._model.geom_bodyid[g] == body and self._model.geom_contype[g]
        ]
        return min(posts[:3], key=lambda g: self._data.geom_xpos[g][0])

    def _burner(self, site: str, joint: str) -> Actions:
        knob = self.site(site)
        pitch = 0.2
        roll = self._rng.uniform(-0.4, -0.1)
        hand = orientation([0.08, 1.0, pitch], roll)
        yield from self.approach(knob + [0.0, -0.14, -0.02] + self._stray(), hand, OPEN)
        yield from self.move(knob + [0.0, -0.03, 0.0], hand, OPEN, 14, speed=0.03, tolerance=0.012)
        yield from self.hold(CLOSED, 3)
        goal = -self._rng.uniform(0.75, 0.9)
        twisted = orientation([0.08, 1.0, pitch], roll + 2.2)
        yield from self.move(
            knob + [0.0, -0.03, 0.0], twisted, CLOSED, 22, until=lambda: self.joint(joint) < goal, patience=22
        )
        yield from self.hold(OPEN, 3)
        yield from self._retreat()

    def _light_switch(self) -> Actions:
        tip = self.site("light_site")
        # The closed fingers one above the other: side by side they are so thin that the switch slips past them.
        hand = orientation([0.1, 0.94, self._rng.uniform(0.1, 0.25)], self._rng.uniform(1.1, 1.5))
        start = tip + [0.075, 0.0, -0.005]
        yield from self.approach(start + [0.0, -0.14, -0.02] + self._stray(), hand, CLOSED)
        yield from self.move(start, hand, CLOSED, 14, speed=0.04, tolerance=0.015)
        done = -self._rng.uniform(0.5, 0.65)
        end = start + [-0.22, 0.01, 0.0]
        yield from self.move(end, hand, CLOSED, 18, speed=0.05, until=lambda: self.joint("light_switch") < done)
        yield from self._retreat(grip=CLOSED)

    def _slide_cabinet(self) -> Actions:
        # With the hinged door open next to it, the handle is reached from below.
        below = self.joint("right_hinge_cabinet") > 0.3
        height = self._rng.uniform(-0.14, -0.12) if below else self._rng.uniform(-0.1, 0.0)
        handle = self.site("slide_site") + [0.0, 0.0, height]
        hand = orientation([0.1, 0.8, 0.8] if below else [0.1, 0.8, 0.55])
        start = handle + [-0.06 if below else -0.08, 0.0, 0.0]
        before = start + ([0.0, -0.12, -0.18] if below else [-0.04, -0.15, -0.05])
        yield from self.approach(before + self._stray(), hand, CLOSED)
        yield from self.move(start + self._stray(0.5), hand, CLOSED, 14, speed=0.05)
        done = self._rng.uniform(0.2, 0.32)
        end = start + [0.4, 0.0, 0.0]
        yield from self.move(end, hand, CLOSED, 25, until=lambda: self.joint("slide_cabinet") > done)
        here, turn = self.tool()
        yield from self.move(here + [0.0, -0.08, -0.2], turn, CLOSED, 8, tolerance=0.06)

    def _hinge_cabinet(self) -> Actions:
        height = self._rng.uniform(-0.1, -0.04)
        grasp = self.site("hinge_site2") + [0.0, 0.0, height]
        hand = orientation([-0.1, 0.85, 0.4])
        yield from self.approach(grasp + [0.0, -0.15, -0.05] + self._stray(), hand, OPEN)
        yield from self.move(grasp + [0.0, 0.03, 0.0] + self._stray(0.5), hand, OPEN, 14, speed=0.04, tolerance=0.015)
        yield from self.hold(CLOSED, 3)
        goal = self._rng.uniform(1.28, 1.38)

        def ahead() -> Point:
            return self.around_hinge("right_hinge_cabinet", self.site("hinge_site2") + [0.0, 0.0, height], 0.25)

        def turn() -> np.ndarray:
            return _rotation(np.array([0.0, 0.0, 1.0]), 0.4 * self.joint("right_hinge_cabinet")) @ hand

        def lost() -> bool:
            return bool(np.linalg.norm(self.tool()[0] - self.site("hinge_site2") - [0.0, 0.0, height]) > 0.1)

        yield from self.move(
            ahead, turn, CLOSED, 45, speed=0.03, until=lambda: self.joint("right_hinge_cabinet") > goal or lost()
        )
        yield from self.hold(OPEN, 3)
        # Down, out of the way of the open door, before anything else.
        here, _ = self.tool()
        yield from self.move(here + [0.03, -0.06, -0.25], hand, OPEN, 10, tolerance=0.06)


def _shortened(vector: np.ndarray, length: float) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= length else vector * (length / norm)


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross


def _rotation_by(vector: np.ndarray) -> np.ndarray:
    angle = float(np.linalg.norm(vector))
    return np.eye(3) if angle < 1e-12 else _rotation(vector / angle, angle)
