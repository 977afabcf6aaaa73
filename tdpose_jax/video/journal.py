"""The record of finished frames: one JSON line each, appended as they come.

Every output is derived from this file, so an interrupted run loses nothing and a later
one continues. The first line says what made it.
"""

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tdpose_jax.video.poses import FramePoses

# A function that starts a new pass over the finished frames.
Frames = Callable[[], Iterator[FramePoses]]


class JournalError(ValueError):
    """The output folder cannot be used. One line with the remedy."""


class Journal:
    """`frames.jsonl` of an output folder.

    Args:
      path: the file; made if absent.
      made_by: what decides the content, JSON-ready. A file of other settings is an error.

    Attributes:
      num_frames: finished ones.
      last: the last finished frame, or None.

    Raises:
      JournalError: if the file was made by other settings, or is damaged.
    """

    def __init__(self, path: Path, made_by: dict):
        self.path = path
        self.num_frames = 0
        self.last: FramePoses | None = None
        made_by = json.loads(json.dumps(made_by))
        if path.exists() and path.stat().st_size:
            self._check(made_by)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made_by) + "\n")
        self._file = path.open("a", encoding="utf-8")

    def _check(self, made_by: dict) -> None:
        """Reads it through; a last line that was cut off is removed."""
        good_bytes = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    if number == 0:
                        self._compare(json.loads(line), made_by)
                    else:
                        self.last = from_json(json.loads(line))
                        self.num_frames += 1
                except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
                    raise JournalError(
                        f"{self.path}: line {number + 1} is damaged; remove the file or "
                        "use another --output"
                    ) from None
                good_bytes += len(line)
        if good_bytes < self.path.stat().st_size:
            os.truncate(self.path, good_bytes)
        if not good_bytes:
            self.path.write_text(json.dumps(made_by) + "\n")

    def _compare(self, found: dict, made_by: dict) -> None:
        for key in sorted(found.keys() | made_by.keys()):
            there, here = found.get(key), made_by.get(key)
            if there != here:
                raise JournalError(
                    f"{self.path.parent} holds another run ({key}: {there} there, {here} "
                    "here); use another --output, or remove the folder"
                )

    def append(self, people: FramePoses) -> None:
        """Writes one frame through to the file."""
        self._file.write(json.dumps(to_json(people), separators=(",", ":")) + "\n")
        self._file.flush()
        self.num_frames += 1
        self.last = people

    def frames(self) -> Iterator[FramePoses]:
        """The finished frames from the start, one at a time."""
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                yield from_json(json.loads(line))

    def close(self) -> None:
        """Closes the file; what was added is on disk already."""
        self._file.close()


def _numbers(array: np.ndarray) -> list:
    """float32 as the shortest decimals that give the same float32 back."""
    flat = [float(str(v)) for v in np.asarray(array, np.float32).ravel()]
    return np.array(flat, object).reshape(array.shape).tolist()


def to_json(people: FramePoses) -> dict:
    """One frame's people as a JSON object; `from_json` is its inverse."""
    return {
        "index": people.index,
        "time_s": people.time_s,
        "name": people.name,
        "image_size_hw": list(people.image_size_hw),
        "image_id": people.image_id,
        "track_id": people.track_id.tolist(),
        "keypoints_xy_image": _numbers(people.keypoints_xy_image),
        "keypoint_score": _numbers(people.keypoint_score),
        "person_box_xywh": _numbers(people.person_box_xywh),
        "box_score": _numbers(people.box_score),
        "motion": {
            name: {
                "shape": list(maps.shape),
                "uint8": base64.b64encode(maps.tobytes()).decode(),
            }
            for name, maps in people.motion.items()
        },
    }


def from_json(entry: dict) -> FramePoses:
    """Inverse of `to_json`, to the bit."""
    count = len(entry["track_id"])

    def array(key, *shape):
        # Without people the other axes are unknown and of no interest.
        values = np.array(entry[key], np.float32)
        return values if count else values.reshape(0, *shape)

    return FramePoses(
        index=entry["index"],
        time_s=entry["time_s"],
        name=entry["name"],
        image_size_hw=tuple(entry["image_size_hw"]),
        track_id=np.array(entry["track_id"], np.int64),
        keypoints_xy_image=array("keypoints_xy_image", 0, 2),
        keypoint_score=array("keypoint_score", 0),
        person_box_xywh=array("person_box_xywh", 4),
        box_score=array("box_score"),
        motion={
            name: np.frombuffer(base64.b64decode(value["uint8"]), np.uint8).reshape(
                value["shape"]
            )
            for name, value in entry["motion"].items()
        },
        image_id=entry["image_id"],
    )
