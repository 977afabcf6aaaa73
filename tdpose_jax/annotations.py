"""Annotation files of PoseTrack17/18/21 and HiEve: types, `load_annotations`, writers.

A file is understood in one place only; the data pipeline and the metrics both build on
this module.

    sequence = load_annotations("annotations/val/000342_mpii_test.json")
    for frame in sequence.frames:
        for person in frame.persons:
            person.keypoints_xyv  # [K, 3] in the slots of SKELETONS[sequence.skeleton]
"""

from pathlib import Path

from tdpose_jax import annotation_fields as fields
from tdpose_jax.annotation_fields import FieldError
from tdpose_jax.annotation_posetrack17 import NUMBERINGS, parse_annolist, read_mat
from tdpose_jax.annotation_posetrack18 import parse_coco_like
from tdpose_jax.annotation_types import (
    AnnotationError,
    FrameLabel,
    PersonLabel,
    SequenceLabel,
)
from tdpose_jax.annotation_writers import save_hieve, save_posetrack17, save_posetrack18

__all__ = [
    "AnnotationError",
    "FrameLabel",
    "PersonLabel",
    "SequenceLabel",
    "load_annotations",
    "save_hieve",
    "save_posetrack17",
    "save_posetrack18",
]


def load_annotations(path: str | Path, joint_ids: str = "auto") -> SequenceLabel:
    """Reads one sequence: ground truth or predictions, in any of the known forms.

    The form is found from the content: `.mat` or a key `annolist` means the 2017 form,
    else the 2018/2021 form.

    Args:
      path: a `.json` or `.mat` file.
      joint_ids: numbering of the joints in a 2017-form file: "posetrack", "mpii",
        "hieve", or "auto" (see `annotation_posetrack17.parse_annolist`). 2018-form
        files name their joints and ignore it.

    Raises:
      AnnotationError: if the file is unreadable or malformed in any way; the message
        names the file, the field and the remedy.
      ValueError: if joint_ids is none of the above.
    """
    path = Path(path)
    if joint_ids != "auto" and joint_ids not in NUMBERINGS:
        raise ValueError(
            f"unknown joint_ids {joint_ids!r}; choose auto, {', '.join(NUMBERINGS)}"
        )
    try:
        content = read_mat(path) if path.suffix == ".mat" else fields.read_json(path)
        if not isinstance(content, dict):
            raise FieldError(
                f"expected an object, got {fields.brief(content)}",
                "this is no annotation file of one sequence",
            )
        if "annolist" in content:
            return parse_annolist(content, path.stem, joint_ids)
        return parse_coco_like(content, path.stem)
    except FieldError as error:
        raise AnnotationError(f"{path}: {error.describe()}") from None
