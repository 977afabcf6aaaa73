"""Person boxes from a detector, in the two forms they circulate in.

PoseWarper form: a list of {image_name, bbox, score, category_id}; COCO-result form:
a list of {image_id, bbox, score, category_id}. Boxes are left, top, width, height in
image pixels and are neither clipped nor suppressed. All scores are kept: the threshold
(0.2 by default) is a choice of the run, `config.data.box_score_threshold`.
"""

import dataclasses
import json
import math
from pathlib import Path, PurePosixPath

import numpy as np

from data_pipelines.sources import VideoSource
from tdpose_jax.annotations import AnnotationError

PERSON_CATEGORY = 1


@dataclasses.dataclass(frozen=True)
class Detections:
    """Boxes of many images, in file order.

    Attributes:
      by_image: image id, or the last two parts of the image name ("video/frame.jpg"),
        -> [N, 5] left, top, width, height, score.
      dropped: (reason, count) of boxes left out.
    """

    by_image: dict[int | str, np.ndarray]
    dropped: tuple[tuple[str, int], ...]


def load_detections(path: Path) -> Detections:
    """Reads a box file of either form.

    Raises:
      AnnotationError: naming file, entry and field.
    """
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise AnnotationError(
            f"--boxes={path}: cannot be read ({error.strerror})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(entries, list):
        raise AnnotationError(
            f"{path}: a box file is a list of boxes, not a {type(entries).__name__}"
        )
    boxes: dict[int | str, list[list[float]]] = {}
    other_category = no_area = 0
    for i, entry in enumerate(entries):
        where = f"{path}: box {i}"
        if not isinstance(entry, dict):
            raise AnnotationError(f"{where}: not an object with bbox and score")
        if entry.get("category_id", PERSON_CATEGORY) != PERSON_CATEGORY:
            other_category += 1
            continue
        box = _numbers(entry, "bbox", 4, where) + _numbers(entry, "score", 1, where)
        if box[2] <= 0 or box[3] <= 0:
            no_area += 1
            continue
        boxes.setdefault(_image_key(entry, where), []).append(box)
    dropped = (
        ("boxes of another category than person", other_category),
        ("boxes without area", no_area),
    )
    return Detections(
        by_image={key: np.array(rows) for key, rows in boxes.items()},
        dropped=tuple((reason, n) for reason, n in dropped if n),
    )


def attach_detections(
    videos: list[VideoSource], detections: Detections, path: Path
) -> list[VideoSource]:
    """Gives each video its boxes, by image id or by name.

    A video without any box keeps its frames, so that its people count as missed; the
    video's notes say so.

    Raises:
      AnnotationError: if no box belongs to any frame of the videos.
    """
    out = []
    matched = 0
    for video in videos:
        rows = []
        for frame in video.label.frames:
            found = detections.by_image.get(_name_key(frame.image_name))
            if found is None and frame.image_id is not None:
                found = detections.by_image.get(frame.image_id)
            rows.append(np.zeros((0, 5)) if found is None else found)
        count = sum(len(r) for r in rows)
        matched += count
        notes = video.notes
        if not count:
            notes += ((video.label.name, "no detections for the sequence"),)
        out.append(dataclasses.replace(video, detections=tuple(rows), notes=notes))
    if videos and not matched:
        ours = next((f for v in videos for f in v.label.frames), None)
        theirs = next(iter(detections.by_image), None)
        raise AnnotationError(
            f"{path}: no box belongs to a frame of the data set. The file speaks of "
            f"{theirs!r}, the labels of {ours.image_name if ours else None!r} "
            f"(image id {ours.image_id if ours else None})"
        )
    return out


def _image_key(entry: dict, where: str) -> int | str:
    name = entry.get("image_name")
    if isinstance(name, str) and name:
        return _name_key(name)
    image_id = entry.get("image_id")
    if isinstance(image_id, int) and not isinstance(image_id, bool):
        return image_id
    raise AnnotationError(
        f"{where}: needs image_name (text) or image_id (whole number)"
    )


def _name_key(name: str) -> str:
    """Video and frame: folders above differ between copies of a data set."""
    return "/".join(PurePosixPath(name).parts[-2:])


def _numbers(entry: dict, field: str, length: int, where: str) -> list[float]:
    value = entry.get(field)
    values = value if isinstance(value, list) else [value]
    good = len(values) == length and all(
        isinstance(v, int | float)
        and not isinstance(v, bool)
        and abs(v) < 1e9
        and math.isfinite(v)
        for v in values
    )
    if not good:
        raise AnnotationError(
            f"{where}: field {field} is {str(value)[:60]}, expected {length} finite "
            "number(s)"
        )
    return [float(v) for v in values]
