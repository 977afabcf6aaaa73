"""One video of the embedded data set, frame by frame, with its true poses.

`render_frames` simulates people, camera and passing objects and yields pictures with
labels; memory does not grow with the length. Joint positions are those at the middle of
the exposure, in image pixels with integer coordinates at pixel centres.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from data_pipelines import synthetic_render as sr
from data_pipelines import synthetic_scenery as scenery
from data_pipelines.synthetic_labels import (
    LABELLED,
    SLOT_NODE,
    RenderedPerson,
    first_id,
    label_person,
)
from data_pipelines.synthetic_motion import Mover
from tdpose_jax.geometry import apply_affine

FRAMES_PER_SECOND = 25.0
_FRAME_S = 1 / FRAMES_PER_SECOND
_CAMERA_HEIGHT = 1.15  # metres
_HORIZON = 0.46  # fraction of the frame's height
_DISTANCE = 6.0  # metres; the size of people below is meant at this distance
_PERSON_FRACTION = 0.58  # of the frame's height, for 1.7 m
_DEPTH_RANGE = (5.0, 7.2)
_INSTANTS = 7  # drawn at most for one exposure
_MIDDLE = _INSTANTS // 2
_PASSER_ID = 1_000_000
_FLYERS_PER_PERSON_S = 1.2
_SWEEPERS_PER_S = 0.6
_CROWDED = 0.2  # chance of a far, unlabelled crowd in an ignore region


@dataclasses.dataclass(frozen=True)
class RenderedFrame:
    """A picture with its labels; `spoilt`: by a flash, defocus, darkness or a jolt."""

    frame_bgr: np.ndarray
    persons: tuple[RenderedPerson, ...]
    ignore_polygons: tuple[np.ndarray, ...]
    spoilt: bool
    jpeg_quality: int


class _Camera:
    """Perspective view of the world that pans, zooms, rolls and shakes."""

    def __init__(self, rng, image_size_hw):
        h, w = image_size_hw
        self.size_hw = image_size_hw
        self.focal = _PERSON_FRACTION * h * _DISTANCE / 1.7
        self._amount = np.array(
            [0.11 * w, 0.05 * h, 0.13, 2.5, 0.003 * w, 0.003 * h]
        ) * rng.uniform(0.15, 1.0, 6)
        low, high = (0.08, 0.1, 0.07, 0.1, 1.5, 1.5), (0.4, 0.35, 0.3, 0.3, 4.0, 4.0)
        self._hz = rng.uniform(low, high)
        self._phase = rng.uniform(0, 2 * np.pi, 6)
        self._zoom = rng.uniform(0.88, 1.12)

    def reference(self, world) -> np.ndarray:
        """[..., 3] metres -> [..., 2] pixels from the resting frame's centre."""
        h = self.size_hw[0]
        z = world[..., 2]
        x = self.focal * world[..., 0] / z
        y = self.focal * (_CAMERA_HEIGHT - world[..., 1]) / z + (_HORIZON - 0.5) * h
        return np.stack([x, y], -1)

    def affine(self, time_s: float, parallax: float = 1.0) -> np.ndarray:
        """[2, 3] from reference pixels to image pixels."""
        wave = np.sin(2 * np.pi * self._hz * time_s + self._phase) * self._amount
        zoom, roll = self._zoom * (1 + wave[2]), np.deg2rad(wave[3])
        c, s = zoom * np.cos(roll), zoom * np.sin(roll)
        linear = np.array([[c, -s], [s, c]])
        pan = parallax * np.array([wave[0] + wave[4], wave[1] + wave[5]])
        middle = (np.array(self.size_hw[::-1]) - 1) / 2
        return np.concatenate([linear, (middle - linear @ pan)[:, None]], 1)

    def scale(self, affine: np.ndarray) -> float:
        return float(np.hypot(affine[0, 0], affine[1, 0]))


def _figure(mover, camera, outfit, offsets_s, affines):
    """Figure of one person at N instants with [N, points, 2] image positions."""
    points = mover.points_at(offsets_s)
    xy = apply_affine(affines, camera.reference(points))
    scale = camera.focal / points[..., 2] * camera.scale(affines[0])
    return sr.Figure(mover.body, outfit, points, xy, scale), xy


def _paint_crowd(rng, camera, canvas) -> np.ndarray:
    """Draws a far crowd nobody labels; [4, 2] polygon round it in reference pixels."""
    to_canvas = np.eye(3)[:2]
    to_canvas[:, 2] = (np.array(canvas.shape[1::-1]) - 1) / 2
    half_width = 0.45 * camera.size_hw[1] * 20.0 / camera.focal
    spot = rng.uniform(-0.8, 0.8) * half_width
    corners = []
    for _ in range(int(rng.integers(4, 9))):
        mover = Mover(rng, 1.0, (18.0, 23.0))
        mover.move_to(spot + rng.uniform(-1.6, 1.6))
        outfit = sr.sample_outfit(rng)
        figure, xy = _figure(mover, camera, outfit, np.zeros(1), to_canvas[None])
        figure.draw(canvas, 0)
        corners.append(xy[0])
    corners = np.concatenate(corners) - to_canvas[:, 2]
    (x0, y0), (x1, y1) = corners.min(0) - 3, corners.max(0) + 3
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _view(canvas, affine, size_hw) -> np.ndarray:
    """The background as the camera sees it."""
    to_image = affine.copy()
    to_image[:, 2] -= to_image[:, :2] @ ((np.array(canvas.shape[1::-1]) - 1) / 2)
    return cv2.warpAffine(
        canvas,
        to_image,
        size_hw[::-1],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )


# The background moves less than limbs do: three views of it are enough.
_NEW_BACKGROUND = (0, _MIDDLE - 1, _MIDDLE + 2)
# number of instants drawn -> which of the seven
_INSTANTS_FOR = {1: [_MIDDLE], 3: [0, _MIDDLE, 2 * _MIDDLE], 7: list(range(_INSTANTS))}


class _Scene:
    """People, camera and passing objects at the middle of the current frame."""

    def __init__(self, seed, size_hw, people):
        streams = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(5))
        world, looks, camera_rng, self._events, self._sensor_rng = streams
        self._size_hw = size_hw
        self._camera = camera = _Camera(camera_rng, size_hw)
        self._sensor = scenery.sample_sensor(self._sensor_rng, size_hw)
        exposure = camera_rng.uniform(0.25, 0.75) * _FRAME_S
        self._offsets = np.linspace(-0.5, 0.5, _INSTANTS) * exposure
        self._canvas = scenery.make_background(looks, size_hw, _HORIZON)
        crowded = looks.random() < _CROWDED
        self._crowd = _paint_crowd(looks, camera, self._canvas) if crowded else None
        self._poles = scenery.make_poles(looks, size_hw)
        half_width = 0.42 * size_hw[1] * _DISTANCE / camera.focal
        count = int(world.integers(people[0], people[1] + 1))
        self._movers, self._outfits = [], []
        for i in range(count):
            crosses = i > 0 and i == count - 1 and world.random() < 0.6
            rng = np.random.default_rng(world.integers(1 << 63))
            mover = Mover(rng, half_width, _DEPTH_RANGE, crosses)
            if not crosses:  # people keep some distance at first
                lane = (i + world.uniform(0.2, 0.8)) / count
                mover.move_to((1.7 * lane - 0.85) * half_width)
            self._movers.append(mover)
            self._outfits.append(sr.sample_outfit(looks))
        self._passers: list[scenery.Passer] = []
        self._frame, self._spoilt = 0, False

    @property
    def _now(self) -> float:
        return self._frame * _FRAME_S

    def step(self) -> None:
        """Goes on to the next frame."""
        self._frame += 1
        for mover in self._movers:
            mover.step(_FRAME_S)

    def expose(self) -> RenderedFrame:
        """Takes the picture of the current frame; once per frame."""
        now, people = self._now, range(len(self._movers))
        self._passers = [p for p in self._passers if now < p.born_s + p.life_s]
        self._passers += self._new_passers()
        affines = np.stack([self._camera.affine(now + o) for o in self._offsets])
        used = self._instants(affines)
        drawn = [
            _figure(m, self._camera, o, self._offsets[used], affines[used])
            for m, o in zip(self._movers, self._outfits, strict=True)
        ]
        figures, positions = [f for f, _ in drawn], [xy for _, xy in drawn]
        far_to_near = sorted(people, key=lambda i: -self._movers[i].depth)
        total = np.zeros((*self._size_hw, 3), np.float32)
        for n, instant in enumerate(used):
            if instant in _NEW_BACKGROUND or len(used) <= 3:
                background = _view(self._canvas, affines[instant], self._size_hw)
            picture = background.copy()
            for i in far_to_near:
                figures[i].draw(picture, n)
            self._draw_foreground(picture, now + self._offsets[instant], n, positions)
            cv2.accumulate(picture, total)
        middle = used.index(_MIDDLE)
        ids = np.zeros(self._size_hw, np.int32)
        for i in far_to_near:
            figures[i].draw_ids(ids, middle, first_id(i))
        self._draw_foreground(ids, now, middle, positions)
        labels = [
            label_person(
                i, self._movers[i].action, figures[i], middle, positions[i][middle], ids
            )
            for i in people
        ]
        picture, self._spoilt = scenery.spoil(
            self._sensor_rng,
            self._sensor,
            total * np.float32(1 / len(used)),
            clean_before=not self._spoilt,
        )
        ignored = ()
        if self._crowd is not None:
            ignored = (apply_affine(affines[_MIDDLE], self._crowd),)
        return RenderedFrame(
            frame_bgr=picture,
            persons=tuple(label for label in labels if label is not None),
            ignore_polygons=ignored,
            spoilt=self._spoilt,
            jpeg_quality=self._sensor.jpeg_quality,
        )

    def _draw_foreground(self, image, time_s, n, positions) -> None:
        """Poles and passers on a BGR picture; `_PASSER_ID` on one of part numbers."""
        near = self._camera.affine(time_s, parallax=1.6)
        shapes = [
            (apply_affine(near, polygon), color) for polygon, color in self._poles
        ]
        for passer in self._passers:
            joint = None
            if passer.follows is not None:
                track, node = passer.follows
                joint = positions[track][n, node]
            shapes += passer.shapes(time_s, joint)
        for polygon, color in shapes:
            polygon = sr.fixed_point(polygon)
            if image.ndim == 3:
                sr.fill(image, polygon, color)
            else:
                sr.fill_id(image, polygon, _PASSER_ID)

    def _new_passers(self) -> list[scenery.Passer]:
        rng, h, new = self._events, self._size_hw[0], []
        for track in range(len(self._movers)):
            if rng.random() < _FLYERS_PER_PERSON_S * _FRAME_S:
                follows = (track, int(rng.choice(SLOT_NODE[LABELLED])))
                new.append(scenery.make_flyer(rng, h, self._now, _FRAME_S, follows))
        if rng.random() < _SWEEPERS_PER_S * _FRAME_S:
            new.append(scenery.make_sweeper(rng, self._size_hw, self._now, _FRAME_S))
        return new

    def _instants(self, affines) -> list[int]:
        """As many as the longest way of a joint or object during the exposure needs."""
        ends = [0, _MIDDLE, _INSTANTS - 1]
        longest = 0.0
        for mover in self._movers:
            world = mover.points_at(self._offsets[ends])
            xy = apply_affine(affines[ends], self._camera.reference(world))
            longest = max(longest, float(np.ptp(xy, axis=0).max()))
        exposure = self._offsets[-1] - self._offsets[0]
        for passer in self._passers:
            longest = max(longest, float(np.abs(passer.velocity_xy).max() * exposure))
        return _INSTANTS_FOR[1 if longest < 1 else 3 if longest < 4 else 7]


def render_frames(
    seed: int | tuple[int, ...],
    num_frames: int,
    image_size_hw: tuple[int, int],
    people: tuple[int, int],
) -> Iterator[RenderedFrame]:
    """Yields the frames of one sequence.

    Args:
      seed: decides everything; equal seeds give equal frames wherever the same OpenCV
        and numpy draw.
      num_frames: how many.
      image_size_hw: of the frames.
      people: least and most persons in the scene, those who cross included.
    """
    scene = _Scene(seed, image_size_hw, people)
    for _ in range(num_frames):
        yield scene.expose()
        scene.step()
