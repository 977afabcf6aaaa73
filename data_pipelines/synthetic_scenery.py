"""Scenery of the embedded data set: backgrounds, passing objects, camera faults.

Backgrounds live in reference pixels: the frame as it is with the camera at rest.
"""

import dataclasses

import cv2
import numpy as np

from data_pipelines.synthetic_render import capsules, fill, fixed_point, random_color

_OVERSIZE = 1.8  # the background is this much larger than the frame
_GRAIN_SPARE = (
    97  # pixels; drawing fresh noise for every frame would cost more than all
)


def _noise(rng, size_hw, cells, amplitude) -> np.ndarray:
    grid = rng.normal(0, amplitude, (cells, cells * 2, 1))
    grid = grid + rng.normal(0, amplitude / 3, (cells, cells * 2, 3))  # mostly grey
    return cv2.resize(
        grid.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_CUBIC
    )


def make_background(
    rng: np.random.Generator, image_size_hw: tuple[int, int], horizon: float
) -> np.ndarray:
    """A cluttered canvas, uint8 BGR, `_OVERSIZE` times the frame in both directions.

    Args:
      rng: decides all of it.
      image_size_hw: the frame's size.
      horizon: where wall meets ground, fraction of the frame's height.
    """
    h, w = (int(round(s * _OVERSIZE)) for s in image_size_hw)
    wall = random_color(rng, (5, 90), (80, 220))
    ground = random_color(rng, (5, 110), (60, 190))
    line = int((horizon - 0.5) * image_size_hw[0] + h / 2)
    canvas = np.empty((h, w, 3), np.float32)
    canvas[:line], canvas[line:] = wall, ground
    for cells, amplitude in ((4, 22), (14, 12), (60, 8)):
        canvas += _noise(rng, (h, w), cells, amplitude)
    canvas = np.clip(canvas, 0, 255).astype(np.uint8)
    unit = image_size_hw[0]
    for _ in range(int(rng.integers(15, 40))):
        color = random_color(rng, (5, 200), (20, 250))
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        kind = rng.integers(4)
        if kind == 0:  # boxes, windows
            size = unit * rng.uniform(0.03, 0.3, 2)
            corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size + (x, y)
            fill(canvas, fixed_point(corners), color)
            fill(
                canvas,
                fixed_point((corners - (x, y)) * 0.8 + (x, y) + size * 0.1),
                color * 0.7,
            )
        elif kind == 1:  # sticks: they look like limbs
            a = np.array([x, y])
            turn, length = rng.uniform(0, np.pi), unit * rng.uniform(0.08, 0.4)
            b = a + length * np.array([np.cos(turn), np.sin(turn)])
            r = np.float64(unit * rng.uniform(0.008, 0.03))
            fill(canvas, fixed_point(capsules(a, b, r, r * 0.8)), color)
        elif kind == 2:  # blobs: they look like heads
            center = (int(x * 16), int(y * 16))
            radius = int(unit * rng.uniform(0.015, 0.08) * 16)
            cv2.circle(canvas, center, radius, color, -1, cv2.LINE_AA, 4)
        else:  # a line of stripes
            step = unit * rng.uniform(0.02, 0.05)
            for i in range(int(rng.integers(3, 9))):
                low = np.array([x + i * step, y])
                corner = np.array([[0, 0], [0.4, 0], [0.4, 6], [0, 6]]) * step
                fill(canvas, fixed_point(low + corner), color)
    return canvas


@dataclasses.dataclass
class Passer:
    """Something in the foreground, in image pixels, moving on a straight line.

    With `follows` set, the line is relative to that joint: it covers the joint for an
    instant wherever the joint goes.
    """

    polygon: np.ndarray  # [M, 2] convex, about its own origin
    mark: np.ndarray  # [L, 2] a second polygon on it
    colors: np.ndarray  # [2, 3] BGR
    start_xy: np.ndarray
    velocity_xy: np.ndarray  # pixels per second
    born_s: float
    life_s: float
    follows: tuple[int, int] | None = None  # (track, node)

    def origin(self, time_s: float, joint_xy: np.ndarray | None) -> np.ndarray:
        """[2] image pixels at `time_s`, relative to `joint_xy` if it is given."""
        xy = self.start_xy + self.velocity_xy * (time_s - self.born_s)
        return xy if joint_xy is None else xy + joint_xy

    def shapes(self, time_s: float, joint_xy: np.ndarray | None) -> list:
        """What to fill, in order: (polygon in image pixels, colour)."""
        origin = self.origin(time_s, joint_xy)
        polygons = (self.polygon + origin, self.mark + origin)
        return list(zip(polygons, self.colors, strict=True))


def make_poles(rng, size_hw) -> list:
    """What stands in front of everything: (polygon in reference pixels, colour)."""
    h, w = size_hw
    poles = []
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        x, half = rng.uniform(-0.5, 0.5) * w, rng.uniform(0.012, 0.035) * h
        top = -h if rng.random() < 0.6 else rng.uniform(0.05, 0.3) * h
        corners = [[x - half, top], [x + half, top], [x + half, h], [x - half, h]]
        poles.append((np.array(corners), random_color(rng)))
    return poles


def _regular(rng, radius, sides) -> np.ndarray:
    turn = rng.uniform(0, 2 * np.pi) + np.arange(sides) * 2 * np.pi / sides
    return radius * np.stack([np.cos(turn), np.sin(turn)], -1)


def make_flyer(rng, unit, time_s, frame_s, follows) -> Passer:
    """A box, ball or board that covers one joint for one to three frames."""
    radius = unit * rng.uniform(0.07, 0.13)
    frames = rng.uniform(1.3, 3.2)  # the time it takes over its own width
    turn = rng.uniform(0, 2 * np.pi)
    speed = 2 * radius / (frames * frame_s)
    velocity = speed * np.array([np.cos(turn), np.sin(turn)])
    lead = rng.uniform(4, 8) * frame_s  # from its birth until it covers the joint
    sides = int(rng.choice([4, 4, 6, 12]))
    polygon = _regular(rng, radius, sides)
    if sides == 4:
        polygon = polygon * np.array([1.0, rng.uniform(0.7, 1.3)])
    return Passer(
        polygon=polygon,
        mark=polygon * rng.uniform(0.3, 0.75),
        colors=np.stack([random_color(rng), random_color(rng)]),
        start_xy=-velocity * lead,
        velocity_xy=velocity,
        born_s=time_s,
        life_s=2 * lead,
        follows=follows,
    )


def make_sweeper(rng, image_size_hw, time_s, frame_s) -> Passer:
    """A pole or a passing vehicle that crosses the whole picture."""
    h, w = image_size_hw
    half = h * rng.uniform(0.025, 0.07)
    side = rng.choice([-1.0, 1.0])
    frames = rng.uniform(1.0, 3.0)
    speed = side * 2 * half / (frames * frame_s)
    lean = rng.uniform(-0.25, 0.25) * h
    top = -0.1 * h if rng.random() < 0.6 else rng.uniform(0.2, 0.6) * h
    bottom = 1.1 * h
    polygon = np.array(
        [[-half + lean, top], [half + lean, top], [half, bottom], [-half, bottom]]
    )
    mark = polygon * np.array([0.4, 1.0]) + np.array([0.3 * lean, 0])
    begin = -side * (w / 2 + abs(lean) + 2 * half)
    return Passer(
        polygon=polygon,
        mark=mark,
        colors=np.stack([random_color(rng), random_color(rng)]),
        start_xy=np.array([w / 2 + begin, 0.0]),
        velocity_xy=np.array([speed, 0.0]),
        born_s=time_s,
        life_s=2 * abs(begin / speed),
    )


@dataclasses.dataclass(frozen=True)
class Sensor:
    """What the camera does to every frame of a sequence, and to single ones."""

    jpeg_quality: int
    gain: np.ndarray  # [3] white balance
    flicker: float
    trouble_rate: float  # chance that a frame is spoilt
    grain: np.ndarray  # float32 noise, larger than the frame; each frame takes a piece


def sample_sensor(rng, image_size_hw: tuple[int, int]) -> Sensor:
    """Draws a camera's grain, gain and compression."""
    h, w = (s + _GRAIN_SPARE for s in image_size_hw)
    noise = np.float32(rng.uniform(1.5, 7.0))
    return Sensor(
        grain=noise * rng.standard_normal((h, w, 3), np.float32),
        jpeg_quality=int(rng.integers(68, 93)),
        gain=rng.uniform(0.88, 1.1, 3),
        flicker=rng.uniform(0.0, 0.06),
        trouble_rate=rng.uniform(0.04, 0.1),
    )


def spoil(rng, sensor: Sensor, image: np.ndarray, clean_before: bool):
    """Flicker, a spoilt frame now and then, noise.

    Args:
      rng: the sequence's sensor generator; the same number of draws in every frame.
      sensor: of this sequence.
      image: float32 BGR.
      clean_before: the frame before was not spoilt, so this one may be.

    Returns:
      (uint8 BGR, whether the frame is spoilt so that it is hard to read alone).
    """
    chance, kind, amount, flicker = rng.random(4)
    y, x = rng.integers(_GRAIN_SPARE, size=2)
    noise = sensor.grain[y : y + image.shape[0], x : x + image.shape[1]]
    gain = sensor.gain * (1 + sensor.flicker * (2 * flicker - 1))
    spoilt = bool(clean_before and chance < sensor.trouble_rate)
    unit = image.shape[0] / 240
    offset = 0.0
    if spoilt and kind < 0.35:  # out of focus
        image = cv2.GaussianBlur(image, (0, 0), (2.5 + 3 * amount) * unit)
    elif spoilt and kind < 0.6:  # flash
        gain, offset = gain * (1.0 + amount), 70.0 + 70.0 * amount
    elif spoilt and kind < 0.8:  # lights out
        gain = gain * (0.12 + 0.15 * amount)
    elif spoilt:  # the camera is knocked
        length = int((9 + 12 * amount) * unit)
        kernel = np.zeros((length, length), np.float32)
        turn = np.pi * chance / sensor.trouble_rate
        reach = length / 2 * np.array([np.cos(turn), np.sin(turn)])
        middle = (length - 1) / 2
        low, high = (tuple(int(round(v)) for v in middle + s * reach) for s in (-1, 1))
        cv2.line(kernel, low, high, 1.0, 1)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    image = image * gain.astype(np.float32)
    image += noise
    image += np.float32(offset + 0.5)
    return np.clip(image, 0, 255, out=image).astype(np.uint8), spoilt
