"""The embedded data set: people who move, blur and occlude each other.

Written as PoseTrack18 label files and JPEG frames, so that everything downstream is the
real path:

    annotations/{split}/{sequence}.json
    images/{split}/{sequence}/%06d.jpg

Two keys are extra and ignored by readers of the format: `annotations[].occluded` (17
flags, joint covered at mid-exposure) and `images[].spoilt` (flash, defocus, darkness or
jolt), so that results can be broken down by what the keyframe alone shows.

The same arguments give the same bytes whatever `workers` is: each sequence is a
function of (seed, split, number) alone.
"""

import concurrent.futures
import json
import multiprocessing
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.synthetic_labels import RenderedPerson
from data_pipelines.synthetic_scene import (
    FRAMES_PER_SECOND,
    RenderedFrame,
    render_frames,
)
from tdpose_jax.skeleton import POSETRACK

# Arguments of `generate` for the demo: learnable by a small network in minutes.
DEMO = {
    "num_sequences": {"train": 80, "val": 15},
    "num_frames": 16,
    "image_size_hw": (240, 320),
    "people": (2, 3),
}
_SOURCE_DIGIT = 1  # "mpii" in PoseTrack18's ids
_CATEGORY_SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8),
    (7, 9), (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


def render_sequence(
    seed: int | tuple[int, ...],
    num_frames: int,
    image_size_hw: tuple[int, int] = DEMO["image_size_hw"],
    people: tuple[int, int] = DEMO["people"],
) -> Iterator[tuple[np.ndarray, list[RenderedPerson]]]:
    """Yields (frame, persons) of an endless-capable video in constant memory.

    Frames are uint8 BGR of `image_size_hw`, 25 per second. All persons are labelled in
    every frame in which they have four joints or more.
    """
    for frame in render_frames(seed, num_frames, image_size_hw, people):
        yield frame.frame_bgr, list(frame.persons)


def render_video(
    path: Path,
    seed: int,
    num_frames: int,
    image_size_hw: tuple[int, int] = DEMO["image_size_hw"],
    people: tuple[int, int] = DEMO["people"],
) -> list[list[RenderedPerson]]:
    """Writes an .avi or .mp4 and returns the persons of each frame.

    Raises:
      ValueError: if OpenCV cannot write such a file.
    """
    path = Path(path)
    code = cv2.VideoWriter_fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    height, width = image_size_hw
    writer = cv2.VideoWriter(str(path), code, FRAMES_PER_SECOND, (width, height))
    if not writer.isOpened():
        raise ValueError(f"{path}: cannot write this video; use .mp4 or .avi")
    labels = []
    for frame_bgr, persons in render_sequence(seed, num_frames, image_size_hw, people):
        writer.write(frame_bgr)
        labels.append(persons)
    writer.release()
    return labels


def sequence_name(split: str, number: int) -> str:
    """PoseTrack18's name: validation sequences end in `_test`, as there."""
    return f"{number:06d}_mpii_{'train' if split == 'train' else 'test'}"


def unlabelled_ends(num_frames: int) -> int:
    """How many frames at each end have no labels, as in PoseTrack's clips."""
    return num_frames // 12


def _image_entry(split: str, number: int, index: int, num_frames: int) -> dict:
    image_id = _SOURCE_DIGIT * 10**10 + number * 10**4 + index
    return {
        "file_name": f"images/{split}/{sequence_name(split, number)}/{index:06d}.jpg",
        "id": image_id,
        "frame_id": image_id,
        "vid_id": f"{number:06d}",
        "nframes": num_frames,
        "is_labeled": False,
        "has_no_densepose": True,
        "spoilt": False,
    }


def _annotation(image_id: int, person: RenderedPerson) -> dict:
    x0, y0, x1, y1 = person.head_box_xyxy
    return {
        "id": image_id * 100 + person.track_id,
        "image_id": image_id,
        "category_id": 1,
        "track_id": person.track_id,
        "keypoints": [float(v) for v in person.keypoints_xyv.ravel()],
        "scores": [],
        "bbox": [float(v) for v in person.person_box_xywh],
        "bbox_head": [float(v) for v in (x0, y0, x1 - x0, y1 - y0)],
        "occluded": [int(v) for v in person.occluded],
    }


def _check(num_frames, image_size_hw, people) -> None:
    if not 1 <= num_frames < 10000:  # ids have four digits for the frame
        raise ValueError(f"num_frames is {num_frames}; it must be in 1..9999")
    if min(image_size_hw) < 64:
        raise ValueError(f"image_size_hw is {image_size_hw}; both must be at least 64")
    if not 1 <= people[0] <= people[1] < 100:  # ids have two digits for the person
        raise ValueError(f"people is {people}; needs 1 <= least <= most <= 99")


def _write_sequence(
    output: Path,
    seed: int,
    split: str,
    number: int,
    num_frames: int,
    image_size_hw: tuple[int, int],
    people: tuple[int, int],
) -> None:
    cv2.setNumThreads(1)
    name = sequence_name(split, number)
    folder = output / "images" / split / name
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    ends = unlabelled_ends(num_frames)
    key = (seed, zlib.crc32(split.encode()), number)
    rendered = render_frames(key, num_frames, image_size_hw, people)
    for index, frame in enumerate(rendered):
        entry = _image_entry(split, number, index, num_frames)
        _write_jpeg(folder / f"{index:06d}.jpg", frame)
        entry["spoilt"] = frame.spoilt
        if ends <= index < num_frames - ends:
            entry["is_labeled"] = True
            if frame.ignore_polygons:
                regions = [np.round(p, 2).tolist() for p in frame.ignore_polygons]
                entry["ignore_regions_x"] = [[x for x, _ in p] for p in regions]
                entry["ignore_regions_y"] = [[y for _, y in p] for p in regions]
            annotations += [_annotation(entry["id"], p) for p in frame.persons]
        images.append(entry)
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(POSETRACK.joints),
        "skeleton": [list(limb) for limb in _CATEGORY_SKELETON],
    }
    labels = {"images": images, "annotations": annotations, "categories": [category]}
    path = output / "annotations" / split / f"{name}.json"
    path.write_text(json.dumps(labels))


def _write_jpeg(path: Path, frame: RenderedFrame) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, frame.jpeg_quality]
    ok, data = cv2.imencode(".jpg", frame.frame_bgr, quality)
    if not ok:
        raise RuntimeError(f"{path}: OpenCV could not encode the frame")
    path.write_bytes(data.tobytes())


def generate(
    output: Path,
    seed: int,
    num_sequences: dict[str, int],
    num_frames: int,
    image_size_hw: tuple[int, int],
    people: tuple[int, int],
    workers: int,
) -> None:
    """Writes the data set below `output`.

    Args:
      output: folder; files of the same names are overwritten.
      seed: decides everything.
      num_sequences: split -> number of sequences. Numbers run on through the splits.
      num_frames: of every sequence.
      image_size_hw: of every frame.
      people: least and most persons of a sequence.
      workers: processes; 1 works in this one. Does not change the output.

    Raises:
      ValueError: for arguments that make no sense.
    """
    _check(num_frames, image_size_hw, people)
    output = Path(output)
    jobs, number = [], 0
    for split, count in num_sequences.items():
        (output / "annotations" / split).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            number += 1
            rest = (num_frames, tuple(image_size_hw), tuple(people))
            jobs.append((output, seed, split, number, *rest))
    if workers <= 1:
        for job in jobs:
            _write_sequence(*job)
        return
    # Spawned, because a forked child of a process that runs JAX may hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        for done in [pool.submit(_write_sequence, *job) for job in jobs]:
            done.result()
