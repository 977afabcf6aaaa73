"""What an annotation file says, as plain Python, before anyone interprets it.

`annotations` is the public face of these types; its parsers return them and its
writers take them.
"""

import dataclasses

import numpy as np


class AnnotationError(ValueError):
    """A file is not what it should be. The message names file, field and remedy."""


@dataclasses.dataclass(frozen=True)
class PersonLabel:
    """One person of one frame, as the file has it.

    Attributes:
      keypoints_xyv: [K, 3] float64 in the skeleton's slots; image pixels and visibility.
        All zeros where the file has no such joint. v is the file's own flag in the
        2018 and 2021 formats (0 or 1, 1 = labelled). The 2017 format lists labelled
        joints only: 2 = `is_visible` set, 1 = `is_visible` 0 or not given.
      joint_scores: [K] float64, NaN where the file has none.
      has_points: False if the file has no point list at all for this person; an empty
        list counts as having one (poseval treats the two differently).
      head_box_xyxy: [4] image pixels, or None.
      person_box_xywh: [4] image pixels, or None.
      track_id: identity within the sequence, or None.
      score: the person's score, or None.
    """

    keypoints_xyv: np.ndarray
    joint_scores: np.ndarray
    has_points: bool = True
    head_box_xyxy: np.ndarray | None = None
    person_box_xywh: np.ndarray | None = None
    track_id: int | None = None
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class FrameLabel:
    """One frame of a sequence, labelled or not.

    Attributes:
      image_name: path relative to the data root, POSIX, as the file has it.
      image_id: the file's id, or None in the 2017 format.
      is_labeled: the file's own flag (True if the file has none and lists persons).
      persons: empty for unlabelled frames.
      ignore_polygons: [N, 2] arrays, image pixels.
    """

    image_name: str
    image_id: int | None = None
    is_labeled: bool = True
    persons: tuple[PersonLabel, ...] = ()
    ignore_polygons: tuple[np.ndarray, ...] = ()


@dataclasses.dataclass(frozen=True)
class SequenceLabel:
    """All frames of one video, in order.

    Attributes:
      name: base name of the annotation file without `.json`.
      skeleton: key of `skeleton.SKELETONS`.
    """

    name: str
    skeleton: str
    frames: tuple[FrameLabel, ...]
