"""Clips per second and core from shards, against libjpeg-turbo alone and OpenCV.

    python -m benchmarks.input_pipeline [--rounds=9]

Work: 1280x720 JPEG frames (about 180 KB, noise-textured like photographs), T = 5, one
person per record, augmented 384x288 crops as uint8 RGB. The peers get the same bytes
from memory and produce on one core

* `floor`: the decoded frames, nothing else: libjpeg-turbo as TensorFlow or as OpenCV
  calls it, whichever is faster;
* `opencv`: the same crops, by cv2.imdecode and cv2.warpAffine in a loop.

Ours starts from the files and ends in batches: reading, checksums, parsing, random
numbers, keypoints and batching included. `window` stands beside them: libjpeg-turbo
decoding only the part of each frame that the crop shows, which ours cannot beat.

All run in this process, pinned to one core, one after the other in every round; the
ratio is that of the medians. What is timed is the process's CPU time: ours works ahead
in threads, so wall time would charge some of its work to its peers.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import common  # noqa: E402
from configs.default import get_config  # noqa: E402
from data_pipelines.augment import Augmentation, augmented_window, draw_clip  # noqa: E402
from data_pipelines.crop_clips import source_window  # noqa: E402
from data_pipelines.input_pipeline import TrainIterator  # noqa: E402
from data_pipelines.records import Record, to_example  # noqa: E402
from tdpose_jax.geometry import (  # noqa: E402
    box_to_window,
    image_to_crop_affine,
    invert_affine,
)
from tdpose_jax.skeleton import POSETRACK  # noqa: E402

HEIGHT, WIDTH = 720, 1280
NUM_RECORDS, NUM_FRAMES = 16, 5
TARGET_FLOOR, TARGET_OPENCV = 0.8, 1.0


def photo(rng: np.random.Generator) -> np.ndarray:
    """[720, 1280, 3] uint8 noise at all scales, falling as in photographs."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for size in (2, 4, 8, 16, 32, 64, 128, 256):
        shape = (HEIGHT // size + 2, WIDTH // size + 2, 3)
        noise = rng.standard_normal(shape, dtype=np.float32)
        image += size**0.8 * cv2.resize(noise, (WIDTH, HEIGHT))
    image = 128 + 50 * (image - image.mean()) / image.std()
    image += rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def make_records() -> list[Record]:
    """Sixteen windows whose people are 250 to 450 pixels tall."""
    rng = np.random.default_rng(0)
    encoded = [
        cv2.imencode(".jpg", photo(rng), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        for _ in range(NUM_RECORDS)
    ]
    made = []
    for i in range(NUM_RECORDS):
        height = rng.uniform(250, 450)
        size = np.array([height * rng.uniform(0.3, 0.6), height])
        corner = rng.uniform(0, np.array([WIDTH, HEIGHT]) - size)
        xy = corner + size * rng.random((17, 2))
        visible = np.ones(17, int)
        visible[list(POSETRACK.unannotated)] = 0
        made.append(
            Record(
                sequence="bench",
                frame_index=i,
                frame_name=f"{i:06d}.jpg",
                frames=tuple(encoded[(i + t) % NUM_RECORDS] for t in range(NUM_FRAMES)),
                frame_is_real=np.ones(NUM_FRAMES),
                image_size_hw=(HEIGHT, WIDTH),
                person_index=np.zeros(1),
                track_id=np.zeros(1),
                keypoints_xy_image=xy[None],
                keypoint_visible=visible[None],
                person_box_xywh=np.concatenate([corner, size])[None],
                box_score=np.ones(1),
                head_box_xyxy=np.zeros((1, 4)),
            )
        )
    return made


def write_shards(root: Path, made: list[Record]) -> None:
    import tensorflow as tf

    entries = []
    for i in range(4):
        path = root / f"bench-train.tfrecord-{i:05d}-of-00004"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in made[i::4]:
                writer.write(to_example(record, 17))
        count = len(made[i::4])
        size = path.stat().st_size
        entries.append(
            dict(file=path.name, num_records=count, num_persons=count, bytes=size)
        )
    manifest = {
        "skeleton": "posetrack",
        "window_delta": NUM_FRAMES // 2,
        "splits": {"train": {"shards": entries}},
    }
    (root / "manifest.json").write_text(json.dumps(manifest))


def wait_until_idle() -> None:
    """Returns when this process's threads have nothing to do."""
    used = -1.0
    while time.process_time() - used > 0.002:
        used = time.process_time()
        time.sleep(0.05)


def report(rate: dict[str, float], kilobytes: float) -> None:
    """One row per peer."""
    targets = {"floor": TARGET_FLOOR, "opencv": TARGET_OPENCV, "window": None}
    rows = [
        common.Row(
            name=f"input_pipeline_vs_{peer}",
            ratio=rate["ours"] / rate[peer],
            target=target,
            ours=rate["ours"],
            peer=rate[peer],
            unit="clips/s",
            environment=common.environment(
                peer_is=peer, cv2=cv2.__version__, kilobytes_per_frame=round(kilobytes)
            ),
        )
        for peer, target in targets.items()
    ]
    common.report("Input pipeline, clips per second and core", rows)


def main() -> None:
    flags = common.parse_rounds(__doc__, 9)
    common.pin_cores(1)  # figures are per core
    import tensorflow as tf

    cv2.setNumThreads(1)
    config = get_config()
    data = config.data.unlock()
    made = make_records()
    size = tuple(data.crop_size_hw)
    augmentation = Augmentation.from_config(data)

    def floor_opencv() -> None:
        for record in made:
            for jpeg in record.frames:
                cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)

    def floor_tensorflow() -> None:
        for record in made:
            for jpeg in record.frames:
                tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")

    def window() -> None:
        for record, affine in zip(made, affines, strict=True):
            part = source_window(invert_affine(affine)[None], size, (HEIGHT, WIDTH))
            for jpeg in record.frames:
                tf.io.decode_and_crop_jpeg(
                    jpeg, part, channels=3, dct_method="INTEGER_ACCURATE"
                )

    affines = []
    for record in made:
        placed = augmented_window(
            draw_clip(0, 0, f"bench/{record.frame_index}/0"),
            augmentation,
            POSETRACK,
            box_to_window(record.person_box_xywh[0], size, data.box_enlarge),
            record.keypoints_xy_image[0],
            record.keypoint_visible[0],
            size,
        )
        affines.append(image_to_crop_affine(placed, size))

    def opencv() -> None:
        for record, affine in zip(made, affines, strict=True):
            for jpeg in record.frames:
                raw = np.frombuffer(jpeg, np.uint8)
                image = cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB)
                cv2.warpAffine(image, affine, size[::-1])

    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), made)
        data.root = folder
        batches = TrainIterator(data, 0, 8, 0, 1)

        def ours() -> None:
            for _ in range(NUM_RECORDS // 8):
                next(batches)
            wait_until_idle()  # the threads have again worked ahead, as before

        runs = (ours, floor_tensorflow, floor_opencv, window, opencv)
        rows = {f.__name__: (f, []) for f in runs}
        for round_ in range(flags.rounds + 1):  # the first warms up
            for run, seconds in rows.values():
                start = time.process_time()
                run()
                if round_:
                    seconds.append(time.process_time() - start)
    rate = {k: NUM_RECORDS / statistics.median(s) for k, (_, s) in rows.items()}
    rate["floor"] = max(rate.pop("floor_tensorflow"), rate.pop("floor_opencv"))
    report(rate, statistics.mean(len(r.frames[0]) for r in made) / 1e3)


if __name__ == "__main__":
    main()
