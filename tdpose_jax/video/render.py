"""Finished frames drawn over their video: H.264 in .mp4, yuv420p, plays in a browser."""

import collections
import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from tdpose_jax.skeleton import Skeleton
from tdpose_jax.video.decode import Frame, Source
from tdpose_jax.video.journal import Frames
from tdpose_jax.video.poses import FramePoses
from tdpose_jax.visualize import limb_color

TICKS = 90_000  # per second; fine enough for any frame rate
MIN_JOINT_SCORE = 0.2  # weaker joints are not drawn
TRAIL_FRAMES = 20
PREVIEW_HEIGHT = 480
# One colour per identity, distinct on skin, grass and gym floors; RGB.
PALETTE = (
    "#e6194b #3cb44b #ffe119 #4363d8 #f58231 #911eb4 #42d4f4 #f032e6 #bfef45 #fabed4 "
    "#469990 #dcbeff #9a6324 #fffac8 #aaffc3"
).split()


def hex_to_rgb(color: str) -> tuple[int, int, int]:
    """`#rrggbb` -> (red, green, blue), 0..255."""
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def identity_color(identity: int) -> str:
    """The colour of an identity, `#rrggbb`; they repeat after the palette's end."""
    return PALETTE[identity % len(PALETTE)]


def with_pictures(
    source: Source, frames: Frames
) -> Iterator[tuple[FramePoses, np.ndarray]]:
    """(people, image RGB) of every finished frame, decoding the source once more."""
    finished = frames()
    people = next(finished, None)
    for frame in source.frames():
        if people is None:
            return
        if frame.index == people.index:
            yield people, _picture(frame)
            people = next(finished, None)


def _picture(frame: Frame) -> np.ndarray:
    return frame.image_rgb


class VideoWriter:
    """An .mp4 with the frames' own times.

    Args:
      path: target; whole or absent.
      size_hw: of the pictures; other sizes are fitted into it.
      frame_rate: nominal.
      crf: x264's quality; keyframe_every: pictures between two that can be sought.
    """

    def __init__(self, path, size_hw, frame_rate, crf=21, keyframe_every=50):
        import av

        self._path, self._partial = path, path.with_name(f".{path.name}.partial.mp4")
        # yuv420p halves both sides.
        self._size_hw = tuple(s + s % 2 for s in size_hw)
        self._container = av.open(
            str(self._partial), "w", options={"movflags": "+faststart"}
        )
        rate = Fraction(frame_rate).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate)
        self._stream.height, self._stream.width = self._size_hw
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.options = {
            "crf": str(crf),
            "preset": "veryfast",
            # With it x264's AVX-512 code makes another file of the same pictures in
            # every second try (PyAV 18.1, Zen 5; not with asm=avx2).
            "x264-params": "mbtree=0",
            "g": str(keyframe_every),
        }
        self._first_s, self._last_pts = None, -1

    def write(self, image_rgb: np.ndarray, time_s: float) -> None:
        """Adds an RGB picture [H, W, 3] uint8, shown from `time_s` seconds on."""
        import av

        if self._first_s is None:
            self._first_s = time_s
        picture = av.VideoFrame.from_ndarray(fit(image_rgb, self._size_hw), "rgb24")
        # Equal times occur in damaged files; the container wants them rising.
        pts = max(round((time_s - self._first_s) * TICKS), self._last_pts + 1)
        picture.pts, picture.time_base = pts, Fraction(1, TICKS)
        self._last_pts = pts
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Ends the video and gives it its name; before that it is a partial file."""
        if self._first_s is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        os.replace(self._partial, self._path)


def fit(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The picture at the top left of one of the given size, reduced if it must be."""
    ratio = min(1.0, size_hw[0] / image.shape[0], size_hw[1] / image.shape[1])
    if ratio < 1:
        size = (round(image.shape[1] * ratio), round(image.shape[0] * ratio))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    below, right = size_hw[0] - image.shape[0], size_hw[1] - image.shape[1]
    if below or right:
        # One missing row or column repeats its neighbour; more is black.
        kind = cv2.BORDER_REPLICATE if max(below, right) == 1 else cv2.BORDER_CONSTANT
        image = cv2.copyMakeBorder(image, 0, below, 0, right, kind)
    return np.ascontiguousarray(image)


def preview_size_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Even, at most `PREVIEW_HEIGHT` high."""
    ratio = min(1.0, PREVIEW_HEIGHT / size_hw[0])
    return tuple(max(2, 2 * round(s * ratio / 2)) for s in size_hw)


@dataclasses.dataclass
class Painter:
    """Draws people; keeps what trails need.

    Attributes:
      trails: draw where hands and feet (or all joints) have just been.
    """

    skeleton: Skeleton
    trails: bool = False

    def __post_init__(self):
        ends = [
            i
            for i in self.skeleton.evaluated
            if self.skeleton.joints[i].endswith(("wrist", "ankle"))
        ]
        self._trail_joints = ends or list(self.skeleton.evaluated)
        self._past: dict[int, collections.deque] = {}
        self._limbs = [
            (a, b, hex_to_rgb(limb_color(self.skeleton, (a, b))))
            for a, b in self.skeleton.limbs
            if {a, b} <= set(self.skeleton.evaluated)
        ]

    def draw(self, image_rgb: np.ndarray, people: FramePoses) -> np.ndarray:
        """A copy of the picture with the people on it."""
        image = image_rgb.copy()
        thickness = max(1, round(max(image.shape[:2]) / 480))
        if self.trails:
            self._draw_trails(image, people, thickness)
        for row in range(len(people)):
            self._draw_person(image, people, row, thickness)
        return image

    def _draw_person(self, image, people, row, thickness) -> None:
        xy = people.keypoints_xy_image[row]
        shown = people.keypoint_score[row] >= MIN_JOINT_SCORE
        color = hex_to_rgb(identity_color(int(people.track_id[row])))
        x, y, w, h = people.person_box_xywh[row]
        cv2.rectangle(image, _pixel(x, y), _pixel(x + w, y + h), color, 1, cv2.LINE_AA)
        for a, b, limb in self._limbs:
            if shown[a] and shown[b]:
                cv2.line(image, _pixel(*xy[a]), _pixel(*xy[b]), limb, thickness, 16)
        for k in self.skeleton.evaluated:
            if shown[k]:
                cv2.circle(image, _pixel(*xy[k]), thickness + 1, color, -1, 16)
        label = f"{int(people.track_id[row])}  {people.box_score[row]:.2f}"
        self._draw_label(image, label, (x, y), color, thickness)

    def _draw_label(self, image, label, xy, color, thickness) -> None:
        scale = 0.3 + 0.12 * thickness
        font = cv2.FONT_HERSHEY_SIMPLEX
        (w, h), base = cv2.getTextSize(label, font, scale, 1)
        left = int(np.clip(xy[0], 0, max(0, image.shape[1] - w - 4)))
        bottom = int(np.clip(xy[1], h + base + 2, image.shape[0]))
        cv2.rectangle(
            image, (left, bottom - h - base - 2), (left + w + 4, bottom), color, -1
        )
        ink = (0, 0, 0) if sum(color) > 330 else (255, 255, 255)
        at = (left + 2, bottom - base)
        cv2.putText(image, label, at, font, scale, ink, 1, cv2.LINE_AA)

    def _draw_trails(self, image, people, thickness) -> None:
        for row, identity in enumerate(people.track_id.tolist()):
            past = self._past.setdefault(
                identity, collections.deque(maxlen=TRAIL_FRAMES)
            )
            seen = people.keypoint_score[row] >= MIN_JOINT_SCORE
            past.append((people.time_s, people.keypoints_xy_image[row], seen))
        newest = people.time_s
        for identity in list(self._past):
            past = self._past[identity]
            if newest - past[-1][0] > 1.0:
                del self._past[identity]
                continue
            color = np.array(hex_to_rgb(identity_color(identity)), float)
            for age, (old, new) in enumerate(
                zip(list(past)[:-1], list(past)[1:], strict=True),
                TRAIL_FRAMES - len(past),
            ):
                strength = (age + 1) / TRAIL_FRAMES
                for k in self._trail_joints:
                    if old[2][k] and new[2][k]:
                        a, b = _pixel(*old[1][k]), _pixel(*new[1][k])
                        # Fading by colour: blending every segment would cost a copy.
                        ink = tuple((color * strength + 40 * (1 - strength)).tolist())
                        cv2.line(image, a, b, ink, thickness, cv2.LINE_AA)


def _pixel(x: float, y: float) -> tuple[int, int]:
    # OpenCV's coordinates are 16 bit where it draws antialiased.
    return tuple(int(v) for v in np.clip(np.round((x, y)), -20_000, 20_000))


def render(
    source: Source,
    frames: Frames,
    skeleton: Skeleton,
    overlay: Path,
    preview: Path,
    trails: bool = False,
    progress=lambda done: None,
) -> bool:
    """Writes the overlay, and the plain reduced copy that the report draws on.

    Args:
      progress: called with the number of frames done.

    Returns:
      False if there was no finished frame, and nothing was written.
    """
    times = [p.time_s for p, _ in zip(frames(), range(30), strict=False)]
    steps = np.diff(times)
    steps = steps[steps > 0]
    frame_rate = float(np.clip(1 / np.median(steps), 1, 240)) if len(steps) else 25.0
    painter, writers = Painter(skeleton, trails), None
    for done, (people, image) in enumerate(with_pictures(source, frames), start=1):
        if writers is None:
            size = image.shape[:2]
            small = preview_size_hw(size)
            writers = (
                VideoWriter(overlay, size, frame_rate),
                # Scrubbing jumps: a picture to start from twice a second.
                VideoWriter(
                    preview, small, frame_rate, 27, max(1, round(frame_rate / 2))
                ),
            )
        writers[0].write(painter.draw(image, people), people.time_s)
        reduced = cv2.resize(
            fit(image, size), small[::-1], interpolation=cv2.INTER_AREA
        )
        writers[1].write(reduced, people.time_s)
        progress(done)
    for writer in writers or ():
        writer.close()
    return writers is not None
