"""Average precision of joints as poseval and PoseTrack21's kit compute it.

Source: poseval @4258a15. A predicted joint is a true positive if its person was assigned
to a ground-truth person (`matching.assign_greedily`) and it lies within half a head of
that person's joint. A joint that the assigned person does not have is a false positive.
"""

import dataclasses

import numpy as np

from tdpose_jax.metrics.matching import THRESHOLD, Pairs, assign_greedily
from tdpose_jax.metrics.person_tables import EvaluationSet


@dataclasses.dataclass(frozen=True)
class AveragePrecision:
    """Per joint, in percent. precision and recall are over all predictions.

    Attributes:
      ap, precision, recall: [J] percent; NaN where undefined.
      num_ground_truth, num_predictions: [J] joints over the kept frames.
    """

    ap: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    num_ground_truth: np.ndarray
    num_predictions: np.ndarray


def average_precision(
    data: EvaluationSet,
    pairs: Pairs,
    threshold: float = THRESHOLD,
    nan_without_ground_truth: bool = True,
) -> AveragePrecision:
    """Scores joints by joint score alone.

    Args:
      data, pairs: from `person_tables` and `matching.make_pairs`.
      threshold: reference lengths within which a joint is correct.
      nan_without_ground_truth: poseval gives NaN to a joint that is predicted but never
        annotated; PoseTrack21's kit gives 0 (False). A joint that is never predicted
        has 0 either way.
    """
    guess = data.predictions
    assigned = assign_greedily(data, pairs, threshold)
    correct = np.zeros(guess.present.shape, dtype=bool)
    matched = assigned >= 0
    correct[matched] = pairs.distance[assigned[matched]] <= threshold
    annotated = data.ground_truth.present.sum(axis=0)
    columns = []
    for j in range(len(data.joints)):
        there = guess.present[:, j]
        columns.append(
            _one_joint(guess.scores[there, j], correct[there, j], int(annotated[j]))
        )
    ap, precision, recall = 100.0 * np.array(columns).T
    if not nan_without_ground_truth:
        ap, recall = np.nan_to_num(ap), np.nan_to_num(recall)
    return AveragePrecision(ap, precision, recall, annotated, guess.present.sum(axis=0))


def _one_joint(
    scores: np.ndarray, correct: np.ndarray, num_ground_truth: int
) -> tuple[float, float, float]:
    """AP (all-points interpolation), final precision and recall, as fractions."""
    if not len(scores):
        return 0.0, 0.0, 0.0
    if not num_ground_truth:
        return np.nan, 0.0, np.nan
    # poseval's very expression: with tied scores its result depends on this sort.
    order = np.argsort(scores)[::-1]
    true_positives = np.cumsum(correct[order])
    recall = true_positives / num_ground_truth
    precision = true_positives / np.arange(1, len(scores) + 1)
    envelope = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall, [1.0]]))
    return float(steps @ envelope), float(precision[-1]), float(recall[-1])


def mean_of_joints(values: np.ndarray) -> float:
    """poseval's `total`: the plain mean over the joints that are not NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
