"""One video of the embedded data set, frame by frame, with its true poses.

`render_frames` simulates people, camera and passing objects and yields pictures with
labels; memory does not grow with the length. Joint positions are those at the middle of
the exposure, in image pixels with integer coordinates at pixel centres.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from data_pipelines import synthetic_body as sb
from data_pipelines import synthetic_render as sr
from data_pipelines import synthetic_scenery as scenery
from data_pipelines.synthetic_motion import Mover
from tdpose_jax.geometry import apply_affine, keypoints_box_xywh
from tdpose_jax.skeleton import POSETRACK

FRAMES_PER_SECOND = 25.0
BOX_ENLARGE = 1.3  # PoseTrack18's rule
_CAMERA_HEIGHT = 1.15  # metres
_HORIZON = 0.46  # fraction of the frame's height
_DISTANCE = 6.0  # metres; the size of people below is meant at this distance
_PERSON_FRACTION = 0.58  # of the frame's height, for 1.7 m
_DEPTH_RANGE = (5.0, 7.2)
_INSTANTS = 7  # drawn at most for one exposure
_MIDDLE = _INSTANTS // 2
_MIN_JOINTS = 4  # persons with fewer joints in the picture are not labelled
_PASSER_ID = 1_000_000
_FLYERS_PER_PERSON_S = 1.2
_SWEEPERS_PER_S = 0.6

_SLOT_NODE = np.array([sb.NODE.get(joint, -1) for joint in POSETRACK.joints])
_LABELLED = _SLOT_NODE >= 0
_ON_RIM = [POSETRACK.index("nose"), POSETRACK.index("head_top")]
# The parts that may be in front of a joint without hiding it: those that meet there.
_MEETS = {
    "nose": ("head",),
    "head_top": ("head",),
    "head_bottom": ("head", "neck", "torso_left"),
    "shoulder": ("torso_left", "upper_arm", "neck"),
    "elbow": ("upper_arm", "forearm"),
    "wrist": ("forearm", "hand"),
    "hip": ("torso_left", "pelvis", "thigh"),
    "knee": ("thigh", "shin"),
    "ankle": ("shin", "foot"),
}


def _meeting_parts(joint: str) -> frozenset:
    side, _, kind = joint.partition("_")
    if side in ("left", "right"):
        names = _MEETS.get(kind, ())
        return frozenset(sr.PART.get(f"{side}_{n}", sr.PART.get(n)) for n in names)
    return frozenset(sr.PART[n] for n in _MEETS[joint])


_OWN_PARTS = tuple(_meeting_parts(joint) for joint in POSETRACK.joints)


@dataclasses.dataclass(frozen=True)
class RenderedPerson:
    """The truth about one person in one frame, image pixels.

    Attributes:
      track_id: the same person in all frames.
      keypoints_xyv: [17, 3] PoseTrack slots, v = 1 annotated; zeros for the ears and for
        joints well outside the picture.
      occluded: [17] bool, annotated but covered by something at mid-exposure.
      person_box_xywh: [4] tight box x 1.3, not clipped.
      head_box_xyxy: [4] round the head.
      action: key of `synthetic_body.ACTIONS`.
    """

    track_id: int
    keypoints_xyv: np.ndarray
    occluded: np.ndarray
    person_box_xywh: np.ndarray
    head_box_xyxy: np.ndarray
    action: str


@dataclasses.dataclass(frozen=True)
class RenderedFrame:
    """A picture with its labels; `spoilt` marks flashes, defocus, darkness and jolts."""

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


def _figure(camera, mover, outfit, offsets_s, affines):
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
        figure, xy = _figure(camera, mover, outfit, np.zeros(1), to_canvas[None])
        figure.draw(canvas, 0)
        corners.append(xy[0])
    corners = np.concatenate(corners) - to_canvas[:, 2]
    (x0, y0), (x1, y1) = corners.min(0) - 3, corners.max(0) + 3
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _label(
    track_id, mover, figure, xy, ids, first_id, size_hw
) -> RenderedPerson | None:
    """Truth at the middle instant, or None if the person is (almost) outside."""
    h, w = size_hw
    margin = 0.02 * w
    points = np.round(xy[_SLOT_NODE], 3)
    inside = ((points >= -margin) & (points <= np.array([w, h]) - 1 + margin)).all(1)
    keep = inside & _LABELLED
    if keep.sum() < _MIN_JOINTS:
        return None
    keypoints = np.concatenate([points, np.ones((len(points), 1))], 1) * keep[:, None]
    occluded = np.zeros(len(points), bool)
    # The head's joints lie on its rim; what covers them is read a little inside.
    seen_at = points.copy()
    center = xy[sb.NODE["head_center"]]
    seen_at[_ON_RIM] += 0.25 * (center - seen_at[_ON_RIM])
    for slot in np.flatnonzero(keep):
        x, y = np.rint(seen_at[slot]).astype(int)
        if 0 <= x < w and 0 <= y < h:
            occluded[slot] = int(ids[y, x]) - first_id not in _OWN_PARTS[slot]
    nose = POSETRACK.index("nose")
    occluded[nose] |= (
        keep[nose] and figure.nose_away[_MIDDLE_OF[len(figure.outlines)]] > 0.2
    )
    head = figure.outlines[_MIDDLE_OF[len(figure.outlines)], sr.PART["head"]] / 16.0
    return RenderedPerson(
        track_id=track_id,
        keypoints_xyv=keypoints,
        occluded=occluded,
        person_box_xywh=keypoints_box_xywh(keypoints[:, :2], keep, BOX_ENLARGE),
        head_box_xyxy=np.concatenate([head.min(0), head.max(0)]),
        action=mover.action,
    )


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
_INSTANTS_FOR = {1: [_MIDDLE], 3: [0, _MIDDLE, 2 * _MIDDLE], 7: list(range(_INSTANTS))}
_MIDDLE_OF = {1: 0, 3: 1, 7: 3}


def render_frames(
    seed: int | tuple[int, ...],
    num_frames: int,
    image_size_hw: tuple[int, int],
    people: tuple[int, int],
) -> Iterator[RenderedFrame]:
    """Yields the frames of one sequence.

    Args:
      seed: decides everything; equal seeds give equal frames on any machine that draws
        alike (same OpenCV and numpy).
      num_frames: how many.
      image_size_hw: of the frames.
      people: least and most persons in the scene, those who cross included.
    """
    streams = np.random.SeedSequence(seed).spawn(5)
    world, looks, camera_rng, events, sensor_rng = map(np.random.default_rng, streams)
    camera = _Camera(camera_rng, image_size_hw)
    sensor = scenery.sample_sensor(sensor_rng, image_size_hw)
    exposure = camera_rng.uniform(0.25, 0.75) / FRAMES_PER_SECOND
    canvas = scenery.make_background(looks, image_size_hw, _HORIZON)
    ignored = _paint_crowd(looks, camera, canvas) if looks.random() < 0.2 else None
    poles = _poles(looks, image_size_hw)

    half_width = 0.42 * image_size_hw[1] * _DISTANCE / camera.focal
    count = int(world.integers(people[0], people[1] + 1))
    movers, outfits = [], []
    for i in range(count):
        crosses = i > 0 and i == count - 1 and world.random() < 0.6
        person_rng = np.random.default_rng(world.integers(1 << 63))
        mover = Mover(person_rng, half_width, _DEPTH_RANGE, crosses)
        if not crosses:  # people keep some distance at first
            lane = (i + world.uniform(0.2, 0.8)) / count
            mover.move_to((1.7 * lane - 0.85) * half_width)
        movers.append(mover)
        outfits.append(sr.sample_outfit(looks))

    frame_s = 1 / FRAMES_PER_SECOND
    passers: list[scenery.Passer] = []
    spoilt = False
    for frame in range(num_frames):
        now = frame * frame_s
        passers = [p for p in passers if now < p.born_s + p.life_s]
        passers += _new_passers(events, count, image_size_hw, now, frame_s)
        offsets = np.linspace(-0.5, 0.5, _INSTANTS) * exposure
        affines = np.stack([camera.affine(now + o) for o in offsets])
        order = np.argsort([-m.depth for m in movers], kind="stable")
        ends = [0, _MIDDLE, _INSTANTS - 1]
        moved = _movement(camera, movers, passers, offsets[ends], affines[ends])
        used = _INSTANTS_FOR[1 if moved < 1.0 else 3 if moved < 4.0 else 7]
        figures, positions = {}, {}
        for i in order:
            figures[i], positions[i] = _figure(
                camera, movers[i], outfits[i], offsets[used], affines[used]
            )

        def joint_at(passer, n, positions=positions):
            if passer.follows is None:
                return None
            track, node = passer.follows
            return positions[track][n, node]

        total = np.zeros((*image_size_hw, 3), np.float32)
        for n, instant in enumerate(used):
            if instant in _NEW_BACKGROUND or len(used) <= 3:
                background = _view(canvas, affines[instant], image_size_hw)
            picture = background.copy()
            for i in order:
                figures[i].draw(picture, n)
            time = now + offsets[instant]
            near = camera.affine(time, parallax=1.6)
            for polygon, color in poles:
                sr.fill(picture, sr.fixed_point(apply_affine(near, polygon)), color)
            for passer in passers:
                passer.draw(picture, time, joint_at(passer, n))
            cv2.accumulate(picture, total)

        middle = _MIDDLE_OF[len(used)]
        ids = np.zeros(image_size_hw, np.int32)
        for i in order:
            figures[i].draw_ids(ids, middle, 1 + 32 * int(i))
        near = camera.affine(now, parallax=1.6)
        for polygon, _ in poles:
            polygon = sr.fixed_point(apply_affine(near, polygon))
            cv2.fillConvexPoly(ids, polygon, _PASSER_ID, 8, 4)
        for passer in passers:
            passer.draw_id(ids, now, _PASSER_ID, joint_at(passer, middle))
        persons = [
            _label(
                i, movers[i], figures[i], positions[i][middle], ids, 1 + 32 * i,
                image_size_hw,
            )
            for i in range(count)
        ]  # fmt: skip
        picture, spoilt = scenery.spoil(
            sensor_rng,
            sensor,
            total * np.float32(1 / len(used)),
            clean_before=not spoilt,
        )
        here = camera.affine(now)
        yield RenderedFrame(
            frame_bgr=picture,
            persons=tuple(p for p in persons if p is not None),
            ignore_polygons=() if ignored is None else (apply_affine(here, ignored),),
            spoilt=spoilt,
            jpeg_quality=sensor.jpeg_quality,
        )
        for mover in movers:
            mover.step(frame_s)


def _poles(rng, size_hw) -> list:
    """Things that stand in front of everything: (polygon in reference pixels, colour)."""
    h, w = size_hw
    poles = []
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        x, half = rng.uniform(-0.5, 0.5) * w, rng.uniform(0.012, 0.035) * h
        top = -h if rng.random() < 0.6 else rng.uniform(0.05, 0.3) * h
        polygon = np.array(
            [[x - half, top], [x + half, top], [x + half, h], [x - half, h]]
        )
        poles.append((polygon, sr.random_color(rng)))
    return poles


def _new_passers(rng, count, size_hw, now, frame_s) -> list:
    new = []
    targets = _SLOT_NODE[_LABELLED]
    for track in range(count):
        if rng.random() < _FLYERS_PER_PERSON_S * frame_s:
            follows = (track, int(rng.choice(targets)))
            new.append(scenery.make_flyer(rng, size_hw[0], now, frame_s, follows))
    if rng.random() < _SWEEPERS_PER_S * frame_s:
        new.append(scenery.make_sweeper(rng, size_hw, now, frame_s))
    return new


def _movement(camera, movers, passers, offsets, affines) -> float:
    """Longest way of a joint or passing object during the exposure, pixels."""
    longest = 0.0
    for mover in movers:
        xy = apply_affine(affines, camera.reference(mover.points_at(offsets)))
        longest = max(longest, float(np.ptp(xy, axis=0).max()))
    for passer in passers:
        way = np.abs(passer.velocity_xy).max() * (offsets[-1] - offsets[0])
        longest = max(longest, float(way))
    return longest
