"""Accuracy and speed of windows that share crops, over the tolerance.

    python -m benchmarks.share_tolerance RUN [--tolerances=0,0.05,0.1]

RUN is a finished run folder of a network that looks at windows; its evaluation split is
read from its config's data.root. The first line is the naive window. Prints the table of
docs/speed.md and writes runs/bench/share_tolerance/<RUN>.json. `frames/window` counts
passes of the backbone per keyframe and person: T for naive windows, 1 at best.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import common
from configs.default import get_config

COLUMNS = ("tolerance", "score", "segment", "frames/window", "keyframes/s", "speed-up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", help="of the table; the run's by default")
    parser.add_argument("--root", help="data set, if not the config's data.root")
    parser.add_argument("--tolerances", default="0,0.025,0.05,0.1,0.15,0.2,0.3")
    parser.add_argument("--head", help=".safetensors of temporal modules, as eval.head")
    parser.add_argument("--weights", help="model.backbone_weights, with --head")
    parser.add_argument("--batch_size", type=int, default=8)
    flags = parser.parse_args()
    from data_pipelines.keyframes import KeyframeIterator
    from tdpose_jax import evaluate, predictors, setup_run
    from tdpose_jax.backends import JaxBackend
    from tdpose_jax.interop.export_torch import read_config

    config = get_config().unlock()  # has the fields that older runs do not know
    config.update(read_config(flags.run))
    config.eval.batch_size = flags.batch_size
    config.data.feature_cache = ""  # holds features of every window's own crop
    if flags.root:
        config.data.root = flags.root
    if flags.weights:
        config.model.backbone_weights = flags.weights
    parts = setup_run.make_parts(config)
    backend = JaxBackend(parts.model, load(config, flags))
    network = config, backend, parts.skeleton
    keyframes = KeyframeIterator(config.data, config.data.eval_split, 0, 1)
    truth = Path(config.data.root) / "ground_truth" / config.data.eval_split
    rows = []
    for tolerance in (None, *map(float, flags.tolerances.split(","))):
        config.eval.share_tolerance = -1.0 if tolerance is None else tolerance
        run = naive if tolerance is None else predictors.predict_keyframes
        run(*network, list_of(keyframes, 12))  # compiles
        start = time.perf_counter()
        collector = run(*network, keyframes)
        rate = keyframes.num_examples / (time.perf_counter() - start)
        results = evaluate.score_predictions(
            collector, truth, parts.skeleton, config.eval.metric, None
        )
        segments, frames = count(config, keyframes, tolerance)
        rows.append(
            {
                "tolerance": tolerance,
                "scores": {
                    k: v["total"]
                    for k, v in results.items()
                    if k == "AP" or k.startswith("PCK@")
                },
                "windows_per_segment": keyframes.num_examples / segments,
                "frames_per_window": frames / keyframes.num_examples,
                "keyframes_per_second": rate,
                "speed_up": rate / (rows[0]["keyframes_per_second"] if rows else rate),
            }
        )
        print(rows[-1], flush=True)
    save(flags.name or flags.run.name, rows, keyframes.num_examples)


def load(config, flags) -> dict:
    from tdpose_jax import setup_run
    from tdpose_jax.checkpoint import load_variables

    if not flags.head:
        return load_variables(flags.run, config.eval.checkpoint)[0]
    from tdpose_jax.interop.head_file import load_head

    return load_head(flags.head, setup_run.initial_variables(config, True))[0]


class list_of(list):  # noqa: N801
    """The first keyframes of an iterator, as another one."""

    def __init__(self, keyframes, length):
        super().__init__(k for k, _ in zip(keyframes, range(length), strict=False))
        self.max_persons = sum(len(k.sample_ids) for k in self)


def naive(config, backend, skeleton, keyframes):
    """Every window cropped with its own box, from the same pictures."""
    import cv2

    from tdpose_jax.geometry import box_to_window, image_to_crop_affine, invert_affine
    from tdpose_jax.predictions import PredictionCollector
    from tdpose_jax.predictors import locate_joints as locate
    from tdpose_jax.shapes import encode_sample_ids

    size_hw, batch = tuple(config.data.crop_size_hw), config.eval.batch_size
    collector, queue = PredictionCollector(), []

    def run():
        ids, scores, clips, affines = zip(*queue, strict=True)
        queue.clear()
        filled = np.zeros((batch, *clips[0].shape), np.uint8)
        filled[: len(clips)] = clips
        maps = backend(filled)["heatmaps"][: len(clips)]
        joints = locate(maps, np.stack(affines), decoder=config.eval.decoder)
        collector.add_people(
            encode_sample_ids(ids),
            np.array(scores),
            np.asarray(joints["keypoints_xy_image"]),
            np.asarray(joints["keypoint_score"]),
            np.ones(len(ids), bool),
        )

    for keyframe in keyframes:
        people = zip(
            keyframe.sample_ids, keyframe.box_score, keyframe.boxes_xywh, strict=True
        )
        for sample_id, score, box in people:
            window = box_to_window(box, size_hw, config.data.box_enlarge)
            affine = image_to_crop_affine(window, size_hw)
            clip = [
                cv2.warpAffine(image, affine, size_hw[::-1])
                for image in keyframe.images_rgb
            ]
            inverse = invert_affine(affine).astype(np.float32)
            queue.append((sample_id, score, np.stack(clip), inverse))
            if len(queue) == batch:
                run()
    if queue:
        run()
    return collector


def count(config, keyframes, tolerance) -> tuple[int, int]:
    """Segments, and passes of the backbone."""
    from tdpose_jax.shared_windows import WindowSharing

    if tolerance is None:
        frames = 2 * config.data.window_delta + 1
        return keyframes.num_examples, frames * keyframes.num_examples
    segments = frames = 0
    sequence = sharing = None
    for keyframe in keyframes:
        if keyframe.sequence != sequence:
            sequence = keyframe.sequence
            sharing = WindowSharing(
                list,
                tuple(config.data.crop_size_hw),
                config.data.box_enlarge,
                tolerance,
                1,
            )
        before = sharing.num_segments, sharing.num_encoded
        sharing.add(keyframe.frame_numbers, keyframe.images_rgb, keyframe.boxes_xywh)
        segments += sharing.num_segments - before[0]
        frames += sharing.num_encoded - before[1]
    return segments, frames


def save(name: str, rows: list[dict], num_people: int) -> None:
    path = common.FOLDER / "share_tolerance" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = common.environment(people=num_people)
    path.write_text(
        json.dumps({"rows": rows, "environment": environment}, indent=1) + "\n"
    )
    table = Table(title=f"Shared crops, {name}, {num_people} people")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in rows:
        tolerance = "naive" if row["tolerance"] is None else f"{row['tolerance']:g}"
        table.add_row(
            tolerance,
            "  ".join(f"{k} {v:.1f}" for k, v in row["scores"].items()),
            f"{row['windows_per_segment']:.1f}",
            f"{row['frames_per_window']:.2f}",
            f"{row['keyframes_per_second']:.1f}",
            f"{row['speed_up']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
