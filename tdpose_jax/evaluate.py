"""Evaluation: every person of a split once, scored by the benchmark's own rules."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from tdpose_jax import heatmaps as hm
from tdpose_jax.annotations import SequenceLabel
from tdpose_jax.metrics import pck, protocols
from tdpose_jax.predictions import (
    Prediction,
    PredictionCollector,
    load_ground_truth,
    save_predictions,
    to_sequences,
)
from tdpose_jax.run_folder import write_json
from tdpose_jax.shapes import HEATMAP_STRIDE, PoseBatch, decode_sample_ids
from tdpose_jax.skeleton import Skeleton
from tdpose_jax.visualize import save_batch_pictures

METRICS = ("poseval", "posetrack21", "pck")


def predict_split(
    predict: Callable[[PoseBatch], dict],
    batches: Iterable[PoseBatch],
    progress: Callable[[int], None] = lambda done: None,
    picture: Callable[[PoseBatch, Callable[[], dict]], None] | None = None,
) -> PredictionCollector:
    """Runs a network over a finite input.

    Args:
      predict: of `predictors.make_predictor`.
      progress: called with the number of batches done.
      picture: called with each batch and its predictions until it has enough.
    """
    collector = PredictionCollector()
    for done, batch in enumerate(batches, start=1):
        result = predict(batch)

        def local(x):
            if isinstance(x, np.ndarray):
                return x
            shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
            x = np.concatenate([np.asarray(s.data) for s in shards])
            return x.reshape(-1, *x.shape[2:])

        collector.add(
            batch, local(result["keypoints_xy_image"]), local(result["keypoint_score"])
        )
        if picture is not None:
            picture(batch, lambda r=result: jax.tree.map(local, r))
        progress(done)
    return collector


def score_predictions(
    collector: PredictionCollector,
    ground_truth_dir: Path,
    skeleton: Skeleton,
    metric: str,
    output: Path | None,
) -> dict:
    """Gathers, writes prediction files and scores. Every process must call this.

    Returns:
      For poseval and posetrack21: `AP` {joint group: .., "total": ..} in 0..100 and
      `per_joint`, every figure of the protocol. For pck: `PCK@0.2` etc. {joint: ..,
      "total": ..}, of the longer side of the person's box, 0..100.

    Raises:
      ValueError: for an unknown metric.
    """
    if metric not in METRICS:
        raise ValueError(f"eval.metric={metric!r}; choose one of {METRICS}")
    predictions = collector.gather()
    ground_truth = load_ground_truth(ground_truth_dir)
    sequences = to_sequences(predictions, ground_truth, skeleton)
    if output is not None and jax.process_index() == 0:
        save_predictions(sequences, output / "predictions", skeleton)
    result = {"num_persons": len(predictions), "metric": metric}
    if metric == "pck":
        return result | score_pck(predictions, ground_truth, skeleton)
    scores = protocols.score(ground_truth, sequences, metric)
    groups = protocols.group_means(scores["AP"], skeleton)
    result["AP"] = {k.lower() if k == "Total" else k: v for k, v in groups.items()}
    result["num_frames"] = scores["num_frames"]
    result["per_joint"] = {k: v for k, v in scores.items() if isinstance(v, dict)}
    return result


def score_pck(
    predictions: dict[str, Prediction],
    ground_truth: Sequence[SequenceLabel],
    skeleton: Skeleton,
) -> dict:
    """`PCK@t` of every predicted person, normalised by the longer side of its box.

    A sample id's person number is the person's place in the ground truth's frame.
    """
    labels = {
        f"{sequence.name}/{frame}/{person}": label
        for sequence in ground_truth
        for frame, frame_label in enumerate(sequence.frames)
        for person, label in enumerate(frame_label.persons)
    }
    predicted, truth, labelled, boxes = [], [], [], []
    for sample_id, prediction in predictions.items():
        label = labels[sample_id]
        predicted.append(prediction.keypoints_xy_image)
        truth.append(label.keypoints_xyv[:, :2])
        labelled.append(label.keypoints_xyv[:, 2] > 0)
        boxes.append(label.person_box_xywh)
    sums = pck.pck_sums(
        np.array(predicted),
        np.array(truth),
        np.array(labelled),
        pck.person_box_reference(np.array(boxes)),
    )
    return {f"PCK@{t}": sums.result(skeleton, t) for t in sums.thresholds}


def headline(results: dict) -> float:
    """The one number by which checkpoints are compared, 0..100."""
    table = results["AP"] if "AP" in results else results["PCK@0.2"]
    return table["total"]


class PictureTaker:
    """Saves pictures of the first `count` persons, spread over the first batches."""

    def __init__(self, folder: Path, count: int, sigma: float, encoder: str, skeleton):
        self._folder, self._left = folder, count
        self._encode = lambda xy, weight, size: hm.encode_heatmaps(
            xy, weight, size, sigma, encoder
        )[0]
        self._skeleton = skeleton

    def __call__(self, batch: PoseBatch, fetch: Callable[[], dict]) -> None:
        """Draws a few of the people; `fetch()` brings their predictions to the host."""
        if self._left <= 0 or jax.process_index() != 0:
            return
        real = np.flatnonzero(batch.example_is_real)
        picked = real[:: max(1, len(real) // 3)][: min(3, self._left)]
        if not len(picked):
            return
        self._left -= len(picked)
        batch = jax.tree.map(lambda x: x[picked], batch)
        prediction = jax.tree.map(lambda x: x[picked], fetch())
        size_hw = tuple(s // HEATMAP_STRIDE for s in batch.frames.shape[2:4])
        targets = self._encode(batch.keypoints_xy_crop, batch.keypoint_weight, size_hw)
        names = [s.replace("/", "_") for s in decode_sample_ids(batch.sample_id)]
        save_batch_pictures(
            self._folder, batch, prediction, np.asarray(targets), self._skeleton, names
        )


def save_results(results: dict, path: Path) -> None:
    """Writes results.json from one process."""
    if jax.process_index() == 0:
        write_json(path, results)
