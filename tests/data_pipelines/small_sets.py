"""Tiny data sets in the public formats, made on the spot: no real data needed."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from data_pipelines.build_steps import BuildOptions
from data_pipelines.records import parse_example
from data_pipelines.tfrecord import read_records
from tdpose_jax.skeleton import JHMDB, POSETRACK

SIZE_HW = (48, 64)
TINY_SHARDS = 0.01  # megabytes: several shards from a few frames


def picture(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_LINEAR)


def write_frame(path: Path, seed: int, size_hw: tuple[int, int] = SIZE_HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(seed, size_hw))


def posetrack18_labels(
    name: str, split: str, num_frames: int, labeled: range, num_persons: int = 2
) -> dict:
    images, annotations = [], []
    for i in range(num_frames):
        image_id = 10**10 + i
        images.append(
            {
                "file_name": f"images/{split}/{name}/{i:06d}.jpg",
                "id": image_id,
                "frame_id": image_id,
                "nframes": num_frames,
                "is_labeled": i in labeled,
            }
        )
        for p in range(num_persons if i in labeled else 0):
            xyv = np.zeros((17, 3))
            for k in POSETRACK.evaluated:
                xyv[k] = 10 + 20 * p + k, 5 + 2 * k + i % 3, 1
            annotations.append(
                {
                    "id": image_id * 100 + p,
                    "image_id": image_id,
                    "category_id": 1,
                    "track_id": p,
                    "keypoints": xyv.ravel().tolist(),
                    "scores": [],
                    "bbox": [8.0 + 20 * p, 4.0, 24.0, 40.0],
                    "bbox_head": [10.0, 4.0, 6.0, 8.0],
                }
            )
    category = {"id": 1, "name": "person", "keypoints": list(POSETRACK.joints)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def make_posetrack18(
    root: Path,
    sequences: dict[str, tuple[str, ...]] | None = None,
    num_frames: int = 6,
) -> Path:
    """{split: names}; frames 1..num_frames-2 are labelled (all, if there are < 3)."""
    sequences = sequences or {"train": ("a", "b"), "val": ("c",)}
    labeled = range(1, num_frames - 1) if num_frames > 2 else range(num_frames)
    for split, names in sequences.items():
        folder = root / "annotations" / split
        folder.mkdir(parents=True)
        for name in names:
            labels = posetrack18_labels(name, split, num_frames, labeled)
            (folder / f"{name}.json").write_text(json.dumps(labels))
            for i, image in enumerate(labels["images"]):
                write_frame(root / image["file_name"], seed=hash_seed(name, i))
    return root


def hash_seed(name: str, index: int) -> int:
    return sum(name.encode()) * 1000 + index


def detection_list(split: str, name: str, frames: range) -> list[dict]:
    return [
        {
            "image_name": f"images/{split}/{name}/{i:06d}.jpg",
            "bbox": [5.0, 4.0, 20.0, 30.0 + i],
            "score": 0.9 - 0.1 * p,
            "category_id": 1,
        }
        for i in frames
        for p in range(2)
    ]


def make_jhmdb(
    root: Path, as_video: bool = True, num_frames: int = 5, clips: int = 2
) -> Path:
    """`clips` training and one test clip of the action `wave`."""
    lines = []
    for c in range(clips + 1):
        clip = f"clip_{c}_wave"
        lines.append(f"{clip}.avi {2 if c == clips else 1}")
        joints = np.zeros((2, 15, num_frames))
        joints[0] = np.arange(15)[:, None] * 3 + 5 + c
        joints[1] = np.arange(15)[:, None] * 2 + 4 + np.arange(num_frames)
        joints[:, JHMDB.index("left_ankle")] = 500  # outside
        folder = root / "joint_positions" / "wave" / clip
        folder.mkdir(parents=True)
        scipy.io.savemat(folder / "joint_positions.mat", {"pos_img": joints})
        if as_video:
            path = root / "ReCompress_Videos" / "wave" / f"{clip}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter_fourcc(*"MJPG")
            writer = cv2.VideoWriter(str(path), code, 25, SIZE_HW[::-1])
            for i in range(num_frames):
                writer.write(picture(100 * c + i))
            writer.release()
        else:
            for i in range(num_frames):
                write_frame(
                    root / "Rename_Images" / "wave" / clip / f"{i + 1:05d}.png",
                    100 * c + i,
                )
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / "wave_test_split1.txt").write_text("\n".join(lines) + "\n")
    return root


def folder_bytes(root: Path) -> dict[str, bytes]:
    """Every file below `root`, hidden ones too."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def pose_options(source: Path, output: Path, **changes) -> BuildOptions:
    values = {
        "dataset": "posetrack18",
        "boxes": source / "boxes.json",
        "shard_megabytes": TINY_SHARDS,
    }
    return BuildOptions(source=source, output=output, **(values | changes))


def read_split(folder: Path, split: str) -> list[dict]:
    records = []
    for path in sorted(folder.glob(f"*-{split}.tfrecord-*")):
        for data in read_records(path):
            row = parse_example(data, 17, 5)
            records.append({name: value.numpy() for name, value in row.items()})
    return records


def copy(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target
