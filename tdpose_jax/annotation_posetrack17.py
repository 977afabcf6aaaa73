"""Reads PoseTrack2017's `annolist` files (JSON and MATLAB) and HiEve's, its relative.

jsonlab wrote every scalar as a one-element list; community tools write bare scalars.
Both are read. `x1 y1 x2 y2` is the head rectangle in PoseTrack, the person's box in
HiEve.
"""

from pathlib import Path

import numpy as np

from tdpose_jax import annotation_fields as fields
from tdpose_jax.annotation_fields import FieldError, inside
from tdpose_jax.annotation_types import FrameLabel, PersonLabel, SequenceLabel
from tdpose_jax.matfile import read_mat_variables
from tdpose_jax.skeleton import OFFICIAL_TO_SLOT, POSETRACK, SKELETONS

# MPII's ids, which part of the PoseTrack17 family of files uses; 6 pelvis and 7 thorax
# have no slot.
_MPII_NAMES = {
    0: "right_ankle",
    1: "right_knee",
    2: "right_hip",
    3: "left_hip",
    4: "left_knee",
    5: "left_ankle",
    8: "head_bottom",
    9: "head_top",
    10: "right_wrist",
    11: "right_elbow",
    12: "right_shoulder",
    13: "left_shoulder",
    14: "left_elbow",
    15: "left_wrist",
}
# numbering -> (skeleton, {joint id: slot or None})
NUMBERINGS = {
    "posetrack": ("posetrack", dict(enumerate(OFFICIAL_TO_SLOT))),
    "mpii": (
        "posetrack",
        {6: None, 7: None}
        | {i: POSETRACK.index(name) for i, name in _MPII_NAMES.items()},
    ),
    "hieve": ("hieve", {i: i for i in range(14)}),
}


def parse_annolist(content: dict, name: str, joint_ids: str) -> SequenceLabel:
    """Turns a parsed `annolist` file into a sequence.

    Args:
      content: the file's top-level object.
      name: the sequence's name.
      joint_ids: a key of NUMBERINGS, or "auto": a joint id 15 anywhere means MPII's
        numbering; else, if no id is above 13 and no image name has a folder, HiEve's;
        else PoseTrack's.

    Raises:
      FieldError: with the field's path.
    """
    with inside(".annolist"):
        frames = fields.as_objects(content["annolist"])
        if not frames:
            raise FieldError("lists no frame", "export the file again")
    names = []
    rects = []
    for i, frame in enumerate(frames):
        with inside(f".annolist[{i}]"):
            with inside(".image"):
                image = fields.as_object(fields.required(frame, "image"))
                with inside(".name"):
                    names.append(fields.image_path(image.get("name")))
            with inside(".annorect"):
                rects.append(fields.as_objects(frame.get("annorect")))
    points = _collect_points(rects)
    if joint_ids == "auto":
        joint_ids = _detect_numbering(points, names)
    skeleton, slots = NUMBERINGS[joint_ids]
    labels = []
    for i, frame in enumerate(frames):
        with inside(f".annolist[{i}]"):
            persons = []
            for j, rect in enumerate(rects[i]):
                with inside(f".annorect[{j}]"):
                    persons.append(_person(rect, points[i][j], skeleton, slots))
            with inside(".is_labeled"):
                labeled = fields.optional(frame, "is_labeled")
                labeled = bool(persons) if labeled is None else fields.flag(labeled)
            labels.append(
                FrameLabel(
                    image_name=names[i],
                    is_labeled=labeled,
                    persons=tuple(persons),
                    ignore_polygons=_ignore_polygons(frame.get("ignore_regions")),
                )
            )
    return SequenceLabel(name, skeleton, tuple(labels))


def _collect_points(rects: list[list[dict]]) -> list[list[list | None]]:
    """[frame][person] -> [(id, x, y, v, score)], or None where no list exists."""
    collected = []
    for i, frame_rects in enumerate(rects):
        collected.append([])
        for j, rect in enumerate(frame_rects):
            annopoints = rect.get("annopoints")
            found = None
            if annopoints is not None and annopoints != []:
                with inside(f".annolist[{i}].annorect[{j}].annopoints"):
                    listed = fields.as_object(annopoints).get("point")
                    if listed is not None:
                        with inside(".point"):
                            found = _points(fields.as_objects(listed))
            collected[-1].append(found)
    return collected


def _points(listed: list[dict]) -> list[tuple[int, float, float, float, float]]:
    out = []
    try:
        for point in listed:
            visible = fields.optional(point, "is_visible")
            if visible is not None:
                with inside(".is_visible"):
                    visible = fields.flag(visible)
            score = fields.optional(point, "score")
            out.append(
                (
                    fields.integer(point.get("id")),
                    fields.number(point.get("x")),
                    fields.number(point.get("y")),
                    2.0 if visible else 1.0,
                    np.nan if score is None else fields.number(score),
                )
            )
    except FieldError as error:
        error.steps.append(f"[{len(out)}]")
        if len(error.steps) == 1:  # id, x, y or score, without a step of its own
            error.problem = f"id, x, y or score: {error.problem}"
        raise
    return out


def _detect_numbering(points: list[list[list | None]], names: list[str]) -> str:
    ids = {point[0] for frame in points for person in frame for point in person or ()}
    if 15 in ids:
        return "mpii"
    if not any("/" in name for name in names) and max(ids, default=0) <= 13:
        return "hieve"
    return "posetrack"


def _person(
    rect: dict, points: list | None, skeleton: str, slots: dict[int, int | None]
) -> PersonLabel:
    num_keypoints = SKELETONS[skeleton].num_keypoints
    keypoints = np.zeros((num_keypoints, 3))
    scores = np.full(num_keypoints, np.nan)
    seen = set()
    for k, (joint, x, y, v, score) in enumerate(points or ()):
        if joint not in slots:
            with inside(f".annopoints.point[{k}].id"):
                raise FieldError(
                    f"joint id {joint} is not in this numbering",
                    f"ids are {min(slots)}..{max(slots)}; if the file uses another "
                    f"numbering pass joint_ids, one of {', '.join(NUMBERINGS)}",
                )
        slot = slots[joint]
        if slot is None or slot in seen:  # poseval takes the first of a repeated joint
            continue
        seen.add(slot)
        keypoints[slot] = x, y, v
        scores[slot] = score
    corners = _corners(rect)
    box = head = None
    if corners is not None and skeleton == "hieve":
        x1, y1, x2, y2 = corners
        box = np.array([x1, y1, x2 - x1, y2 - y1])
    elif corners is not None:
        head = np.array(corners)
    track_id = fields.optional(rect, "track_id")
    score = fields.optional(rect, "score")
    if track_id is not None:
        with inside(".track_id"):
            track_id = fields.integer(track_id)
    if score is not None:
        with inside(".score"):
            score = fields.number(score)
    return PersonLabel(
        keypoints_xyv=keypoints,
        joint_scores=scores,
        has_points=points is not None,
        head_box_xyxy=head,
        person_box_xywh=box,
        track_id=track_id,
        score=score,
    )


def _corners(rect: dict) -> list[float] | None:
    values = []
    for key in ("x1", "y1", "x2", "y2"):
        value = fields.optional(rect, key)
        if value is not None:
            with inside(f".{key}"):
                values.append(fields.number(value))
    if not values:
        return None
    if len(values) != 4:
        raise FieldError(
            "has some but not all of x1, y1, x2, y2", "give all four or none"
        )
    return values


def _ignore_polygons(regions: object) -> tuple[np.ndarray, ...]:
    polygons = []
    with inside(".ignore_regions"):
        for r, region in enumerate(fields.as_objects(regions)):
            with inside(f"[{r}].point"):
                xs, ys = [], []
                for v, vertex in enumerate(fields.as_objects(region.get("point"))):
                    with inside(f"[{v}]"):
                        xs.append(fields.number(vertex.get("x")))
                        ys.append(fields.number(vertex.get("y")))
                polygon = fields.polygon(np.array(xs), np.array(ys))
                if polygon is not None:
                    polygons.append(polygon)
    return tuple(polygons)


def read_mat(path: Path) -> dict:
    """Loads a MATLAB `annolist` file into the shape its JSON form has.

    Raises:
      FieldError: if the file is damaged or holds no `annolist`.
    """
    content = read_mat_variables(path)
    if "annolist" not in content:
        raise FieldError("holds no variable annolist", "this is no PoseTrack17 file")
    return {"annolist": _plain(content["annolist"])}


def _plain(value: object) -> object:
    """Number arrays to lists, a single number to itself; MATLAB's reader limits depth."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.item() if value.size == 1 else value.ravel(order="F").tolist()
    return value
