"""Jointed 3-D people for the embedded data set: build, joint limits, actions, motion.

A body is a tree of rigid segments. A pose is 21 joint angles in degrees; `ACTIONS`
turns a phase into angles. What strings actions together is in `synthetic_motion`.

Frames of reference. Body: x to the person's left, y up, z forward; metres. World: X to
the right on screen, Y up from the ground, Z away from the camera; metres. Yaw 0 looks
at the camera, positive yaw turns the face to the right on screen.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

_TRUNK = ("torso_pitch", "torso_roll", "torso_twist", "head_yaw", "head_pitch")
_SIDE = (
    "shoulder_flex shoulder_abduct shoulder_rotate elbow_flex "
    "hip_flex hip_abduct knee_flex ankle_flex"
).split()
ANGLES = (
    *_TRUNK,
    *(f"left_{name}" for name in _SIDE),
    *(f"right_{name}" for name in _SIDE),
)
_INDEX = {name: i for i, name in enumerate(ANGLES)}
# in the order of _SIDE
_SIDE_LIMITS = [
    (-50, 170), (0, 160), (-70, 95), (0, 145), (-25, 110), (-5, 40), (0, 140), (-30, 25)
]  # fmt: skip
# [21, 2] degrees, what a healthy adult can do without effort
ANGLE_LIMITS = np.array(
    [(-20, 50), (-15, 15), (-35, 35), (-60, 60), (-30, 40)] + 2 * _SIDE_LIMITS,
    np.float64,
)

NODES = (
    "pelvis neck_base head_bottom head_center head_jaw head_top nose left_eye "
    "right_eye left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hand right_hand left_hip right_hip left_knee right_knee "
    "left_ankle right_ankle left_toe right_toe"
).split()
NODE = {name: i for i, name in enumerate(NODES)}
NUM_RING = 12  # points round the face
# After the nodes come the face's outline and the corners of the front and back patches.
FACE_RING = slice(len(NODES), len(NODES) + NUM_RING)
FRONT_PATCH = slice(FACE_RING.stop, FACE_RING.stop + 4)
BACK_PATCH = slice(FRONT_PATCH.stop, FRONT_PATCH.stop + 4)
NUM_POINTS = BACK_PATCH.stop

# (parent, child) pairs whose distance never changes, for each body
RIGID_SEGMENTS = tuple(
    (f"{side}_{a}", f"{side}_{b}")
    for side in ("left", "right")
    for a, b in (
        ("shoulder", "elbow"),
        ("elbow", "wrist"),
        ("hip", "knee"),
        ("knee", "ankle"),
    )
) + (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"))


@dataclasses.dataclass(frozen=True)
class Body:
    """Lengths in metres; `girth` multiplies the thickness of all but head and hands."""

    height: float
    girth: float
    shoulder: float  # half the distance between the shoulder joints
    hip: float  # half the distance between the hip joints
    torso: float
    thigh: float
    shin: float
    upper_arm: float
    forearm: float

    @property
    def cranium(self) -> float:
        """Radius of the skull, metres."""
        return 0.074 * self.height


def sample_body(rng: np.random.Generator) -> Body:
    """Draws an adult of 1.52 to 1.92 metres; equal `rng` states give equal bodies."""
    height = rng.uniform(1.52, 1.92)

    def part(fraction, spread=0.06):
        return height * fraction * rng.uniform(1 - spread, 1 + spread)

    return Body(
        height=height,
        girth=rng.uniform(0.85, 1.3),
        shoulder=part(0.115, 0.12),
        hip=part(0.056, 0.12),
        torso=part(0.285),
        thigh=part(0.243),
        shin=part(0.24),
        upper_arm=part(0.175),
        forearm=part(0.152),
    )


def _rotation(axis: str, degrees: np.ndarray) -> np.ndarray:
    """[N] degrees -> [N, 3, 3] about one axis, right-handed."""
    a = np.deg2rad(degrees)
    c, s = np.cos(a), np.sin(a)
    out = np.zeros((len(a), 3, 3))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    k = 3 - i - j
    out[:, k, k] = 1
    out[:, i, i], out[:, j, j] = c, c
    out[:, i, j], out[:, j, i] = -s, s
    return out


def forward_kinematics(
    body: Body, angles: np.ndarray, root_xz: np.ndarray, yaw: np.ndarray, lift
) -> np.ndarray:
    """World positions of all points.

    Args:
      body: whose lengths.
      angles: [N, 21] degrees in the order of `ANGLES`.
      root_xz: [N, 2] pelvis over the ground, world metres.
      yaw: [N] degrees.
      lift: [N] metres between the lowest foot and the ground.

    Returns:
      [N, NUM_POINTS, 3] world metres.
    """
    h = body.height
    angle = {name: angles[:, i] for i, name in enumerate(ANGLES)}
    points = np.zeros((len(angles), NUM_POINTS, 3))

    def put(name, origin, frame, offset):
        where = NODE[name] if isinstance(name, str) else name
        offset = np.asarray(offset, np.float64)
        if offset.ndim == 1:
            points[:, where] = origin + frame @ offset
        else:
            points[:, where] = origin[:, None] + np.einsum("nij,pj->npi", frame, offset)
        return points[:, where]

    root = _rotation("y", yaw)
    spine = root @ _rotation("x", angle["torso_pitch"])
    spine = spine @ _rotation("z", angle["torso_roll"])
    chest = spine @ _rotation("y", angle["torso_twist"])
    head = chest @ _rotation("y", angle["head_yaw"])
    head = head @ _rotation("x", angle["head_pitch"])

    pelvis = points[:, NODE["pelvis"]]
    base = put("neck_base", pelvis, spine, (0, body.torso, 0))
    neck = put("head_bottom", base, chest, (0, 0.035 * h, 0.006 * h))
    center = put("head_center", neck, head, (0, 0.096 * h, 0.012 * h))
    r = body.cranium
    put("head_jaw", center, head, (0, -0.5 * r, 0.22 * r))
    put("head_top", center, head, (0, r, 0))
    put("nose", center, head, (0, -0.22 * r, 1.04 * r))
    put("left_eye", center, head, (0.36 * r, 0.1 * r, 0.92 * r))
    put("right_eye", center, head, (-0.36 * r, 0.1 * r, 0.92 * r))
    turn = np.linspace(0, 2 * np.pi, NUM_RING, endpoint=False)
    ring = np.stack([0.72 * np.cos(turn), 0.78 * np.sin(turn) - 0.28], -1) * r
    depth = np.sqrt(np.clip(r**2 - (ring**2).sum(-1), 0.02 * r**2, None))
    put(FACE_RING, center, head, np.concatenate([ring, depth[:, None]], -1))
    w, up, out = 0.6 * body.shoulder, body.torso, 0.052 * h * body.girth
    for patch, z in ((FRONT_PATCH, out), (BACK_PATCH, -out)):
        corners = [(w, 0.9), (-w, 0.9), (-0.8 * w, 0.42), (0.8 * w, 0.42)]
        put(patch, pelvis, chest, [(x, y * up, z) for x, y in corners])

    for side, sign in (("left", 1.0), ("right", -1.0)):

        def a(name, side=side):
            return angle[f"{side}_{name}"]

        shoulder = put(
            f"{side}_shoulder", base, chest, (sign * body.shoulder, -0.01, 0)
        )
        arm = chest @ _rotation("x", -a("shoulder_flex"))
        arm = arm @ _rotation("z", sign * a("shoulder_abduct"))
        arm = arm @ _rotation("y", sign * a("shoulder_rotate"))
        elbow = put(f"{side}_elbow", shoulder, arm, (0, -body.upper_arm, 0))
        fore = arm @ _rotation("x", -a("elbow_flex"))
        wrist = put(f"{side}_wrist", elbow, fore, (0, -body.forearm, 0))
        put(f"{side}_hand", wrist, fore, (0, -0.05 * h, 0))
        hip = put(f"{side}_hip", pelvis, root, (sign * body.hip, 0, 0))
        leg = root @ _rotation("x", -a("hip_flex"))
        leg = leg @ _rotation("z", sign * a("hip_abduct"))
        knee = put(f"{side}_knee", hip, leg, (0, -body.thigh, 0))
        shin = leg @ _rotation("x", a("knee_flex"))
        ankle = put(f"{side}_ankle", knee, shin, (0, -body.shin, 0))
        foot = shin @ _rotation("x", -a("ankle_flex"))
        put(f"{side}_toe", ankle, foot, (0, -0.025 * h, 0.085 * h))

    points[:, :, 2] *= -1  # forward at yaw 0 is towards the camera
    feet = [NODE[f"{s}_{p}"] for s in ("left", "right") for p in ("ankle", "toe")]
    floor = points[:, feet, 1].min(1) - 0.03 * h
    points[:, :, 1] += (np.asarray(lift) - floor)[:, None]
    points[:, :, 0] += root_xz[:, None, 0]
    points[:, :, 2] += root_xz[:, None, 1]
    return points


def _angles(n: int, both: dict, left: dict, right: dict) -> np.ndarray:
    out = np.zeros((n, len(ANGLES)))
    for name in ("shoulder_abduct", "elbow_flex"):  # arms hang a little off the body
        out[:, [_INDEX[f"left_{name}"], _INDEX[f"right_{name}"]]] = 10.0
    for name, value in both.items():
        names = [name] if name in _INDEX else [f"left_{name}", f"right_{name}"]
        for one in names:
            out[:, _INDEX[one]] = value
    for side, values in (("left", left), ("right", right)):
        for name, value in values.items():
            out[:, _INDEX[f"{side}_{name}"]] = value
    return out


def _gait(phase, hip, hip_swing, knee, knee_swing, arm, elbow, pitch):
    def leg(p):
        swing = np.clip(np.cos(p), 0, None)
        return {
            "hip_flex": hip + hip_swing * np.sin(p),
            "knee_flex": knee + knee_swing * swing,
            "shoulder_flex": -arm * np.sin(p),
            "elbow_flex": elbow - 0.3 * arm * np.sin(p),
            "ankle_flex": 10 * np.sin(p),
            "hip_abduct": 2,
        }

    trunk = {"torso_pitch": pitch, "torso_twist": 0.25 * arm * np.sin(phase)}
    return _angles(len(phase), trunk, leg(phase), leg(phase + np.pi))


def _walk(phase):
    return _gait(phase, 6, 27, 6, 52, 28, 22, 3)


def _run(phase):
    return _gait(phase, 22, 46, 18, 88, 52, 88, 13)


def _wave(phase):
    arm = {
        "shoulder_abduct": 105 + 12 * np.sin(phase),
        "shoulder_rotate": 85,
        "elbow_flex": 62 + 48 * np.sin(phase),
    }
    return _angles(len(phase), {"hip_abduct": 4}, arm, {})


def _wave_right(phase):
    return _mirror(_wave(phase))


def _mirror(angles):
    out = angles.copy()
    n, k = len(_TRUNK), len(_SIDE)
    out[:, n : n + k], out[:, n + k :] = angles[:, n + k :], angles[:, n : n + k]
    return out


def _jump_parts(phase):
    u = phase / (2 * np.pi) % 1
    crouch = np.exp(-(((u - 0.22) / 0.11) ** 2)) + 0.6 * np.exp(
        -(((u - 0.78) / 0.08) ** 2)
    )
    flight = np.clip((u - 0.36) / 0.34, 0, 1)
    return crouch, 4 * flight * (1 - flight)


def _jump(phase):
    crouch, flight = _jump_parts(phase)
    both = {
        "torso_pitch": 30 * crouch,
        "hip_flex": 72 * crouch + 12 * flight,
        "knee_flex": 98 * crouch + 25 * flight,
        "ankle_flex": 20 * crouch - 25 * flight,
        "shoulder_flex": -38 * crouch + 150 * flight,
        "hip_abduct": 4,
    }
    return _angles(len(phase), both, {}, {})


def _jack(phase):
    s = 0.5 - 0.5 * np.cos(phase)
    both = {
        "shoulder_abduct": 15 + 130 * s,
        "hip_abduct": 2 + 24 * s,
        "elbow_flex": 12 + 10 * s,
        "knee_flex": 18 * np.sin(phase) ** 2,
        "hip_flex": 8 * np.sin(phase) ** 2,
    }
    return _angles(len(phase), both, {}, {})


def _box(phase):
    def arm(p):
        s = np.clip(np.sin(p), 0, None) ** 0.7
        return {
            "shoulder_flex": 42 + 48 * s,
            "shoulder_rotate": -10,
            "elbow_flex": 130 - 122 * s,
        }

    trunk = {
        "torso_pitch": 8,
        "torso_twist": -18 * np.sin(phase),
        "hip_flex": 14,
        "knee_flex": 24,
        "hip_abduct": 8,
    }
    return _angles(len(phase), trunk, arm(phase), arm(phase + np.pi))


def _stand(phase):
    trunk = {"torso_roll": 4 * np.sin(phase), "head_yaw": 22 * np.sin(0.7 * phase)}
    left = {"shoulder_flex": 25 + 30 * np.sin(phase), "elbow_flex": 70}
    return _angles(len(phase), trunk, left, {"hip_flex": 4, "knee_flex": 6})


def _turn(phase):
    return _gait(phase, 6, 12, 8, 25, 18, 35, 2)


@dataclasses.dataclass(frozen=True)
class Action:
    """A cyclic movement: [N] phase in radians -> [N, 21] degrees."""

    angles: Callable[[np.ndarray], np.ndarray]
    rate_hz: tuple[float, float]
    speed: tuple[float, float] = (0.0, 0.0)  # metres per second, along the facing
    turn_rate: float = 0.0  # degrees per second


ACTIONS = {
    "walk": Action(_walk, (0.8, 1.1), (1.0, 1.6)),
    "run": Action(_run, (1.3, 1.8), (2.3, 3.6)),
    "wave": Action(_wave, (1.0, 2.4)),
    "wave_right": Action(_wave_right, (1.0, 2.4)),
    "jump": Action(_jump, (0.7, 1.0)),
    "jack": Action(_jack, (0.9, 1.4)),
    "box": Action(_box, (1.2, 2.4)),
    "stand": Action(_stand, (0.2, 0.5)),
    "turn": Action(_turn, (0.8, 1.0), turn_rate=190.0),
}


def lift_of(action: str, phase: np.ndarray) -> np.ndarray:
    """[N] metres between the lower foot and the ground."""
    if action == "jump":
        return 0.42 * _jump_parts(phase)[1]
    return {"jack": 0.08, "run": 0.05}.get(action, 0.0) * np.sin(phase) ** 2
