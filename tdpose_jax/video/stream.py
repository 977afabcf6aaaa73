"""Frames in, poses out, with a bounded number of frames in memory.

A keyframe's people are cut out of its window as soon as the window is complete, so only
2 * window_delta + 1 frames are held, and the crops of one batch of the network.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tdpose_jax.video.decode import Frame
from tdpose_jax.video.poses import Boxes, FramePoses

if TYPE_CHECKING:
    from tdpose_jax.video.estimator import PoseEstimator

MOTION_MAP_HW = (24, 18)


@dataclasses.dataclass
class _Pending:
    """A keyframe whose people wait for the network."""

    frame: Frame  # without its picture
    image_size_hw: tuple[int, int]
    boxes: Boxes
    results: list  # one (xy, score, motion) per person, as they come


class PoseStream:
    """One pass over a source.

    Args:
      estimator: the network.
      find_boxes: keyframe -> its people.

    Attributes:
      max_frames, max_crops, max_pending: most ever held at once.
    """

    def __init__(
        self, estimator: "PoseEstimator", find_boxes: Callable[[Frame], Boxes]
    ):
        self._estimator = estimator
        self._find_boxes = find_boxes
        self._pending: collections.deque[_Pending] = collections.deque()
        self._crops: collections.deque = collections.deque()
        self._sharing = estimator.share_windows()
        self.max_frames = self.max_crops = self.max_pending = 0

    def run(
        self,
        frames: Iterable[Frame],
        start: int = 0,
        end: int | None = None,
        every: int = 1,
    ) -> Iterator[FramePoses]:
        """Yields every keyframe of range(start, end, every), in order."""
        delta = self._estimator.window_delta
        window: collections.deque[Frame] = collections.deque(maxlen=2 * delta + 1)
        keyframe = start
        for frame in frames:
            if frame.index < start - delta:
                continue
            window.append(frame)
            self.max_frames = max(self.max_frames, len(window))
            if frame.index == keyframe + delta:
                self._add(window, keyframe)
                keyframe += every
                yield from self._ready()
            if end is not None and (keyframe >= end or frame.index >= end + delta):
                break
        # The last frames have no followers: their windows repeat the last.
        last = window[-1].index if window else -1
        stop = last + 1 if end is None else min(end, last + 1)
        for index in range(keyframe, stop, every):
            self._add(window, index)
            yield from self._ready()
        while self._crops:
            self._run_batch()
        yield from self._ready()

    def _add(self, window: Iterable[Frame], keyframe: int) -> None:
        by_index = {frame.index: frame for frame in window}
        first, last = min(by_index), max(by_index)
        delta = self._estimator.window_delta
        key = by_index[keyframe]
        boxes = self._find_boxes(key)
        size_hw = key.image_rgb.shape[:2]
        numbers = [
            min(max(i, first), last)
            for i in range(keyframe - delta, keyframe + delta + 1)
        ]
        # A folder of photographs may change size: such neighbours do not help.
        shape = key.image_rgb.shape
        numbers = [
            i if by_index[i].image_rgb.shape == shape else keyframe for i in numbers
        ]
        clip = [by_index[i].image_rgb for i in numbers]
        light = dataclasses.replace(key, _image_rgb=None, _convert=None)
        pending = _Pending(light, size_hw, boxes, [])
        self._pending.append(pending)
        if self._sharing is None:
            for box in boxes.xywh:
                self._crops.append((pending, *self._estimator.crop(clip, box)))
        else:
            windows = self._sharing.add(numbers, clip, boxes.xywh)
            self._crops.extend((pending, window) for window in windows)
        self.max_pending = max(self.max_pending, len(self._pending))
        self.max_crops = max(self.max_crops, len(self._crops))
        size = self._estimator.batch_size
        while len(self._crops) >= size and self._is_encoded(size):
            self._run_batch()
        # Frames without people wait behind one with: do not let them pile up.
        if self._crops and len(self._pending) > 4 * size:
            self._run_batch()

    def _is_encoded(self, count: int) -> bool:
        """Whether the next windows can be decoded without encoding a part chunk."""
        return self._sharing is None or all(
            self._crops[i][1].is_encoded for i in range(count)
        )

    def _run_batch(self) -> None:
        size = min(self._estimator.batch_size, len(self._crops))
        rows = [self._crops.popleft() for _ in range(size)]
        if self._sharing is None:
            xy, score, motion = self._estimator.run_crops(
                np.stack([row[1] for row in rows]), np.stack([row[2] for row in rows])
            )
        else:
            windows = [window for _, window in rows]
            self._sharing.finish(windows)
            xy, score, motion = self._estimator.run_windows(windows)
        for i, (pending, *_) in enumerate(rows):
            maps = {name: values[i] for name, values in motion.items()}
            pending.results.append((xy[i], score[i], maps))

    def _ready(self) -> Iterator[FramePoses]:
        while self._pending and len(self._pending[0].results) == len(
            self._pending[0].boxes.xywh
        ):
            yield self._finish(self._pending.popleft())

    def _finish(self, pending: _Pending) -> FramePoses:
        frame, boxes, results = pending.frame, pending.boxes, pending.results
        num_keypoints = self._estimator.skeleton.num_keypoints
        names = results[0][2] if results else ()
        return FramePoses(
            index=frame.index,
            time_s=frame.time_s,
            name=frame.name,
            image_size_hw=pending.image_size_hw,
            track_id=np.full(len(results), -1, np.int64),
            keypoints_xy_image=np.array([r[0] for r in results], np.float32).reshape(
                -1, num_keypoints, 2
            ),
            keypoint_score=np.array([r[1] for r in results], np.float32).reshape(
                -1, num_keypoints
            ),
            person_box_xywh=boxes.xywh,
            box_score=boxes.score,
            motion=_small_maps({n: [r[2][n] for r in results] for n in names}),
            image_id=frame.index + 1 if boxes.image_id is None else boxes.image_id,
        )


def _small_maps(motion: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """[P, h, w] uint8 of at most `MOTION_MAP_HW`, scaled to the frame's largest value."""
    if not motion:
        return {}
    small = {
        name: np.stack([_reduce(m) for m in maps]) for name, maps in motion.items()
    }
    top = max(float(maps.max()) for maps in small.values())
    return {
        name: np.round(maps * (255 / max(top, 1e-12))).astype(np.uint8)
        for name, maps in small.items()
    }


def _reduce(values: np.ndarray) -> np.ndarray:
    h, w = values.shape
    size = (min(w, MOTION_MAP_HW[1]), min(h, MOTION_MAP_HW[0]))
    return cv2.resize(
        np.ascontiguousarray(values, np.float32), size, interpolation=cv2.INTER_AREA
    )
