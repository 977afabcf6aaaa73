"""How the people of the embedded data set spend their time: actions, paths, styles.

A `Mover` carries one person's state at the middle of the current frame. `points_at`
extrapolates it by fractions of a frame, which is what motion blur needs; `step` goes
on. Memory does not grow with the length of the video.
"""

import numpy as np

from data_pipelines import synthetic_body as sb

_BLEND_S = 0.28  # one action melts into the next in this time
_WEIGHTS = {
    "walk": 3.0,
    "run": 2.0,
    "wave": 1.5,
    "wave_right": 1.5,
    "jump": 1.4,
    "jack": 1.2,
    "box": 1.4,
    "stand": 0.8,
    "turn": 1.6,
}


def _wrap(degrees):
    return (degrees + 180.0) % 360.0 - 180.0


class Mover:
    """One person: a body, where it is, and what it is doing.

    Args:
      rng: the person's own generator; the motion is a function of it alone.
      half_width: the person turns round at this distance from X = 0; metres.
      depth_range: nearest and farthest Z; metres.
      crosses: start beside the picture and go across, walking or running only.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        half_width: float,
        depth_range: tuple[float, float],
        crosses: bool = False,
    ):
        self._rng = rng
        self._half_width, self._depth_range = half_width, depth_range
        self._crosses = crosses
        self.body = sb.sample_body(rng)
        self._time = 0.0
        self._style = rng.normal(0, 1, len(sb.ANGLES)) * 5.0
        self._sway_hz = rng.uniform(0.15, 0.7, len(sb.ANGLES))
        self._sway_phase = rng.uniform(0, 2 * np.pi, len(sb.ANGLES))
        self._sway_deg = rng.uniform(1.0, 6.0, len(sb.ANGLES))
        self._root = np.array(
            [rng.uniform(-0.8, 0.8) * half_width, rng.uniform(*depth_range)]
        )
        self._yaw = rng.uniform(-180, 180)
        self._yaw_rate = 0.0
        self._target = self._root
        if crosses:
            side = rng.choice([-1.0, 1.0])
            self._root[0] = side * half_width * rng.uniform(0.6, 1.1)
            self._target = self._new_target()
            self._yaw = self._bearing()
        self._current = self._previous = self._choose()
        self._blend = 1.0

    def _choose(self) -> dict:
        names = ["walk", "run"] if self._crosses else list(_WEIGHTS)
        weights = np.array([_WEIGHTS[name] for name in names])
        name = str(self._rng.choice(names, p=weights / weights.sum()))
        action = sb.ACTIONS[name]
        if action.speed[1]:
            self._target = self._new_target()
        return {
            "name": name,
            "action": action,
            "phase": self._rng.uniform(0, 2 * np.pi),
            "rate": 2 * np.pi * self._rng.uniform(*action.rate_hz),
            "speed": self._rng.uniform(*action.speed),
            "turn": action.turn_rate * self._rng.choice([-1.0, 1.0]),
            "look": self._rng.uniform(-75, 75),
            "left_s": self._rng.uniform(0.7, 2.2),
        }

    def _new_target(self) -> np.ndarray:
        side = -np.sign(self._root[0]) or 1.0
        reach = 1.4 if self._crosses else 1.0
        x = side * self._half_width * self._rng.uniform(0.5, reach)
        return np.array([x, self._rng.uniform(*self._depth_range)])

    def _bearing(self) -> float:
        """Yaw that looks at the target, degrees."""
        dx, dz = self._target - self._root
        return np.rad2deg(np.arctan2(dx, -dz))

    def _forward(self, yaw: np.ndarray) -> np.ndarray:
        a = np.deg2rad(yaw)
        return np.stack([np.sin(a), -np.cos(a)], -1)

    @property
    def action(self) -> str:
        """Name of what the person is doing now."""
        return self._current["name"]

    @property
    def depth(self) -> float:
        """Distance of the person's root from the camera along its axis, metres."""
        return float(self._root[1])

    def angles_at(self, offset_s: np.ndarray) -> np.ndarray:
        """[N] seconds from now -> [N, 21] degrees, inside the joint limits."""

        def of(state):
            return state["action"].angles(state["phase"] + state["rate"] * offset_s)

        weight = self._smooth(offset_s)[:, None]
        t = self._time + offset_s[:, None]
        sway = np.sin(2 * np.pi * self._sway_hz * t + self._sway_phase)
        angles = weight * of(self._current) + (1 - weight) * of(self._previous)
        angles = angles + self._style + self._sway_deg * sway
        return np.clip(angles, sb.ANGLE_LIMITS[:, 0], sb.ANGLE_LIMITS[:, 1])

    def points_at(self, offset_s: np.ndarray) -> np.ndarray:
        """[N] seconds from now, at most half a frame -> [N, points, 3] world metres."""
        yaw = self._yaw + self._yaw_rate * offset_s
        root = self._root + self._forward(yaw) * (self._speed() * offset_s)[:, None]
        return sb.forward_kinematics(
            self.body, self.angles_at(offset_s), root, yaw, self._lift(offset_s)
        )

    def _smooth(self, offset_s):
        u = np.clip(self._blend + offset_s / _BLEND_S, 0, 1)
        return u * u * (3 - 2 * u)

    def _speed(self) -> float:
        w = float(self._smooth(np.zeros(1))[0])
        return w * self._current["speed"] + (1 - w) * self._previous["speed"]

    def _lift(self, offset_s):
        w = self._smooth(offset_s)
        lift = np.zeros(len(offset_s))
        for state, weight in ((self._current, w), (self._previous, 1 - w)):
            phase = state["phase"] + state["rate"] * offset_s
            lift += weight * sb.lift_of(state["name"], phase)
        return lift

    def step(self, dt: float) -> None:
        """Goes on by `dt` seconds."""
        self._root = self._root + self._forward(self._yaw) * (self._speed() * dt)
        self._yaw += self._yaw_rate * dt
        self._time += dt
        self._blend = min(1.0, self._blend + dt / _BLEND_S)
        for state in {id(s): s for s in (self._current, self._previous)}.values():
            state["phase"] += state["rate"] * dt
            state["left_s"] -= dt
        if self._current["left_s"] <= 0 and self._blend >= 1.0:
            self._previous, self._current = self._current, self._choose()
            self._blend = 0.0
        now = self._current
        if now["turn"]:
            wanted = now["turn"]
        elif now["speed"]:
            if np.linalg.norm(self._target - self._root) < 0.6:
                self._target = self._new_target()
            wanted = np.clip(4 * _wrap(self._bearing() - self._yaw), -220, 220)
        else:
            wanted = np.clip(1.5 * _wrap(now["look"] - self._yaw), -60, 60)
        self._yaw_rate += float(np.clip(wanted - self._yaw_rate, -900 * dt, 900 * dt))

    def move_to(self, x: float) -> None:
        """Puts the person at this X, metres."""
        self._root = np.array([x, self._root[1]])
