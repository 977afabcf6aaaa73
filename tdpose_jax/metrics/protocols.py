"""The named evaluation protocols: which rules, which measures, which names.

Results are in percent, as the official evaluators print them: a perfect prediction scores
100. Every measure is a dict of joint name -> value with a `total`; NaN where the protocol
leaves a value undefined.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tdpose_jax.annotation_types import SequenceLabel
from tdpose_jax.metrics.average_precision import average_precision, mean_of_joints
from tdpose_jax.metrics.hota import keypoint_hota
from tdpose_jax.metrics.matching import make_pairs
from tdpose_jax.metrics.mota import clear_mot
from tdpose_jax.metrics.person_tables import EvaluationSet, Rules, concatenate, pack
from tdpose_jax.skeleton import Skeleton, get_skeleton

RULES = {
    "poseval": Rules(),
    "posetrack21": Rules(frame_needs="label", joint_needs="positive_xy"),
    "hieve_approx": Rules(reference="person_box"),
}
HIEVE_NOTE = (
    "hieve_approx is this project's own approximation: HiEve's evaluator and test labels "
    "are not public. AP@t counts a joint within (1 - t) * 0.15 * the longer side of the "
    "person's box; never compare it with the leaderboard."
)


def score(
    ground_truth: Sequence[SequenceLabel],
    predictions: Sequence[SequenceLabel],
    protocol: str = "poseval",
) -> dict:
    """Scores predictions of whole sequences, matched to the ground truth by name.

    Args:
      ground_truth: labelled sequences.
      predictions: one for each of them, in any order, with all its frames in order;
        predictions for other sequences are ignored.
      protocol: "poseval", "posetrack21" or "hieve_approx".

    Returns:
      "protocol", "num_sequences", "num_frames" (scored ones), "notes" (a list), and the
      measures, each {joint: percent, ..., "total": percent}:
      poseval: AP, precision, recall, MOTA, MOTP, MOTP_as_printed_by_poseval,
      MOT_precision, MOT_recall; posetrack21: AP, precision, recall, HOTA, DetA, AssA,
      DetRe, DetPr, AssRe, AssPr, LocA, RHOTA, FragA, FA-HOTA; hieve_approx: AP (mean of
      the following), AP@50, AP@75, AP@90, precision and recall at 50. Without track ids
      the measures that need them are left out, and a note says so.

    Raises:
      ValueError: naming sequence and frame; see `person_tables.pack`.
    """
    rules = get_rules(protocol)
    by_name = {sequence.name: sequence for sequence in predictions}
    if len(by_name) != len(predictions):
        raise ValueError("two predictions have the same sequence name")
    missing = [s.name for s in ground_truth if s.name not in by_name]
    if missing:
        raise ValueError(
            f"no prediction for {len(missing)} of {len(ground_truth)} sequences, first "
            f"{missing[0]!r}; a sequence without detections needs a file of empty frames"
        )
    packed = [pack(truth, by_name[truth.name], rules) for truth in ground_truth]
    return score_packed(concatenate(packed), protocol)


def get_rules(protocol: str) -> Rules:
    """Looks a protocol up. Raises ValueError naming the valid choices."""
    if protocol not in RULES:
        raise ValueError(
            f"unknown protocol {protocol!r}; choose one of {', '.join(RULES)}"
        )
    return RULES[protocol]


def score_packed(data: EvaluationSet, protocol: str) -> dict:
    """`score` for sequences that were packed already (by worker processes, say)."""
    get_rules(protocol)
    result = {
        "protocol": protocol,
        "num_sequences": data.num_sequences,
        "num_frames": data.num_frames,
        "notes": [],
    }
    measures: dict[str, Callable[[EvaluationSet, dict], dict]] = {
        "poseval": _poseval,
        "posetrack21": _posetrack21,
        "hieve_approx": _hieve_approx,
    }
    return result | measures[protocol](data, result)


def group_means(
    per_joint: dict[str, float], skeleton: str | Skeleton
) -> dict[str, float]:
    """The columns of the benchmark's table: group -> mean, then `Total`.

    Like poseval's, a group's mean is NaN if one of its joints is.
    """
    if isinstance(skeleton, str):
        skeleton = get_skeleton(skeleton)
    columns = {}
    for group, joints in skeleton.groups.items():
        values = [per_joint[joint] for joint in joints if joint in per_joint]
        columns[group] = float(np.mean(values)) if values else float("nan")
    return columns | {"Total": per_joint["total"]}


def _named(data: EvaluationSet, values: np.ndarray, total: float | None = None) -> dict:
    """{joint: value, "total": given total, or the mean of the joints that have one}."""
    total = mean_of_joints(values) if total is None else float(total)
    named = dict(zip(data.joints, values.tolist(), strict=True))
    return named | {"total": total}


def _poseval(data: EvaluationSet, result: dict) -> dict:
    pairs = make_pairs(data)
    ap = average_precision(data, pairs)
    columns = {"AP": ap.ap, "precision": ap.precision, "recall": ap.recall}
    if data.no_tracks:
        result["notes"].append(f"no MOTA: {data.no_tracks}")
    else:
        mot = clear_mot(data, pairs)
        columns |= {
            "MOTA": mot.mota(),
            "MOTP": mot.motp(),
            "MOTP_as_printed_by_poseval": mot.motp_as_printed_by_poseval(),
            "MOT_precision": mot.precision(),
            "MOT_recall": mot.recall(),
        }
    return {name: _named(data, values) for name, values in columns.items()}


def _posetrack21(data: EvaluationSet, result: dict) -> dict:
    pairs = make_pairs(data)
    ap = average_precision(data, pairs, nan_without_ground_truth=False)
    columns = {"AP": ap.ap, "precision": ap.precision, "recall": ap.recall}
    measures = {name: _named(data, values) for name, values in columns.items()}
    if data.no_tracks:
        result["notes"].append(f"no HOTA: {data.no_tracks}")
        return measures
    for name, values in keypoint_hota(data, pairs).items():
        measures[name] = _named(data, values[:-1], total=values[-1])
    return measures


def _hieve_approx(data: EvaluationSet, result: dict) -> dict:
    result["notes"].append(HIEVE_NOTE)
    pairs = make_pairs(data)
    at = {t: average_precision(data, pairs, 1.0 - t / 100.0) for t in (50, 75, 90)}
    mean = np.mean([scores.ap for scores in at.values()], axis=0)
    measures = {"AP": _named(data, mean)}
    measures |= {f"AP@{t}": _named(data, scores.ap) for t, scores in at.items()}
    measures["precision"] = _named(data, at[50].precision)
    measures["recall"] = _named(data, at[50].recall)
    return measures
