"""What every reader returns: a video's labels and where its frames are.

Plain Python and numpy; no TensorFlow. A reader never opens an image: frames are read
when their window is written, so memory does not grow with the data set.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from tdpose_jax.annotations import AnnotationError, SequenceLabel

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
JPEG_SUFFIXES = (".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class VideoSource:
    """One sequence.

    Attributes:
      label: frames and persons; `label.name` is unique within the split.
      frame_paths: one per frame of `label`; the file may be missing on disk.
      video: a video file that `frame_paths` have to be decoded from first; its frame
        i becomes `frame_paths[i]`.
      detections: per frame [N, 5] left, top, width, height, score; None without boxes.
      notes: (file, reason) of what was left out while reading.
    """

    label: SequenceLabel
    frame_paths: tuple[Path, ...]
    video: Path | None = None
    detections: tuple[np.ndarray, ...] | None = None
    notes: tuple[tuple[str, str], ...] = ()


def frame_number(name: str) -> int | None:
    """The number in a frame's file name: the text before `.` and the first `_`.

    PoseTrack17's original names have arbitrary starts and endings (`0042_crop.jpg`).
    """
    stem = PurePosixPath(name).name.split(".")[0].split("_")[0]
    return int(stem) if re.fullmatch(r"[0-9]{1,18}", stem) else None


def inside(root: Path, name: str, where: str) -> Path:
    """`root / name`, refusing names that leave the data folder.

    Raises:
      AnnotationError: for absolute names, `..` and names no file system takes.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise AnnotationError(
            f"{where}: image name {name!r} does not stay inside the data folder; it "
            "must be a relative path such as images/val/000001_mpii_test/000000.jpg"
        )
    return root / name


def list_images(folder: Path) -> list[str]:
    """Names of the image files of a folder, by frame number; empty if there is none."""
    try:
        names = [e.name for e in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    images = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(images, key=lambda n: (frame_number(n) or 0, n))


def find_frames(root: Path, label: SequenceLabel, where: str) -> tuple[Path, ...]:
    """Where the frames of a sequence are on disk.

    Names are tried as the labels have them, then below `images/` and
    `images_renamed/` (the renamed copies of the COCO form). If none of a sequence's
    frames is found but its folder holds as many images as the labels have frames, the
    k-th label is the k-th image by frame number: PoseTrack17's original names.

    Returns:
      One path per frame; the first guess where nothing was found.

    Raises:
      AnnotationError: if a name leaves `root`.
    """
    names = [frame.image_name for frame in label.frames]
    direct = tuple(inside(root, name, where) for name in names)
    candidates = [direct]
    for prefix in ("images", "images_renamed"):
        candidates.append(tuple(root / prefix / name for name in names))
    listed: dict[Path, set[str]] = {}

    def exists(path: Path) -> bool:
        if path.parent not in listed:
            listed[path.parent] = set(list_images(path.parent))
        return path.name in listed[path.parent]

    for paths in candidates:
        if any(exists(path) for path in paths):
            return paths
    for paths in candidates:
        folders = {path.parent for path in paths}
        if len(folders) == 1:
            folder = folders.pop()
            images = list_images(folder)
            if images and len(images) == len(paths):
                return tuple(folder / image for image in images)
    return direct


def check_split(videos: Iterable[VideoSource], split: str, folder: Path) -> None:
    """Refuses what cannot become a split.

    Raises:
      AnnotationError: naming the folder if it has no sequence, or two of one name.
    """
    seen = set()
    for video in videos:
        if video.label.name in seen:
            raise AnnotationError(
                f"{folder}: split {split!r} has two sequences named "
                f"{video.label.name!r}; rename one"
            )
        seen.add(video.label.name)
    if not seen:
        raise AnnotationError(
            f"{folder}: split {split!r} is empty; put one annotation file per "
            "sequence there, or remove the folder"
        )


def missing_source(source: Path, dataset: str, layout: str) -> AnnotationError:
    """The error for a source folder that does not hold the data set."""
    state = "holds none of it" if source.is_dir() else "does not exist"
    return AnnotationError(
        f"--source={source}: {state}; {dataset} needs there:\n{layout}"
    )
