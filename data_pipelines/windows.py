"""Sequences -> windows (which frames, which people) -> records.

A window belongs to one keyframe. Its slots before the start and after the end of the
sequence, and those whose file is missing or damaged, repeat the nearest usable frame
on the way to the keyframe; `frame_is_real` is 0 there. Without its keyframe a window
is skipped.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from data_pipelines.frames import FrameError
from data_pipelines.records import Record
from data_pipelines.sources import VideoSource
from tdpose_jax.annotations import AnnotationError, FrameLabel, PersonLabel
from tdpose_jax.geometry import keypoints_box_xywh
from tdpose_jax.skeleton import Skeleton, get_skeleton

BOX_ENLARGE = 1.3  # of the joints' extent, as PoseTrack18's own boxes
# `tdpose_jax.shapes.SAMPLE_ID_BYTES`, not imported because that module needs jax.
MAX_SAMPLE_ID_BYTES = 128


@dataclasses.dataclass(frozen=True)
class People:
    """The persons of a record, fields as in `records.FIELDS`."""

    person_index: np.ndarray
    track_id: np.ndarray
    keypoints_xy_image: np.ndarray
    keypoint_visible: np.ndarray
    person_box_xywh: np.ndarray
    box_score: np.ndarray
    head_box_xyxy: np.ndarray

    def digest(self) -> bytes:
        """Bytes that change when any field changes."""
        parts = (getattr(self, f.name) for f in dataclasses.fields(self))
        return b"".join(
            str((a.dtype.str, a.shape)).encode() + a.tobytes() for a in parts
        )


@dataclasses.dataclass(frozen=True)
class Window:
    """All that is needed to write one record.

    Attributes:
      frame_paths: T files in time order, the keyframe's in the middle; None outside
        the sequence.
    """

    sequence: str
    frame_index: int
    frame_name: str
    frame_paths: tuple[Path | None, ...]
    people: People

    @property
    def key(self) -> str:
        """`sequence/frame`, unique within the split."""
        return f"{self.sequence}/{self.frame_index}"

    @property
    def order(self) -> bytes:
        """Sorts windows of neighbouring frames apart, the same way everywhere."""
        return hashlib.sha256(self.key.encode()).digest()


def label_windows(
    video: VideoSource, window_delta: int
) -> tuple[list[Window], list[tuple[str, str]]]:
    """One window per labelled frame with at least one usable person.

    A person needs a labelled joint and a box with area: the annotated box, or else the
    joints' extent enlarged 1.3 times.

    Returns:
      Windows, and (sequence, reason) of what was left out.
    """
    skeleton = get_skeleton(video.label.skeleton)
    windows = []
    left_out: dict[str, int] = {}
    for index, frame in enumerate(video.label.frames):
        if not frame.is_labeled:
            continue
        kept = []
        for i, person in enumerate(frame.persons):
            reason = _why_unusable(person, skeleton)
            if reason:
                left_out[reason] = left_out.get(reason, 0) + 1
            else:
                kept.append((i, person))
        if kept:
            people = _label_people(kept, skeleton)
            windows.append(_window(video, index, frame, people, window_delta))
    notes = [
        (video.label.name, f"{count} persons {reason}")
        for reason, count in sorted(left_out.items())
    ]
    return windows, notes


def detection_windows(video: VideoSource, window_delta: int) -> list[Window]:
    """One window per labelled frame, with the detector's boxes as its people.

    Frames without a box get a record too, so that every frame is accounted for. In a
    sequence without labels (a test split) every frame is a keyframe.
    """
    assert video.detections is not None
    skeleton = get_skeleton(video.label.skeleton)
    labeled = any(frame.is_labeled for frame in video.label.frames)
    return [
        _window(video, index, frame, _box_people(boxes, skeleton), window_delta)
        for index, (frame, boxes) in enumerate(
            zip(video.label.frames, video.detections, strict=True)
        )
        if frame.is_labeled or not labeled
    ]


def build_record(
    window: Window,
    read: Callable[[Path], tuple[bytes, tuple[int, int]]],
    note: Callable[[Path, str], None],
) -> Record | None:
    """Reads a window's frames.

    Args:
      read: `frames.read_frame` or a cache of it.
      note: called with each file that could not be used and why.

    Returns:
      The record, or None if the keyframe cannot be used.
    """
    middle = len(window.frame_paths) // 2
    key_path = window.frame_paths[middle]
    assert key_path is not None
    try:
        key_frame, size_hw = read(key_path)
    except FrameError as error:
        note(key_path, f"{error}; its window is skipped")
        return None
    frames = [key_frame] * len(window.frame_paths)
    is_real = np.zeros(len(frames), np.int64)
    is_real[middle] = 1
    for step in (-1, 1):
        at = middle + step
        while 0 <= at < len(frames):
            frames[at] = frames[at - step]
            path = window.frame_paths[at]
            if path is not None:
                try:
                    data, hw = read(path)
                    if hw != size_hw:
                        raise FrameError(
                            f"{hw[1]}x{hw[0]} pixels beside a keyframe of "
                            f"{size_hw[1]}x{size_hw[0]}"
                        )
                    frames[at] = data
                    is_real[at] = 1
                except FrameError as error:
                    note(path, f"{error}; neighbours repeat the nearest frame")
            at += step
    return Record(
        sequence=window.sequence,
        frame_index=window.frame_index,
        frame_name=window.frame_name,
        frames=tuple(frames),
        frame_is_real=is_real,
        image_size_hw=size_hw,
        **{f.name: getattr(window.people, f.name) for f in dataclasses.fields(People)},
    )


def _window(
    video: VideoSource, index: int, frame: FrameLabel, people: People, delta: int
) -> Window:
    paths = video.frame_paths
    slots = range(index - delta, index + delta + 1)
    window = Window(
        sequence=video.label.name,
        frame_index=index,
        frame_name=frame.image_name,
        frame_paths=tuple(paths[i] if 0 <= i < len(paths) else None for i in slots),
        people=people,
    )
    last = int(people.person_index.max(initial=0))
    size = len(f"{window.key}/{last}".encode())
    if size > MAX_SAMPLE_ID_BYTES:
        raise AnnotationError(
            f"sequence {video.label.name!r}: its name is {size - MAX_SAMPLE_ID_BYTES} "
            "bytes too long for a sample id; rename the annotation file"
        )
    return window


def _person_box(person: PersonLabel) -> np.ndarray | None:
    if person.person_box_xywh is not None:
        return np.asarray(person.person_box_xywh)
    xyv = person.keypoints_xyv
    return keypoints_box_xywh(xyv[:, :2], xyv[:, 2] > 0, BOX_ENLARGE)


def _why_unusable(person: PersonLabel, skeleton: Skeleton) -> str | None:
    visible = person.keypoints_xyv[list(skeleton.evaluated), 2] > 0
    if not visible.any():
        return "without labelled joints"
    box = _person_box(person)
    if box is None or min(box[2:]) <= 0:
        return "with a box without area"
    return None


def _label_people(
    kept: Iterable[tuple[int, PersonLabel]], skeleton: Skeleton
) -> People:
    indices, persons = zip(*kept, strict=True)
    xyv = np.stack([p.keypoints_xyv for p in persons])
    visible = xyv[..., 2].astype(np.int64)
    visible[:, list(skeleton.unannotated)] = 0
    none = np.zeros(4)
    heads = [none if p.head_box_xyxy is None else p.head_box_xyxy for p in persons]
    return People(
        person_index=np.array(indices, np.int64),
        track_id=np.array(
            [-1 if p.track_id is None else p.track_id for p in persons], np.int64
        ),
        keypoints_xy_image=(xyv[..., :2] * (visible > 0)[..., None]).astype("f4"),
        keypoint_visible=visible,
        person_box_xywh=np.stack([_person_box(p) for p in persons]).astype("f4"),
        box_score=np.ones(len(persons), "f4"),
        head_box_xyxy=np.stack(heads).astype("f4"),
    )


def _box_people(boxes: np.ndarray, skeleton: Skeleton) -> People:
    count, k = len(boxes), skeleton.num_keypoints
    return People(
        person_index=np.arange(count, dtype=np.int64),
        track_id=np.full(count, -1, np.int64),
        keypoints_xy_image=np.zeros((count, k, 2), "f4"),
        keypoint_visible=np.zeros((count, k), np.int64),
        person_box_xywh=boxes[:, :4].astype("f4"),
        box_score=boxes[:, 4].astype("f4"),
        head_box_xyxy=np.zeros((count, 4), "f4"),
    )
