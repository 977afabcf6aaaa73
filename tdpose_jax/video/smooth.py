"""Optional smoothing of finished tracks: the One Euro filter.

Casiez, Roussel, Vogel, "1 Euro Filter", CHI 2012: a low-pass filter whose cut-off rises
with speed, so that a still joint does not tremble and a fast one does not lag. Speeds
are in body sizes per second (square root of the box's area), so that the same setting
suits near and far people.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from tdpose_jax.video.journal import Frames
from tdpose_jax.video.poses import FramePoses

MIN_CUTOFF_HZ = 2.0  # of a joint at rest
CUTOFF_PER_SPEED = 4.0  # Hz per (body size / s)
SPEED_CUTOFF_HZ = 1.0  # of the speed's own estimate, as in the paper
MAX_GAP_S = 0.5  # a longer absence starts the filter anew


@dataclasses.dataclass
class _State:
    time_s: float
    xy: np.ndarray
    speed: np.ndarray


def smoothed(frames: Frames) -> Frames:
    """The same frames with smoothed joints; scores and boxes are left alone."""

    def run() -> Iterator[FramePoses]:
        states: dict[int, _State] = {}
        for people in frames():
            states = {
                identity: state
                for identity, state in states.items()
                if people.time_s - state.time_s <= MAX_GAP_S
            }
            xy = people.keypoints_xy_image.copy()
            for row, identity in enumerate(people.track_id.tolist()):
                size = float(np.sqrt(people.person_box_xywh[row, 2:].prod()))
                state = states[identity] if identity in states else None
                states[identity] = _step(state, people.time_s, xy[row], size)
                xy[row] = states[identity].xy
            yield dataclasses.replace(people, keypoints_xy_image=xy)

    return run


def _step(state: _State | None, time_s: float, xy: np.ndarray, size: float) -> _State:
    if state is None or time_s <= state.time_s:
        return _State(time_s, xy.astype(np.float64), np.zeros_like(xy, np.float64))
    dt = time_s - state.time_s
    speed = state.speed + _weight(SPEED_CUTOFF_HZ, dt) * (
        (xy - state.xy) / dt - state.speed
    )
    relative = np.linalg.norm(speed, axis=-1, keepdims=True) / max(size, 1e-9)
    cutoff = MIN_CUTOFF_HZ + CUTOFF_PER_SPEED * relative
    return _State(time_s, state.xy + _weight(cutoff, dt) * (xy - state.xy), speed)


def _weight(cutoff_hz, dt: float):
    """Share of the new value in an exponential average."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff_hz * dt))
