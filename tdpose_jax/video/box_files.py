"""Boxes of people from a file: PoseTrack18 JSON, COCO results, MOT text.

| form | which frame a box belongs to |
| --- | --- |
| PoseTrack18/21 JSON, PoseTrack17 annolist | the file's image of that name; in a video, that position |
| COCO results, `[{"image_name" or "image_id", "bbox", "score"}]` | the name, or `image_id` counted from 1 |
| MOT, `frame,id,left,top,width,height,score,...` | `frame`, counted from 1 |

Identities are used if every box of the file has one (MOT's -1 is none).
"""

import dataclasses
import json
from pathlib import Path, PurePosixPath

import numpy as np

from tdpose_jax.annotations import AnnotationError, load_annotations
from tdpose_jax.geometry import keypoints_box_xywh
from tdpose_jax.video.decode import Frame
from tdpose_jax.video.poses import Boxes

PERSON_CATEGORY = 1
KEYPOINTS_ENLARGE = 1.3  # PoseTrack18's own boxes around their keypoints


class BoxFileError(ValueError):
    """A box file is not what it should be. One line: file, place, remedy."""


@dataclasses.dataclass(frozen=True)
class BoxFile:
    """Boxes by frame.

    Attributes:
      by_name: last part of the image's name -> boxes.
      by_index: position from 0 -> boxes.
    """

    by_name: dict[str, Boxes]
    by_index: dict[int, Boxes]

    def __call__(self, frame: Frame, of_folder: bool) -> Boxes:
        """The frame's boxes; none if the file has none for it."""
        name = PurePosixPath(frame.name).name
        if of_folder and self.by_name:
            return self.by_name[name] if name in self.by_name else EMPTY
        return self.by_index[frame.index] if frame.index in self.by_index else EMPTY


EMPTY = Boxes(np.zeros((0, 4)), np.zeros(0))


def load_box_file(path: str | Path) -> BoxFile:
    """Reads a box file; the form is found from the content.

    Raises:
      BoxFileError: unreadable, of no known form, or a bad number; names the line or box.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BoxFileError(f"--boxes={path}: cannot be read ({error})") from None
    if text.lstrip()[:1] not in ("[", "{"):
        return _keep_identities(_read_mot(text, path), {})
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BoxFileError(f"--boxes={path}: not a JSON file ({error})") from None
    if isinstance(content, list):
        return _keep_identities(*_read_coco(content, path))
    try:
        label = load_annotations(path)
    except AnnotationError as error:
        raise BoxFileError(f"--boxes={error}") from None
    return _read_label(label)


def _keep_identities(by_index: dict, by_name: dict) -> BoxFile:
    """Rows (box, score, id) -> `Boxes`, with identities only if all rows have one."""
    every = [row for rows in (*by_index.values(), *by_name.values()) for row in rows]
    has_ids = bool(every) and all(row[2] >= 0 for row in every)

    def pack(rows):
        return Boxes(
            np.array([row[0] for row in rows]),
            np.array([row[1] for row in rows]),
            np.array([row[2] for row in rows]) if has_ids else None,
        )

    return BoxFile(
        {name: pack(rows) for name, rows in by_name.items()},
        {index: pack(rows) for index, rows in by_index.items()},
    )


def _read_mot(text: str, path: Path) -> dict[int, list]:
    by_index: dict[int, list] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(v) for v in line.replace(",", " ").split()]
            if not np.isfinite(values).all():
                raise ValueError("not finite")
            frame, identity, *box = values[:6]
            if len(box) != 4 or frame < 1 or frame != int(frame):
                raise ValueError("frame and box expected")
        except ValueError:
            raise BoxFileError(
                f"--boxes={path}: line {number} is {line[:60]!r}, expected MOT's "
                "frame,id,left,top,width,height,score with frames from 1 (or give JSON)"
            ) from None
        score = values[6] if len(values) > 6 else 1.0
        # MOT's ground truth marks rows to be ignored with 0, its detections none with -1.
        score = 1.0 if score < 0 else min(score, 1.0)
        by_index.setdefault(int(frame) - 1, []).append((box, score, int(identity)))
    if not by_index:
        raise BoxFileError(f"--boxes={path}: the file lists no box")
    return by_index


def _read_coco(entries: list, path: Path) -> tuple[dict, dict]:
    by_index: dict[int, list] = {}
    by_name: dict[str, list] = {}
    for i, entry in enumerate(entries):
        where = f"--boxes={path}: box {i}"
        if not isinstance(entry, dict):
            raise BoxFileError(f"{where}: not an object with bbox and score")
        if entry.get("category_id", PERSON_CATEGORY) != PERSON_CATEGORY:
            continue
        try:
            box = np.array(entry["bbox"], float)
            score = float(entry.get("score", 1.0))
            identity = int(entry.get("track_id", -1))
            if box.shape != (4,) or not np.isfinite([*box, score]).all():
                raise ValueError("numbers")
        except (KeyError, TypeError, ValueError):
            raise BoxFileError(
                f"{where}: needs bbox (four finite numbers) and score (one)"
            ) from None
        row = (box, score, identity)
        name, image_id = entry.get("image_name"), entry.get("image_id")
        if isinstance(name, str) and name:
            by_name.setdefault(PurePosixPath(name).name, []).append(row)
        elif isinstance(image_id, int) and image_id >= 1:
            by_index.setdefault(image_id - 1, []).append(row)
        else:
            raise BoxFileError(
                f"{where}: needs image_name (text) or image_id (1 is the first frame)"
            )
    if not by_index and not by_name:
        raise BoxFileError(f"--boxes={path}: the file lists no person's box")
    return by_index, by_name


def _read_label(label) -> BoxFile:
    persons = [person for frame in label.frames for person in frame.persons]
    has_ids = bool(persons) and all(p.track_id is not None for p in persons)
    by_name, by_index = {}, {}
    for index, frame in enumerate(label.frames):
        rows = []
        for person in frame.persons:
            box = person.person_box_xywh
            if box is None:
                points = person.keypoints_xyv
                box = keypoints_box_xywh(
                    points[:, :2], points.any(axis=1), KEYPOINTS_ENLARGE
                )
            if box is not None:
                score = 1.0 if person.score is None else person.score
                rows.append((box, score, person.track_id if has_ids else -1))
        boxes = Boxes(
            np.array([row[0] for row in rows]),
            np.array([row[1] for row in rows]),
            np.array([row[2] for row in rows]) if has_ids else None,
            frame.image_id,
        )
        by_index[index] = by_name[PurePosixPath(frame.image_name).name] = boxes
    return BoxFile(by_name, by_index)
