"""Small built data sets for the input pipeline's tests: dots on black where joints are."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from configs.default import get_config
from data_pipelines.records import Record, to_example
from tdpose_jax.skeleton import POSETRACK

IMAGE_HW = (120, 160)
# Offsets of the 17 joints from a person's centre; left joints to the right.
BODY = np.array(
    "0,-90 0,-70 0,-115 0,0 0,0 -25,-60 25,-60 -40,-30 40,-30 -45,0 45,0 -15,0 15,0 "
    "-17,45 17,45 -18,90 18,90".replace(",", " ").split(),
    float,
).reshape(17, 2)


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def person(center_xy, scale=0.4) -> np.ndarray:
    """[17, 2] joints; ears at zero."""
    xy = np.asarray(center_xy) + scale * BODY
    xy[list(POSETRACK.unannotated)] = 0
    return xy


def dots(points_xy: np.ndarray, image_hw=IMAGE_HW) -> np.ndarray:
    """A Gaussian dot (sigma 2 px) at each point, sub-pixel, grey."""
    y, x = np.mgrid[: image_hw[0], : image_hw[1]]
    image = np.zeros(image_hw)
    for px, py in points_xy:
        image = np.maximum(image, np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8))
    return np.repeat((255 * image)[..., None], 3, -1).astype(np.uint8)


def make_record(
    sequence: str,
    frame: int,
    num_persons: int,
    rng: np.random.Generator,
    window_delta: int = 1,
    num_frames: int = 10,
    images: list | None = None,
) -> Record:
    window = np.arange(frame - window_delta, frame + window_delta + 1)
    inside = np.clip(window, 0, num_frames - 1)
    if images is None:  # frame number in the brightness
        images = [np.full((*IMAGE_HW, 3), 10 + 20 * i, np.uint8) for i in inside]
    keypoints = np.stack(
        [person(rng.uniform([40, 40], [120, 80])) for _ in range(num_persons)]
    )
    visible = np.ones((num_persons, 17), int)
    visible[:, list(POSETRACK.unannotated)] = 0
    low = keypoints[:, visible[0] > 0].min(1)
    high = keypoints[:, visible[0] > 0].max(1)
    return Record(
        sequence=sequence,
        frame_index=frame,
        frame_name=f"{frame:06d}.jpg",
        frames=tuple(jpeg(image) for image in images),
        frame_is_real=window == inside,
        image_size_hw=IMAGE_HW,
        person_index=np.arange(num_persons),
        track_id=np.arange(num_persons),
        keypoints_xy_image=keypoints,
        keypoint_visible=visible,
        person_box_xywh=np.concatenate([low, high - low], -1),
        box_score=np.ones(num_persons),
        head_box_xyxy=np.zeros((num_persons, 4)),
    )


def write_data_set(
    root: Path,
    splits: dict[str, list[list[Record]]],
    window_delta: int = 1,
    skeleton: str = "posetrack",
) -> None:
    """Shards and manifest as `data_pipelines.build` leaves them (no TFDS metadata).

    Args:
      splits: name -> shards -> records.
    """
    import tensorflow as tf

    root.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format_version": 1,
        "dataset": "test",
        "skeleton": skeleton,
        "window_delta": window_delta,
        "splits": {},
    }
    for split, shards in splits.items():
        entries = []
        for i, shard in enumerate(shards):
            path = root / f"test-{split}.tfrecord-{i:05d}-of-{len(shards):05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in shard:
                    writer.write(to_example(record, 17))
            entries.append(
                {
                    "file": path.name,
                    "num_records": len(shard),
                    "num_persons": sum(r.num_persons for r in shard),
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
        manifest["splits"][split] = {"shards": entries}
    (root / "manifest.json").write_text(json.dumps(manifest))


def random_data_set(root: Path, persons: list[list[int]], split="train") -> None:
    """Shards whose records have these numbers of people."""
    rng = np.random.default_rng(0)
    shards = [
        [make_record(f"seq{s}", r, n, rng) for r, n in enumerate(shard)]
        for s, shard in enumerate(persons)
    ]
    write_data_set(root, {split: shards})


def data_config(root: Path, **overrides):
    """`config.data` for crops of 64x48 and one frame to each side."""
    data = get_config().data.unlock()
    data.root = str(root)
    data.window_delta = 1
    data.crop_size_hw = (64, 48)
    data.shuffle_segment_shards = 2
    for name, value in overrides.items():
        data[name] = value
    return data.lock()
