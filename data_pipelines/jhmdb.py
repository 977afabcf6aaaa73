"""JHMDB in its official layout -> `VideoSource`s.

    ReCompress_Videos/<action>/<clip>.avi      or Rename_Images/<action>/<clip>/*.png
    joint_positions/<action>/<clip>/joint_positions.mat     pos_img: 2 x 15 x T
    splits/<action>_test_split<N>.txt          "<clip>.avi 1" train, 2 test

`pos_img` counts pixels from 1 (MATLAB); ours count from 0. Every frame has one person.
Joints outside the image are extrapolated by the puppet that made the labels: they are
zeros with visibility 0 here. The person's box is the extent of the joints inside the
image, enlarged 1.3 times (PoseTrack18's rule), since the puppet mask is not needed for
anything else.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from data_pipelines.frames import image_size_hw, video_size_hw
from data_pipelines.sources import VideoSource, check_split, list_images, missing_source
from tdpose_jax.annotations import (
    AnnotationError,
    FrameLabel,
    PersonLabel,
    SequenceLabel,
)
from tdpose_jax.geometry import keypoints_box_xywh
from tdpose_jax.matfile import load_mat
from tdpose_jax.skeleton import JHMDB

LAYOUT = """  ReCompress_Videos/<action>/<clip>.avi or Rename_Images/<action>/<clip>/*.png
  joint_positions/<action>/<clip>/joint_positions.mat
  splits/<action>_test_split<N>.txt"""
BOX_ENLARGE = 1.3
SPLIT_OF_MARK = {"1": "train", "2": "val"}


def read_jhmdb(source: Path, split_index: int = 1) -> dict[str, list[VideoSource]]:
    """All clips, by split: `train`, and `val` = the official test clips.

    A folder of test clips alone has no `train`, and the other way round. Listed clips
    of which nothing is there are left out, and noted.

    Raises:
      AnnotationError: naming file, field and remedy.
    """
    lists = sorted((source / "splits").glob(f"*_test_split{split_index}.txt"))
    if not lists:
        raise missing_source(source, f"jhmdb (split {split_index})", LAYOUT)
    splits: dict[str, list[VideoSource]] = {"train": [], "val": []}
    absent: list[tuple[str, str]] = []
    for path in lists:
        action = path.name.removesuffix(f"_test_split{split_index}.txt")
        for clip, mark in read_split_list(path):
            if mark not in SPLIT_OF_MARK:  # 0: not used in this split
                continue
            if any(place.exists() for place in _places(source, action, clip)):
                splits[SPLIT_OF_MARK[mark]].append(_read_clip(source, action, clip))
            else:  # the official lists name all clips, whichever were copied
                absent.append((f"splits/{path.name}", f"clip {clip!r} is not there"))
    splits = {split: videos for split, videos in splits.items() if videos}
    if not splits:
        raise AnnotationError(
            f"{source / 'splits'}: no clip that is there is marked 1 (train) or 2 "
            f"(test); {len(absent)} clips are listed but have neither video, frames "
            "nor joint_positions"
        )
    for split, videos in splits.items():
        check_split(videos, split, source / "splits")
    first = next(iter(splits.values()))
    first[0] = dataclasses.replace(first[0], notes=tuple(absent))
    return splits


def _places(source: Path, action: str, clip: str) -> tuple[Path, Path, Path]:
    """Labels, frames, video."""
    return (
        source / "joint_positions" / action / clip / "joint_positions.mat",
        source / "Rename_Images" / action / clip,
        source / "ReCompress_Videos" / action / f"{clip}.avi",
    )


def read_split_list(path: Path) -> list[tuple[str, str]]:
    """(clip, mark) of each line; marks are 0 unused, 1 train, 2 test.

    Raises:
      AnnotationError: naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not a text file ({error.reason})") from error
    out = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([^/\0]+?)(\.avi)? ([012])\s*", line)
        if not match or match[1] in (".", ".."):
            raise AnnotationError(
                f"{path}: line {number} is {line[:80]!r}, expected "
                "'<clip>.avi 1' (train), 2 (test) or 0"
            )
        out.append((match[1], match[3]))
    return out


def load_joint_positions(path: Path) -> np.ndarray:
    """[T, 15, 2] float64 joints in image pixels, counted from 0.

    Raises:
      AnnotationError: if the file or its `pos_img` is not what it should be.
    """
    positions = load_mat(path).get("pos_img")
    if not isinstance(positions, np.ndarray):
        raise AnnotationError(f"{path}: has no numeric field pos_img")
    if positions.ndim == 2:  # MATLAB drops the last axis of a clip of one frame
        positions = positions[:, :, None]
    if positions.ndim != 3 or positions.shape[0] != 2 or positions.shape[2] == 0:
        raise AnnotationError(
            f"{path}: pos_img has shape {positions.shape}, expected (2, 15, frames)"
        )
    if positions.shape[1] != JHMDB.num_keypoints:
        raise AnnotationError(
            f"{path}: pos_img has {positions.shape[1]} joints, JHMDB has "
            f"{JHMDB.num_keypoints}"
        )
    positions = positions.astype(np.float64).transpose(2, 1, 0)
    if not (np.abs(positions) < 1e6).all():
        raise AnnotationError(f"{path}: pos_img has values that are no image positions")
    return positions - 1.0


def label_person(
    joints_xy_image: np.ndarray, size_hw: tuple[int, int]
) -> PersonLabel | None:
    """The clip's person in one frame; None if no joint lies inside the image."""
    height, width = size_hw
    x, y = joints_xy_image[:, 0], joints_xy_image[:, 1]
    # A pixel covers half a unit around its centre.
    seen = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    box = keypoints_box_xywh(joints_xy_image, seen, BOX_ENLARGE)
    if box is None:
        return None
    xyv = np.concatenate([joints_xy_image, np.ones_like(x)[:, None]], axis=1)
    return PersonLabel(
        keypoints_xyv=xyv * seen[:, None],
        joint_scores=np.full(len(x), np.nan),
        person_box_xywh=box,
        track_id=0,
    )


def _read_clip(source: Path, action: str, clip: str) -> VideoSource:
    labels, folder, video = _places(source, action, clip)
    joints = load_joint_positions(labels)
    images = list_images(folder)
    if images:
        size_hw = image_size_hw(folder / images[0])
        paths = [folder / image for image in images[: len(joints)]]
        paths += [folder / f"{i + 1:05d}.png" for i in range(len(paths), len(joints))]
    elif video.is_file():
        size_hw = video_size_hw(video)
        paths = [Path(f"{i:06d}.jpg") for i in range(len(joints))]
    else:
        raise AnnotationError(
            f"{video}: missing, and no frames in {folder}; the list in splits/ names "
            f"the clip {clip!r}"
        )
    frames = tuple(
        FrameLabel(
            image_name=f"{action}/{clip}/{i + 1:05d}.png",
            persons=() if person is None else (person,),
        )
        for i, person in enumerate(label_person(xy, size_hw) for xy in joints)
    )
    return VideoSource(
        label=SequenceLabel(name=clip, skeleton=JHMDB.name, frames=frames),
        frame_paths=tuple(paths),
        video=None if images else video,
    )
