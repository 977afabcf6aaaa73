"""Joint tables: names, order, left/right partners, limbs, upper and lower body.

One table per data set serves flips, half-body augmentation, drawing and metrics, so
that they cannot disagree. Sources: PoseTrack's evaluation code and label files, the
HiEve challenge page, the JHMDB release notes, COCO's annotation files.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """The joints of one data set, in the order the network predicts them.

    Attributes:
      name: key of `SKELETONS`.
      joints: K names; indices below refer to this order.
      flip_pairs: (left, right) index pairs that a horizontal flip exchanges.
      limbs: index pairs joined by a line in pictures.
      upper_body: indices of the upper half, for half-body augmentation; the rest of
        the annotated joints is the lower half.
      unannotated: slots that exist in the file format but are never labelled.
      groups: column name -> joint names, as the benchmark's table prints them.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    upper_body: tuple[int, ...]
    unannotated: tuple[int, ...]
    groups: dict[str, tuple[str, ...]]

    @property
    def num_keypoints(self) -> int:
        """K, joints that are never annotated included."""
        return len(self.joints)

    @property
    def lower_body(self) -> tuple[int, ...]:
        """Indices of the annotated joints that are not of the upper body."""
        rest = set(self.upper_body) | set(self.unannotated)
        return tuple(i for i in range(self.num_keypoints) if i not in rest)

    @property
    def evaluated(self) -> tuple[int, ...]:
        """Indices of the joints that are annotated, hence scored."""
        return tuple(i for i in range(self.num_keypoints) if i not in self.unannotated)

    @property
    def flip_permutation(self) -> tuple[int, ...]:
        """For each joint, the index its mirror image has: `mirrored[..., perm, :]`."""
        order = list(range(self.num_keypoints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    def index(self, joint: str) -> int:
        """The joint's index; ValueError, listing all names, if there is none."""
        if joint not in self.joints:
            raise ValueError(
                f"skeleton {self.name!r} has no joint {joint!r}; it has "
                f"{', '.join(self.joints)}"
            )
        return self.joints.index(joint)


def _skeleton(
    name: str,
    joints: Sequence[str],
    limbs: Sequence[tuple[str, str]],
    groups: dict[str, tuple[str, ...]],
    lower_body: Sequence[str] = ("knee", "ankle", "hip"),
    unannotated: Sequence[str] = (),
) -> Skeleton:
    """Derives indices from names: a left joint's partner is its `right_` namesake."""
    joints = tuple(joints)
    position = {joint: i for i, joint in enumerate(joints)}
    flip_pairs = tuple(
        (position[joint], position[joint.replace("left_", "right_")])
        for joint in joints
        if joint.startswith("left_")
    )
    empty = tuple(position[joint] for joint in unannotated)
    upper = tuple(
        i
        for i, joint in enumerate(joints)
        if not any(part in joint for part in lower_body) and i not in empty
    )
    return Skeleton(
        name=name,
        joints=joints,
        flip_pairs=flip_pairs,
        limbs=tuple((position[a], position[b]) for a, b in limbs),
        upper_body=upper,
        unannotated=empty,
        groups=groups,
    )


def _both(part: str) -> tuple[str, str]:
    return (f"right_{part}", f"left_{part}")


_SIDES = ("left", "right")
_ARMS = tuple(
    pair
    for side in _SIDES
    for pair in (
        (f"{side}_shoulder", f"{side}_elbow"),
        (f"{side}_elbow", f"{side}_wrist"),
    )
)
_LEGS = tuple(
    pair
    for side in _SIDES
    for pair in ((f"{side}_hip", f"{side}_knee"), (f"{side}_knee", f"{side}_ankle"))
)
_LIMB_GROUPS = {
    "Shoulder": _both("shoulder"),
    "Elbow": _both("elbow"),
    "Wrist": _both("wrist"),
    "Hip": _both("hip"),
    "Knee": _both("knee"),
    "Ankle": _both("ankle"),
}

# 17 slots of the PoseTrack18/21 files and of the network's output. Slots 3 and 4 (ears)
# are placeholders: never annotated, never evaluated.
POSETRACK = _skeleton(
    "posetrack",
    "nose head_bottom head_top left_ear right_ear left_shoulder right_shoulder "
    "left_elbow right_elbow left_wrist right_wrist left_hip right_hip left_knee "
    "right_knee left_ankle right_ankle".split(),
    limbs=(
        ("head_top", "nose"),
        ("nose", "head_bottom"),
        ("head_bottom", "left_shoulder"),
        ("head_bottom", "right_shoulder"),
        ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"),
        ("left_hip", "right_hip"),
        *_ARMS,
        *_LEGS,
    ),
    groups={"Head": ("head_top", "head_bottom", "nose"), **_LIMB_GROUPS},
    unannotated=("left_ear", "right_ear"),
)

# PoseTrack17's ids, also the order in which poseval reports its 15 joints.
POSETRACK_OFFICIAL_JOINTS = tuple(
    "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist "
    "right_elbow right_shoulder left_shoulder left_elbow left_wrist head_bottom nose "
    "head_top".split()
)
# official id -> slot of POSETRACK
OFFICIAL_TO_SLOT = tuple(POSETRACK.index(joint) for joint in POSETRACK_OFFICIAL_JOINTS)

HIEVE = _skeleton(
    "hieve",
    "nose chest right_shoulder right_elbow right_wrist left_shoulder left_elbow "
    "left_wrist right_hip right_knee right_ankle left_hip left_knee "
    "left_ankle".split(),
    limbs=(
        ("nose", "chest"),
        ("chest", "left_shoulder"),
        ("chest", "right_shoulder"),
        ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"),
        ("left_hip", "right_hip"),
        *_ARMS,
        *_LEGS,
    ),
    groups={"Head": ("nose", "chest"), **_LIMB_GROUPS},
)

JHMDB = _skeleton(
    "jhmdb",
    "neck belly face right_shoulder left_shoulder right_hip left_hip right_elbow "
    "left_elbow right_knee left_knee right_wrist left_wrist right_ankle "
    "left_ankle".split(),
    limbs=(
        ("face", "neck"),
        ("neck", "belly"),
        ("neck", "left_shoulder"),
        ("neck", "right_shoulder"),
        ("belly", "left_hip"),
        ("belly", "right_hip"),
        *_ARMS,
        *_LEGS,
    ),
    groups={"Head": ("face",), "Torso": ("neck", "belly"), **_LIMB_GROUPS},
)

COCO = _skeleton(
    "coco",
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder "
    "left_elbow right_elbow left_wrist right_wrist left_hip right_hip left_knee "
    "right_knee left_ankle right_ankle".split(),
    limbs=(
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
        ("left_shoulder", "right_shoulder"),
        ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"),
        ("left_hip", "right_hip"),
        *_ARMS,
        *_LEGS,
    ),
    groups={
        "Head": ("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
        **_LIMB_GROUPS,
    },
)

SKELETONS = {s.name: s for s in (POSETRACK, HIEVE, JHMDB, COCO)}


def get_skeleton(name: str) -> Skeleton:
    """Looks a skeleton up.

    Raises:
      ValueError: naming the valid choices.
    """
    if name not in SKELETONS:
        raise ValueError(
            f"unknown skeleton {name!r}; choose one of {', '.join(SKELETONS)}"
        )
    return SKELETONS[name]
