"""Batches of predictions -> sequences of persons, whole, from every process."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from tdpose_jax.annotations import (
    FrameLabel,
    PersonLabel,
    SequenceLabel,
    load_annotations,
    save_posetrack17,
    save_posetrack18,
)
from tdpose_jax.shapes import PoseBatch, decode_sample_ids
from tdpose_jax.skeleton import Skeleton


@dataclasses.dataclass
class Prediction:
    """One person's joints, image pixels; joint scores already times the box score."""

    keypoints_xy_image: np.ndarray
    keypoint_score: np.ndarray


class PredictionCollector:
    """Gathers `Prediction`s by sample id, dropping the padding of batches."""

    def __init__(self):
        self._rows = {"sample_id": [], "xy": [], "score": [], "real": []}

    def add(
        self,
        batch: PoseBatch,
        keypoints_xy_image: np.ndarray,
        keypoint_score: np.ndarray,
    ) -> None:
        """Adds a batch of host arrays; [B, K, 2] and [B, K]."""
        self.add_people(
            np.asarray(batch.sample_id),
            np.asarray(batch.box_score),
            keypoints_xy_image,
            keypoint_score,
            np.asarray(batch.example_is_real),
        )

    def add_people(
        self,
        sample_id: np.ndarray,
        box_score: np.ndarray,
        keypoints_xy_image: np.ndarray,
        keypoint_score: np.ndarray,
        is_real: np.ndarray,
    ) -> None:
        """Adds people: [B, L] uint8 encoded ids, [B], [B, K, 2], [B, K], [B]."""
        box_score = np.asarray(box_score, np.float64)[:, None]
        self._rows["sample_id"].append(sample_id)
        self._rows["xy"].append(np.asarray(keypoints_xy_image, np.float64))
        self._rows["score"].append(np.asarray(keypoint_score, np.float64) * box_score)
        self._rows["real"].append(np.asarray(is_real))

    def gather(self) -> dict[str, Prediction]:
        """All predictions of all processes. Every process must call this."""
        rows = {name: np.concatenate(parts) for name, parts in self._rows.items()}
        if jax.process_count() > 1:
            # float64 does not survive a device array without x64; its bytes do.
            as_bytes = {
                name: np.ascontiguousarray(value).view(np.uint8).reshape(len(value), -1)
                for name, value in rows.items()
            }
            shapes = {name: (v.dtype, v.shape[1:]) for name, v in rows.items()}
            gathered = multihost_utils.process_allgather(as_bytes)
            rows = {
                name: np.ascontiguousarray(value)
                .reshape(-1, value.shape[-1])
                .view(shapes[name][0])
                .reshape(-1, *shapes[name][1])
                for name, value in gathered.items()
            }
        real = rows["real"].astype(bool)
        ids = decode_sample_ids(rows["sample_id"][real])
        if len(set(ids)) != len(ids):
            raise RuntimeError("a person was evaluated twice; the input is not sharded")
        pairs = zip(rows["xy"][real], rows["score"][real], strict=True)
        return {
            name: Prediction(xy, score)
            for name, (xy, score) in zip(ids, pairs, strict=True)
        }


def load_ground_truth(folder: Path) -> list[SequenceLabel]:
    """All annotation files of a split, by name.

    Raises:
      FileNotFoundError: if there is none.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise FileNotFoundError(
            f"no ground truth in {folder}: expected <sequence>.json files, which "
            "`python -m data_pipelines.build` writes"
        )
    return [load_annotations(path) for path in paths]


def to_sequences(
    predictions: dict[str, Prediction],
    ground_truth: Sequence[SequenceLabel],
    skeleton: Skeleton,
) -> list[SequenceLabel]:
    """Places predictions into the frames of the ground truth's sequences.

    Every frame is present, also those without predictions; persons keep the order of
    their index. Slots that are never annotated are left empty.

    Raises:
      ValueError: if a prediction names a sequence or frame that does not exist.
    """
    by_frame: dict[tuple[str, int], list[tuple[int, Prediction]]] = {}
    for sample_id, prediction in predictions.items():
        name, frame, person = sample_id.rsplit("/", 2)
        by_frame.setdefault((name, int(frame)), []).append((int(person), prediction))
    evaluated = np.zeros(skeleton.num_keypoints, bool)
    evaluated[list(skeleton.evaluated)] = True
    result = []
    for sequence in ground_truth:
        frames = []
        for index, frame in enumerate(sequence.frames):
            found = by_frame.pop((sequence.name, index), [])
            persons = tuple(
                _person(prediction, evaluated)
                for _, prediction in sorted(found, key=lambda pair: pair[0])
            )
            frames.append(FrameLabel(frame.image_name, frame.image_id, True, persons))
        result.append(SequenceLabel(sequence.name, sequence.skeleton, tuple(frames)))
    if by_frame:
        name, index = next(iter(by_frame))
        raise ValueError(
            f"a prediction is for frame {index} of sequence {name!r}, which the ground "
            "truth does not have; build the data set again"
        )
    return result


def _person(prediction: Prediction, evaluated: np.ndarray) -> PersonLabel:
    xyv = np.concatenate(
        [prediction.keypoints_xy_image, np.ones((len(evaluated), 1))], axis=1
    )
    return PersonLabel(
        keypoints_xyv=np.where(evaluated[:, None], xyv, 0.0),
        joint_scores=np.where(evaluated, prediction.keypoint_score, np.nan),
        score=float(prediction.keypoint_score[evaluated].mean()),
    )


def save_predictions(
    sequences: Sequence[SequenceLabel], folder: Path, skeleton: Skeleton
) -> None:
    """One file per sequence: the 2017 form for PoseTrack joints, else the 2018 form."""
    folder.mkdir(parents=True, exist_ok=True)
    save = save_posetrack17 if skeleton.name == "posetrack" else save_posetrack18
    for sequence in sequences:
        save(sequence, folder / f"{sequence.name}.json")
