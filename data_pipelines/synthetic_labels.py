"""Truth of the embedded data set: which joints are labelled, which are covered.

What covers a joint is read from a picture of part numbers drawn at mid-exposure.
"""

import dataclasses

import numpy as np

from data_pipelines import synthetic_body as sb
from data_pipelines import synthetic_render as sr
from tdpose_jax.geometry import keypoints_box_xywh
from tdpose_jax.skeleton import POSETRACK

BOX_ENLARGE = 1.3  # PoseTrack18's rule
_OUTSIDE = 0.02  # of the frame's width: joints farther out are not labelled
_MIN_JOINTS = 4  # persons with fewer joints in the picture are not labelled

SLOT_NODE = np.array([sb.NODE.get(joint, -1) for joint in POSETRACK.joints])
LABELLED = SLOT_NODE >= 0
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
      keypoints_xyv: [17, 3] PoseTrack slots, v = 1 annotated; zeros for the ears and
        for joints well outside the picture.
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


def first_id(track_id: int) -> int:
    """The number of a person's first part in the picture of part numbers; 0: nobody."""
    return 1 + 32 * track_id


def label_person(
    track_id: int,
    action: str,
    figure: sr.Figure,
    middle: int,
    xy: np.ndarray,
    ids: np.ndarray,
) -> RenderedPerson | None:
    """The truth about one person, or None if (almost) all of it is outside.

    Args:
      track_id: of the person.
      action: what the person does.
      figure: as drawn.
      middle: the instant of `figure` that is mid-exposure.
      xy: [points, 2] image pixels at that instant.
      ids: [H, W] int32, what is in front at that instant.
    """
    h, w = ids.shape
    margin = _OUTSIDE * w
    points = np.round(xy[SLOT_NODE], 3)
    inside = ((points >= -margin) & (points <= np.array([w, h]) - 1 + margin)).all(1)
    keep = inside & LABELLED
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
            part = int(ids[y, x]) - first_id(track_id)
            occluded[slot] = part not in _OWN_PARTS[slot]
    nose = POSETRACK.index("nose")
    occluded[nose] |= keep[nose] and figure.nose_away[middle] > 0.2
    head = sr.to_pixels(figure.outlines[middle, sr.PART["head"]])
    return RenderedPerson(
        track_id=track_id,
        keypoints_xyv=keypoints,
        occluded=occluded,
        person_box_xywh=keypoints_box_xywh(keypoints[:, :2], keep, BOX_ENLARGE),
        head_box_xyxy=np.concatenate([head.min(0), head.max(0)]),
        action=action,
    )
