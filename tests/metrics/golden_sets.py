"""Small sets with known scores: the fixtures of the poseval golden table, and G1.

The expected numbers were printed by poseval @4258a15 (numpy 2.4.6, motmetrics 1.4.0) and
by the PoseTrack21 kit @3e61960 on the same sets.
"""

import numpy as np
import pytest

from tdpose_jax.annotations import FrameLabel, PersonLabel, SequenceLabel
from tdpose_jax.skeleton import OFFICIAL_TO_SLOT, POSETRACK
from tdpose_jax.skeleton import POSETRACK_OFFICIAL_JOINTS as JOINTS

HEAD = np.array([0.0, 0.0, 30.0, 40.0])  # 0.6 * diagonal = 30 px, threshold 15 px


def person(
    track_id: int,
    ox: float = 0.0,
    oy: float = 0.0,
    score: float | None = None,
    without: tuple[int, ...] = (),
) -> PersonLabel:
    """Official joint i at (ox + 10 i, oy + 5 i); `without` lists missing joints."""
    xyv = np.zeros((17, 3))
    for i, slot in enumerate(OFFICIAL_TO_SLOT):
        if i not in without:
            xyv[slot] = ox + 10 * i, oy + 5 * i, 1
    scores = np.full(17, np.nan if score is None else score)
    return PersonLabel(xyv, scores, head_box_xyxy=HEAD, track_id=track_id)


def empty_person(track_id: int) -> PersonLabel:
    return person(track_id, without=tuple(range(15)))


def sequence(
    *frames: tuple[PersonLabel, ...],
    polygons: tuple[np.ndarray, ...] = (),
    name: str = "000001_mpii_test",
) -> SequenceLabel:
    return SequenceLabel(
        name,
        "posetrack",
        tuple(
            FrameLabel(f"images/val/{name}/{i:06d}.jpg", i, bool(f), f, polygons)
            for i, f in enumerate(frames)
        ),
    )


# nose, head_bottom, head_top, ears, shoulders, elbows, wrists, hips, knees, ankles
G1_OFFSETS = np.array(
    [(0, -90), (0, -70), (0, -115), (0, 0), (0, 0), (-25, -60), (25, -60), (-40, -30)]
    + [(40, -30), (-45, 0), (45, 0), (-15, 0), (15, 0), (-17, 45), (17, 45), (-18, 90)]
    + [(18, 90)],
    dtype=np.float64,
)


class Lcg:
    """x <- (1103515245 x + 12345) mod 2**31, u = x / 2**31."""

    def __init__(self):
        self.x = 1

    def __call__(self) -> float:
        self.x = (1103515245 * self.x + 12345) % 2**31
        return self.x / 2**31


def g1() -> tuple[list[SequenceLabel], list[SequenceLabel], Lcg]:
    """Ground truth, predictions, and the generator in its final state."""
    draw = Lcg()
    truth, guess = [], []
    for q in (0, 1):
        name = f"00000{q + 1}_mpii_test"
        frames_truth, frames_guess = [], []
        for t in range(12):
            persons, predicted = [], []
            for p in range(3):
                corner = np.array([500.0 + 300 * p + 6 * t, 500.0 + 4 * t + 50 * q])
                xyv = np.concatenate([corner + G1_OFFSETS, np.ones((17, 1))], axis=1)
                seen = [j for j in range(17) if j in (3, 4) or (j + p + t) % 7 == 0]
                xyv[seen] = 0
                x, y = corner + (-15, -120)
                head = np.array([x, y, x + 30, y + 50])
                label = PersonLabel(
                    xyv, np.full(17, np.nan), head_box_xyxy=head, track_id=p
                )
                if t % 4 != 3:
                    persons.append(label)
                if (q, t) == (1, 8) or (p + 2 * t + q) % 9 == 0:
                    continue
                draws = np.array([[draw(), draw(), draw()] for _ in range(17)])
                xy = corner + G1_OFFSETS + 34 * (draws[:, :2] - 0.5)
                xyv = np.concatenate([xy, np.ones((17, 1))], axis=1)
                track_id = p + 10 if p == 1 and t >= 6 else p
                predicted.append(PersonLabel(xyv, draws[:, 2], track_id=track_id))
            if t % 3 == 1:
                xy = np.array([2000.0, 500.0]) + G1_OFFSETS
                xyv = np.concatenate([xy, np.ones((17, 1))], axis=1)
                scores = np.array([draw() for _ in range(17)])
                predicted.append(PersonLabel(xyv, scores, track_id=50))
            corners = np.array([[700, 300], [835, 300], [835, 800], [700, 800.0]])
            polygons = (corners,) if t == 5 else ()
            image = f"images/val/{name}/{t:06d}.jpg"
            image_id = 10**10 + (q + 1) * 10**4 + t
            frames_truth.append(
                FrameLabel(image, image_id, t % 4 != 3, tuple(persons), polygons)
            )
            frames_guess.append(FrameLabel(image, image_id, True, tuple(predicted)))
        truth.append(SequenceLabel(name, "posetrack", tuple(frames_truth)))
        guess.append(SequenceLabel(name, "posetrack", tuple(frames_guess)))
    assert len(POSETRACK.joints) == 17
    return truth, guess, draw


def expect(values: dict, joint: float, exceptions: dict | None = None) -> None:
    """Every joint has the value `joint`, except official ids listed in `exceptions`."""
    expected = {i: joint for i in range(15)} | (exceptions or {})
    for i, name in enumerate(JOINTS):
        assert values[name] == pytest.approx(expected[i], abs=1e-9, nan_ok=True), name
