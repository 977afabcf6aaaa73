"""Windows of neighbouring keyframes that share the backbone's work.

The naive window crops all its T frames with its own keyframe's box, so the backbone runs T
times per keyframe. Here a person's boxes are cut into segments, runs of keyframes that
share one crop; the backbone sees each frame of a segment once, and every window is made
from the shared stage features. A keyframe joins a segment if its own window differs from
the segment's crop by no more than a tolerance (`misfit`); with tolerance 0 only equal
boxes share, and the result is that of the naive window.

A segment serves one person per frame: two people in one crop would get one pose.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from tdpose_jax.backends import Backend
from tdpose_jax.geometry import (
    CropWindow,
    box_to_window,
    image_to_crop_affine,
    invert_affine,
)
from tdpose_jax.heatmaps import flip_heatmaps

_NO_FIT = 1e6  # cost of a pair that may not be matched


def misfit(own: CropWindow, shared: CropWindow) -> float:
    """How badly a shared crop replaces a person's own window; 0: it is the same.

    The largest of three: the centre's shift along x and along y, in sides of the shared
    crop, and the absolute logarithm of the ratio of sizes.
    """
    shift = np.subtract(own.center_xy_image, shared.center_xy_image)
    size_wh = np.array(shared.size_hw_image)[::-1]
    scale = np.log(own.size_hw_image[0] / shared.size_hw_image[0])
    return float(max(*np.abs(shift / size_wh), abs(scale)))


@dataclasses.dataclass(eq=False)
class SharedFrame:
    """One frame of a segment; `crop` until it is encoded, `features` from then on.

    Attributes:
      crop: [H, W, 3] uint8.
      features: what `encode` returned for it.
      mirrored: what `encode` returned for its mirror image, if that is wanted.
    """

    crop: np.ndarray | None
    features: Any = None
    mirrored: Any = None

    @property
    def is_encoded(self) -> bool:
        """Whether its features are there."""
        return self.features is not None


@dataclasses.dataclass(eq=False)
class _Segment:
    window: CropWindow
    image_to_crop: np.ndarray
    frames: dict[int, SharedFrame] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SharedWindow:
    """One person's window: T frames of a segment and its affine [2, 3]."""

    frames: tuple[SharedFrame, ...]
    crop_to_image: np.ndarray

    @property
    def is_encoded(self) -> bool:
        """Whether it can be decoded."""
        return all(frame.is_encoded for frame in self.frames)


def decode_shared(
    backend: Backend,
    windows: Sequence[SharedWindow],
    batch_size: int,
    flip_permutation: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """At most `batch_size` encoded windows -> the backend's results, [N, ...] each.

    Args:
      batch_size: of every call of the backend; the last window fills it up.
      flip_permutation: given, heatmaps are averaged with those of the mirror images.
    """
    filled = [*windows, *[windows[-1]] * (batch_size - len(windows))]
    out = dict(backend.decode_windows([[f.features for f in w.frames] for w in filled]))
    if flip_permutation is not None:
        mirrored = backend.decode_windows(
            [[f.mirrored for f in w.frames] for w in filled]
        )
        out["heatmaps"] = merge_flipped(
            out["heatmaps"], mirrored["heatmaps"], flip_permutation
        )
    return {name: values[: len(windows)] for name, values in out.items()}


def merge_flipped(
    heatmaps: np.ndarray, mirrored: np.ndarray, flip_permutation: Sequence[int]
) -> np.ndarray:
    """The mean of a clip's heatmaps and of those of its mirror image."""
    return 0.5 * (heatmaps + np.asarray(flip_heatmaps(mirrored, flip_permutation)))


class WindowSharing:
    """Segments of one video, keyframe by keyframe in time order.

    Args:
      encode: [N, H, W, 3] uint8 crops -> N features, any objects; N is `chunk`.
      crop_size_hw: height and width of the crop.
      box_enlarge: applied to boxes before cropping.
      tolerance: largest `misfit` of a keyframe in a segment.
      chunk: frames per call of `encode`; the last is filled up.
      mirror: also encode mirror images (flip test).

    Attributes:
      num_encoded: frames the backbone has seen, without mirror images and filling.
      num_segments, num_windows: so far.
    """

    def __init__(
        self,
        encode: Callable[[np.ndarray], Sequence[Any]],
        crop_size_hw: tuple[int, int],
        box_enlarge: float,
        tolerance: float,
        chunk: int,
        mirror: bool = False,
    ):
        self._encode = encode
        self._size_hw = crop_size_hw
        self._box_enlarge = box_enlarge
        self._tolerance = tolerance
        self._chunk = chunk
        self._mirror = mirror
        self._segments: list[_Segment] = []
        self._waiting: list[SharedFrame] = []
        self.num_encoded = self.num_segments = self.num_windows = 0

    def add(
        self,
        frame_numbers: Sequence[int],
        images_rgb: Sequence[np.ndarray],
        boxes_xywh: np.ndarray,
    ) -> list[SharedWindow]:
        """The windows of a keyframe's people; full chunks are encoded on the way.

        Args:
          frame_numbers: of the T frames in the video, the least not less than before;
            equal numbers are equal pictures.
          images_rgb: the T frames, [H, W, 3] uint8.
          boxes_xywh: [P, 4] image pixels.
        """
        first = min(frame_numbers)
        for segment in self._segments:
            for number in [n for n in segment.frames if n < first]:
                del segment.frames[number]
        # Without a frame in common a segment cannot save anything.
        self._segments = [s for s in self._segments if s.frames]
        windows = [
            box_to_window(box, self._size_hw, self._box_enlarge) for box in boxes_xywh
        ]
        chosen = self._match(windows)
        result = []
        for window, segment in zip(windows, chosen, strict=True):
            if segment is None:
                affine = image_to_crop_affine(window, self._size_hw)
                segment = _Segment(window, affine)
                self._segments.append(segment)
                self.num_segments += 1
            frames = tuple(
                self._frame(segment, number, image)
                for number, image in zip(frame_numbers, images_rgb, strict=True)
            )
            result.append(SharedWindow(frames, invert_affine(segment.image_to_crop)))
        self.num_windows += len(result)
        while len(self._waiting) >= self._chunk:
            self._encode_chunk()
        return result

    def finish(self, windows: Sequence[SharedWindow]) -> None:
        """Encodes what `windows` still lack, in chunks that may have to be filled up."""
        while not all(window.is_encoded for window in windows):
            self._encode_chunk()

    def _match(self, windows: list[CropWindow]) -> list[_Segment | None]:
        """For each person the open segment that fits best, each at most once."""
        chosen: list[_Segment | None] = [None] * len(windows)
        if not windows or not self._segments:
            return chosen
        cost = np.array(
            [[misfit(w, s.window) for s in self._segments] for w in windows]
        )
        allowed = cost <= self._tolerance
        rows, columns = linear_sum_assignment(np.where(allowed, cost, _NO_FIT))
        for row, column in zip(rows, columns, strict=True):
            if allowed[row, column]:
                chosen[row] = self._segments[column]
        return chosen

    def _frame(
        self, segment: _Segment, number: int, image_rgb: np.ndarray
    ) -> SharedFrame:
        if number not in segment.frames:
            size_wh = self._size_hw[::-1]
            crop = cv2.warpAffine(image_rgb, segment.image_to_crop, size_wh)
            frame = SharedFrame(crop)
            segment.frames[number] = frame
            self._waiting.append(frame)
        return segment.frames[number]

    def _encode_chunk(self) -> None:
        frames = self._waiting[: self._chunk]
        del self._waiting[: self._chunk]
        crops = np.zeros((self._chunk, *self._size_hw, 3), np.uint8)
        for i, frame in enumerate(frames):
            crops[i] = frame.crop
            frame.crop = None
        features = self._encode(crops)
        mirrored = self._encode(crops[..., ::-1, :]) if self._mirror else features
        for frame, own, mirror in zip(frames, features, mirrored, strict=False):
            frame.features = own
            frame.mirrored = mirror if self._mirror else None
        self.num_encoded += len(frames)
