"""Sequences as flat arrays, cleaned as the evaluators clean them.

Rows are persons in file order; a frame's persons are contiguous. Everything after this
file is array arithmetic.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tdpose_jax.annotation_types import FrameLabel, PersonLabel, SequenceLabel
from tdpose_jax.metrics.ignore_regions import inside_any_polygon
from tdpose_jax.skeleton import POSETRACK_OFFICIAL_JOINTS, get_skeleton

# The score poseval and the PoseTrack21 kit give a joint without one.
NO_SCORE = -9999.0


@dataclasses.dataclass(frozen=True)
class Rules:
    """How one evaluator reads the files.

    Attributes:
      frame_needs: "persons": a frame counts if its ground truth lists a person (poseval);
        "label": if it is marked `is_labeled` (PoseTrack21's kit).
      joint_needs: "any_number": a joint exists unless x, y and v are all 0 (poseval);
        "positive_xy": if x > 0 and y > 0 (PoseTrack21's kit).
      reference: "head": 0.6 times the head rectangle's diagonal; "person_box": 0.15 times
        the longer side of the person's box.
    """

    frame_needs: str = "persons"
    joint_needs: str = "any_number"
    reference: str = "head"


@dataclasses.dataclass(frozen=True)
class PersonTable:
    """N persons of any number of frames.

    Attributes:
      frame: [N] index of the kept frame, non-decreasing.
      xy: [N, J, 2] image pixels.
      present: [N, J] bool.
      scores: [N, J].
      reference_size: [N] image pixels, the length that distances are divided by; NaN in
        predictions.
      track: [N] index of the identity, 0..num_tracks-1; meaningless without tracks.
      num_tracks: identities of all sequences together.
    """

    frame: np.ndarray
    xy: np.ndarray
    present: np.ndarray
    scores: np.ndarray
    reference_size: np.ndarray
    track: np.ndarray
    num_tracks: int

    def __len__(self) -> int:
        return len(self.frame)


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Ground truth and predictions over the kept frames of some sequences.

    Attributes:
      joints: J names, the order of all joint axes.
      sequence_of_frame: [F] index of the sequence of each kept frame, non-decreasing.
      num_sequences: sequences, also those without a kept frame.
      ground_truth, predictions: the persons.
      no_tracks: why identities cannot be scored, or "".
    """

    joints: tuple[str, ...]
    sequence_of_frame: np.ndarray
    num_sequences: int
    ground_truth: PersonTable
    predictions: PersonTable
    no_tracks: str = ""

    @property
    def num_frames(self) -> int:
        """Frames of all sequences together."""
        return len(self.sequence_of_frame)


def evaluated_joints(skeleton: str) -> tuple[str, ...]:
    """The joints a protocol reports, in its order (poseval's for PoseTrack)."""
    if skeleton == "posetrack":
        return POSETRACK_OFFICIAL_JOINTS
    table = get_skeleton(skeleton)
    return tuple(table.joints[i] for i in table.evaluated)


def pack(
    ground_truth: SequenceLabel, predictions: SequenceLabel, rules: Rules
) -> EvaluationSet:
    """Cleans one sequence's files and flattens them.

    In this order: drop the frames the rules do not count; drop persons without a point
    list; in frames with ignore regions drop points strictly inside one, then persons
    without points.

    Raises:
      ValueError: different skeletons, frame counts or image ids; a ground-truth person
        without the box that distances are divided by; a predicted track id twice in a
        frame. The message names sequence and frame.
    """
    name = ground_truth.name
    if ground_truth.skeleton != predictions.skeleton:
        raise ValueError(
            f"{name}: ground truth has the skeleton {ground_truth.skeleton!r}, the "
            f"prediction {predictions.skeleton!r}; convert the prediction"
        )
    if len(ground_truth.frames) != len(predictions.frames):
        raise ValueError(
            f"{name}: the ground truth has {len(ground_truth.frames)} frames, the "
            f"prediction {len(predictions.frames)}; predict every frame of the "
            "sequence, also unlabelled ones"
        )
    no_tracks = _check_tracks(name, ground_truth, "ground truth")
    no_tracks = no_tracks or _check_tracks(name, predictions, "prediction")
    kept_gt, kept_pred = [], []
    for i, (truth, guess) in enumerate(
        zip(ground_truth.frames, predictions.frames, strict=True)
    ):
        if None not in (truth.image_id, guess.image_id) and (
            truth.image_id != guess.image_id
        ):
            raise ValueError(
                f"{name}, frame {i} ({truth.image_name}): the ground truth has image "
                f"id {truth.image_id}, the prediction {guess.image_id}; keep the "
                "ground truth's frames and order"
            )
        counts = truth.is_labeled if rules.frame_needs == "label" else truth.persons
        if counts:
            kept_gt.append((i, truth))
            kept_pred.append((i, guess))
    joints = evaluated_joints(ground_truth.skeleton)
    slots = [get_skeleton(ground_truth.skeleton).index(j) for j in joints]
    polygons = [frame.ignore_polygons for _, frame in kept_gt]
    gt_table = _table(kept_gt, slots, rules, polygons)
    sizes = _reference_sizes(name, ground_truth, kept_gt, rules)[gt_table[1]]
    return EvaluationSet(
        joints=joints,
        sequence_of_frame=np.zeros(len(kept_gt), dtype=np.int64),
        num_sequences=1,
        ground_truth=dataclasses.replace(gt_table[0], reference_size=sizes),
        predictions=_table(kept_pred, slots, rules, polygons)[0],
        no_tracks=no_tracks,
    )


def concatenate(sets: Sequence[EvaluationSet]) -> EvaluationSet:
    """Joins sequences; frames, identities and sequences get running numbers.

    Raises:
      ValueError: no sets, or sets with different joints.
    """
    if not sets:
        raise ValueError("nothing to score: no sequence was given")
    if len({s.joints for s in sets}) != 1:
        raise ValueError("the sequences do not share one skeleton; score them apart")
    sequences = np.cumsum([0] + [s.num_sequences for s in sets])
    frames = np.cumsum([0] + [s.num_frames for s in sets])
    return EvaluationSet(
        joints=sets[0].joints,
        sequence_of_frame=np.concatenate(
            [s.sequence_of_frame + n for s, n in zip(sets, sequences, strict=False)]
        ),
        num_sequences=int(sequences[-1]),
        ground_truth=_join([s.ground_truth for s in sets], frames),
        predictions=_join([s.predictions for s in sets], frames),
        no_tracks=next((s.no_tracks for s in sets if s.no_tracks), ""),
    )


def _join(tables: list[PersonTable], first_frame: np.ndarray) -> PersonTable:
    tracks = np.cumsum([0] + [t.num_tracks for t in tables])
    return PersonTable(
        frame=np.concatenate(
            [t.frame + n for t, n in zip(tables, first_frame, strict=False)]
        ),
        track=np.concatenate(
            [t.track + n for t, n in zip(tables, tracks, strict=False)]
        ),
        num_tracks=int(tracks[-1]),
        **{
            key: np.concatenate([getattr(t, key) for t in tables])
            for key in ("xy", "present", "scores", "reference_size")
        },
    )


def _table(
    frames: list[tuple[int, FrameLabel]],
    slots: list[int],
    rules: Rules,
    polygons: list[tuple[np.ndarray, ...]],
) -> tuple[PersonTable, np.ndarray]:
    """The cleaned table, and which of the frames' persons it kept ([all] bool)."""
    persons: list[PersonLabel] = [p for _, frame in frames for p in frame.persons]
    frame = np.repeat(np.arange(len(frames)), [len(f.persons) for _, f in frames])
    if persons:
        xyv = np.stack([p.keypoints_xyv for p in persons])[:, slots]
        scores = np.stack([p.joint_scores for p in persons])[:, slots]
    else:
        xyv, scores = np.zeros((0, len(slots), 3)), np.zeros((0, len(slots)))
    if rules.joint_needs == "positive_xy":
        present = (xyv[..., :2] > 0).all(axis=-1)
    else:
        present = xyv.any(axis=-1)
    keep = np.array([p.has_points for p in persons], dtype=bool)
    for f, regions in enumerate(polygons):
        if regions:
            rows = frame == f
            inside = inside_any_polygon(xyv[rows][..., :2].reshape(-1, 2), regions)
            present[rows] &= ~inside.reshape(-1, len(slots))
            keep[rows] &= present[rows].any(axis=1)
    ids = [p.track_id for p in persons]
    numbered = {track_id: n for n, track_id in enumerate(dict.fromkeys(ids))}
    track = np.array([numbered[i] for i in ids], dtype=np.int64)
    table = PersonTable(
        frame=frame[keep],
        xy=xyv[keep][..., :2],
        present=present[keep],
        scores=np.where(np.isnan(scores), NO_SCORE, scores)[keep],
        reference_size=np.full(int(keep.sum()), np.nan),
        track=track[keep],
        num_tracks=len(numbered),
    )
    return table, keep


def _reference_sizes(
    name: str,
    ground_truth: SequenceLabel,
    frames: list[tuple[int, FrameLabel]],
    rules: Rules,
) -> np.ndarray:
    """[persons of the frames] image pixels; NaN for persons without joints or box."""
    sizes = []
    for i, frame in frames:
        for person in frame.persons:
            if rules.reference == "head":
                box, kind = person.head_box_xyxy, "head box"
                size = None if box is None else 0.6 * math.dist(box[:2], box[2:])
            else:
                box, kind = person.person_box_xywh, "person box"
                size = None if box is None else 0.15 * max(abs(box[2]), abs(box[3]))
            if size is None and person.keypoints_xyv.any():
                raise ValueError(
                    f"{name}, frame {i} ({frame.image_name}): a ground-truth person "
                    f"has no {kind}, which distances are divided by; add it to the "
                    "annotation"
                )
            sizes.append(np.nan if size is None else size)
    return np.array(sizes, dtype=np.float64)


def _check_tracks(name: str, sequence: SequenceLabel, which: str) -> str:
    """Why identities cannot be scored, or "". Raises for duplicates in predictions."""
    missing = ""
    for i, frame in enumerate(sequence.frames):
        ids = [p.track_id for p in frame.persons]
        if None in ids:
            missing = missing or f"{name}, frame {i}: the {which} has no track ids"
        elif len(set(ids)) != len(ids):
            twice = next(t for n, t in enumerate(ids) if t in ids[:n])
            message = (
                f"{name}, frame {i} ({frame.image_name}): the {which} uses track id "
                f"{twice} twice"
            )
            if which == "prediction":
                raise ValueError(f"{message}; make track ids unique within a frame")
            missing = missing or message
    return missing
