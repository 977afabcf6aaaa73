"""Drawing of the embedded data set: clothed bodies, backgrounds, things that pass.

Everything is drawn at sub-pixel positions (1/16 pixel) with integer coordinates at
pixel centres, the convention of `tdpose_jax.geometry`. Several instants are turned
into polygons at once, since Python calls cost more than pixels here.
"""

import dataclasses

import cv2
import numpy as np

from data_pipelines import synthetic_body as sb

_SHIFT = 4  # fractional bits of polygon coordinates
_ARC = 6  # points of a capsule's end
_N = sb.NODE

# name, from, to, radius at both ends (fraction of the height), garment, metres by which
# it is drawn nearer than it is (an arm at the side belongs in front of the shirt)
_LIMBS = (
    ("upper_arm", "shoulder", "elbow", 0.031, 0.025, "sleeve", 0.05),
    ("forearm", "elbow", "wrist", 0.025, 0.018, "forearm", 0.06),
    ("hand", "wrist", "hand", 0.019, 0.017, "skin", 0.06),
    ("thigh", "hip", "knee", 0.05, 0.035, "trousers", 0.0),
    ("shin", "knee", "ankle", 0.035, 0.022, "shin", 0.0),
    ("foot", "ankle", "toe", 0.024, 0.018, "shoe", 0.01),
)
_PARTS = (
    *((f"{s}_{n}", f"{s}_{a}", f"{s}_{b}", *rest) for s in ("left", "right")
      for n, a, b, *rest in _LIMBS),
    ("neck", "neck_base", "head_bottom", 0.03, 0.028, "skin", 0.0),
    ("pelvis", "left_hip", "right_hip", 0.056, 0.056, "trousers", 0.01),
    ("torso_left", "left_shoulder", "left_hip", 0.045, 0.052, "shirt", 0.03),
    ("torso_right", "right_shoulder", "right_hip", 0.045, 0.052, "shirt", 0.03),
    ("head", "head_center", "head_jaw", 0.074, 0.058, "hair", 0.08),
)  # fmt: skip
PART = {part[0]: i for i, part in enumerate(_PARTS)}
_FROM = np.array([_N[p[1]] for p in _PARTS])
_TO = np.array([_N[p[2]] for p in _PARTS])
_RADII = np.array([[p[3], p[4]] for p in _PARTS])
_NEARER = np.array([p[6] for p in _PARTS])
_HEAD, _TORSO = PART["head"], (PART["torso_left"], PART["torso_right"])
_STIFF = [i for i, p in enumerate(_PARTS) if p[0] in ("head", "hand", "neck")]


@dataclasses.dataclass(frozen=True)
class Outfit:
    """Colours (BGR) of one person, fixed for the whole sequence."""

    colors: np.ndarray  # [parts, 3]
    bands: tuple  # (part, from, to, colour): stripes across a part
    stripes: tuple  # (height on the torso 0..1, colour)
    skin: np.ndarray
    front: np.ndarray | None
    back: np.ndarray | None


def random_color(rng, saturation=(20, 190), value=(40, 240)) -> np.ndarray:
    """[3] BGR; hue uniform, saturation and value in OpenCV's 0..255."""
    hsv = [rng.uniform(0, 180), rng.uniform(*saturation), rng.uniform(*value)]
    return cv2.cvtColor(np.uint8([[hsv]]), cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64)


def sample_outfit(rng: np.random.Generator) -> Outfit:
    """Clothes and skin. The left limbs are lighter than the right ones and banded.

    Real clothes seldom tell left from right; here they do, so that a small network can
    learn the sides in minutes. Face, chest and back patches tell them as in life.
    """
    skins = (
        (180, 205, 240),
        (150, 180, 225),
        (110, 145, 200),
        (70, 100, 150),
        (45, 65, 100),
    )
    skin = np.array(skins[rng.integers(len(skins))]) * rng.uniform(0.9, 1.05)
    shirt, trousers = random_color(rng), random_color(rng, (10, 200), (50, 200))
    garment = {
        "skin": skin,
        "shirt": shirt,
        "trousers": trousers,
        "hair": random_color(rng, (20, 160), (15, 110)),
        "shoe": random_color(rng, (0, 120), (30, 230)),
        "sleeve": shirt if rng.random() < 0.85 else skin,
        "forearm": shirt if rng.random() < 0.4 else skin,
        "shin": trousers if rng.random() < 0.7 else skin,
    }
    colors = []
    for name, *_, kind, _nearer in _PARTS:
        color = garment[kind]
        if name.startswith("left_"):
            color = 0.55 * color + 0.45 * 250
        elif name.startswith("right_"):
            color = 0.62 * color
        colors.append(color)
    band = random_color(rng, (120, 255), (180, 255))
    bands = [
        (PART["left_forearm"], 0.3, 0.6, band),
        (PART["left_shin"], 0.3, 0.6, band),
    ]
    for name in ("upper_arm", "thigh"):
        if rng.random() < 0.5:
            stripe, at = random_color(rng), rng.uniform(0.25, 0.6)
            bands += [
                (PART[f"{s}_{name}"], at, at + 0.14, stripe) for s in ("left", "right")
            ]
    stripes = []
    if rng.random() < 0.6:
        stripe = random_color(rng)
        count = int(rng.integers(1, 5))
        stripes = [((i + 0.5) / count, stripe) for i in range(count)]
    return Outfit(
        colors=np.array(colors),
        bands=tuple(bands),
        stripes=tuple(stripes),
        skin=skin,
        front=random_color(rng, (0, 90), (200, 255)),
        back=random_color(rng, (60, 255), (20, 90)),
    )


def capsules(a, b, ra, rb) -> np.ndarray:
    """Outlines of tapered capsules: [..., 2], [..., 2], [...], [...] -> [..., M, 2]."""
    axis = b - a
    length = np.hypot(axis[..., 0], axis[..., 1])
    heading = np.arctan2(axis[..., 1], axis[..., 0])
    touch = np.arccos(np.clip((ra - rb) / np.maximum(length, 1e-6), -1, 1))
    u = np.linspace(0, 1, _ARC)
    start = touch[..., None] + u * (2 * np.pi - 2 * touch)[..., None]
    end = -touch[..., None] + u * (2 * touch)[..., None]

    def arc(center, radius, turn):
        turn = turn + heading[..., None]
        spokes = np.stack([np.cos(turn), np.sin(turn)], -1)
        return center[..., None, :] + radius[..., None, None] * spokes

    return np.concatenate([arc(a, ra, start), arc(b, rb, end)], -2)


def fixed_point(xy: np.ndarray) -> np.ndarray:
    """[..., 2] float pixels -> int32 in 1/16 pixels, which OpenCV's drawing takes."""
    return np.rint(np.clip(xy, -2000, 4000) * (1 << _SHIFT)).astype(np.int32)


def fill(image, polygon, color) -> None:
    """Fills a convex [M, 2] int32 polygon in 1/16 pixels, smooth edges."""
    cv2.fillConvexPoly(image, polygon, color, cv2.LINE_AA, _SHIFT)


def fill_id(ids, polygon, value: int) -> None:
    """The same on an int32 picture of part numbers, hard edges."""
    cv2.fillConvexPoly(ids, polygon, value, cv2.LINE_8, _SHIFT)


def to_pixels(polygon: np.ndarray) -> np.ndarray:
    """The inverse of `fixed_point`."""
    return polygon / (1 << _SHIFT)


class Figure:
    """One person at N instants, ready to be drawn: polygons in image pixels.

    Args:
      body, outfit: whose.
      points: [N, points, 3] world metres.
      xy: [N, points, 2] the same in image pixels.
      scale: [N, points] pixels per metre at each point.
    """

    def __init__(self, body: sb.Body, outfit: Outfit, points, xy, scale):
        self._outfit = outfit
        radii = _RADII * body.height * body.girth
        radii[_STIFF] = _RADII[_STIFF] * body.height
        a, b = xy[:, _FROM], xy[:, _TO]
        ra, rb = radii[:, 0] * scale[:, _FROM], radii[:, 1] * scale[:, _TO]
        self.outlines = fixed_point(capsules(a, b, ra, rb))
        light = 0.14 * ra[..., None] * np.array([-0.6, -0.8])
        self._inner = fixed_point(capsules(a + light, b + light, 0.8 * ra, 0.8 * rb))
        depth = (points[:, _FROM, 2] + points[:, _TO, 2]) / 2
        depth = depth - _NEARER
        for i in _TORSO:
            depth[:, i] = (depth[:, _TORSO[0]] + depth[:, _TORSO[1]]) / 2
        self._order = np.argsort(depth, axis=1, kind="stable")[:, ::-1]
        self._bands = []
        normal = np.stack([-(b - a)[..., 1], (b - a)[..., 0]], -1)
        normal = normal / np.maximum(
            np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6
        )
        for part, low, high, color in outfit.bands:
            quad = [
                a[:, part] + s * (b - a)[:, part]
                + side * normal[:, part] * (ra + s * (rb - ra))[:, part, None]
                for s, side in ((low, 1), (low, -1), (high, -1), (high, 1))
            ]  # fmt: skip
            self._bands.append((part, fixed_point(np.stack(quad, 1)), color))
        self._stripes = []
        left, right = (xy[:, [_FROM[i], _TO[i]]] for i in _TORSO)
        r = 0.016 * body.height * scale[:, _N["pelvis"]]
        for s, color in outfit.stripes:
            begin, end = (e[:, 0] + s * (e[:, 1] - e[:, 0]) for e in (left, right))
            self._stripes.append((fixed_point(capsules(begin, end, r, r)), color))
        self._patches = fixed_point(xy[:, sb.FRONT_PATCH.start : sb.BACK_PATCH.stop])
        self._patch_normal = self._toward_camera(points)
        self._face(body, points, xy, scale)

    @staticmethod
    def _toward_camera(points) -> np.ndarray:
        """[N] > 0 where the chest faces the camera; 1 when straight into it."""
        front = points[:, sb.FRONT_PATCH].mean(1) - points[:, sb.BACK_PATCH].mean(1)
        return -front[:, 2] / np.linalg.norm(front, axis=-1)

    def _face(self, body, points, xy, scale) -> None:
        center, s = _N["head_center"], scale[:, _N["head_center"], None, None]
        away = points[:, sb.FACE_RING, 2] - points[:, center, None, 2]
        offset = xy[:, sb.FACE_RING] - xy[:, center, None]
        # Points of the outline behind the head slide to its silhouette.
        length = np.linalg.norm(offset, axis=-1, keepdims=True)
        rim = offset / np.maximum(length, 1e-6) * body.cranium * s
        offset = np.where((away > 0)[..., None], rim, offset)
        self._ring = fixed_point(xy[:, center, None] + offset)
        self._sees_face = (away < 0).sum(1) >= 4
        self.nose_away = (
            points[:, _N["nose"], 2] - points[:, center, 2]
        ) / body.cranium
        features = ["left_eye", "right_eye", "nose"]
        nodes = [_N[f] for f in features]
        self._features_xy = fixed_point(xy[:, nodes])
        self._features_seen = points[:, nodes, 2] < points[:, center, 2, None] + 0.01
        self._feature_r = np.rint(
            np.array([0.15, 0.15, 0.2]) * body.cranium * s[:, 0] * (1 << _SHIFT)
        ).astype(int)

    def draw(self, image: np.ndarray, n: int) -> None:
        """Draws instant n on a BGR image."""
        colors, outlines, inner = self._outfit.colors, self.outlines[n], self._inner[n]
        torso_done = False
        for part in self._order[n]:
            if part in _TORSO:
                if torso_done:
                    continue
                torso_done = True
                self._draw_torso(image, n)
                continue
            fill(image, outlines[part], colors[part] * 0.6)
            fill(image, inner[part], colors[part])
            for banded, quads, color in self._bands:
                if banded == part:
                    fill(image, quads[n], color)
            if part == _HEAD and self._sees_face[n]:
                self._draw_face(image, n)

    def _draw_torso(self, image, n) -> None:
        color = self._outfit.colors[_TORSO[0]]
        color = (color + self._outfit.colors[_TORSO[1]]) / 2
        for polygons, shade in ((self.outlines[n], 0.6), (self._inner[n], 1.0)):
            hull = cv2.convexHull(np.concatenate([polygons[i] for i in _TORSO]))
            fill(image, hull, color * shade)
        for capsule, stripe in self._stripes:
            fill(image, capsule[n], stripe)
        facing = self._patch_normal[n]
        if facing > 0.1:
            fill(image, self._patches[n, :4], self._outfit.front)
        elif facing < -0.1:
            fill(image, self._patches[n, 4:], self._outfit.back)

    def _draw_face(self, image, n) -> None:
        fill(image, cv2.convexHull(self._ring[n]), self._outfit.skin)
        shades = ((30, 25, 25), (30, 25, 25), tuple(self._outfit.skin * 0.55))
        for i, shade in enumerate(shades):
            if self._features_seen[n, i]:
                x, y = (int(v) for v in self._features_xy[n, i])
                r = int(self._feature_r[n, i])
                cv2.circle(image, (x, y), r, shade, -1, cv2.LINE_AA, _SHIFT)

    def draw_ids(self, ids: np.ndarray, n: int, first_id: int) -> None:
        """Writes `first_id + part` wherever a part is in front, on an int32 image."""
        for part in self._order[n]:
            polygon = self.outlines[n, part]
            if part in _TORSO:
                polygon = cv2.convexHull(
                    np.concatenate([self.outlines[n, i] for i in _TORSO])
                )
                part = _TORSO[0]
            fill_id(ids, polygon, int(first_id + part))
