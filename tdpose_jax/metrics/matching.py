"""Distances between predicted and annotated persons, and poseval's greedy assignment."""

import dataclasses

import numpy as np

from tdpose_jax.metrics.person_tables import EvaluationSet

# A joint is correct within this many reference lengths (PCKh@0.5).
THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Every (prediction, ground truth) pair that shares a frame.

    Sorted by frame, then prediction, then ground truth, so a prediction's pairs are
    contiguous.

    Attributes:
      prediction, ground_truth: [M] rows of the two tables.
      distance: [M, J] in reference lengths; inf where either joint is missing.
      first: [num predictions] index of each prediction's first pair.
      first_ground_truth: [F + 1] row of each frame's first ground-truth person.
      first_prediction: [F + 1] likewise.
    """

    prediction: np.ndarray
    ground_truth: np.ndarray
    distance: np.ndarray
    first: np.ndarray
    first_ground_truth: np.ndarray
    first_prediction: np.ndarray


def make_pairs(data: EvaluationSet) -> Pairs:
    """Pairs all persons of each frame and measures their joints' distances."""
    truth, guess = data.ground_truth, data.predictions
    edges = np.arange(data.num_frames + 1)
    first_truth = np.searchsorted(truth.frame, edges)
    first_guess = np.searchsorted(guess.frame, edges)
    partners = np.diff(first_truth)[guess.frame]  # ground-truth persons per prediction
    first = np.cumsum(partners) - partners
    prediction = np.repeat(np.arange(len(guess)), partners)
    offset = np.arange(len(prediction)) - first[prediction]
    ground_truth = first_truth[guess.frame[prediction]] + offset
    dx, dy = np.moveaxis(truth.xy[ground_truth] - guess.xy[prediction], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a head box without area
        distance = np.sqrt(dx * dx + dy * dy)
        distance /= truth.reference_size[ground_truth][:, None]
    both = truth.present[ground_truth] & guess.present[prediction]
    distance[~both | np.isnan(distance)] = np.inf
    return Pairs(prediction, ground_truth, distance, first, first_truth, first_guess)


def assign_greedily(
    data: EvaluationSet, pairs: Pairs, threshold: float = THRESHOLD
) -> np.ndarray:
    """Poseval's assignment of whole persons: [num predictions] pair index, or -1.

    Each prediction keeps only its best ground truth by PCK; of those that chose the same
    one the best wins, and the others stay unmatched even if their second choice is
    free. Scores play no part; ties go to the earlier person in the file.
    """
    annotated = data.ground_truth.present.sum(axis=1)
    correct = (pairs.distance <= threshold).sum(axis=1)
    pck = correct / np.maximum(annotated[pairs.ground_truth], 1)
    assigned = np.full(len(data.predictions), -1)
    # Best first; stable, so that the earlier person wins among equals.
    by_pck = np.argsort(-pck, kind="stable")
    order = by_pck[np.argsort(pairs.prediction[by_pck], kind="stable")]
    _, start = np.unique(pairs.prediction[order], return_index=True)
    choice = np.sort(order[start])  # one pair per prediction, in file order
    choice = choice[pck[choice] > 0]
    by_pck = choice[np.argsort(-pck[choice], kind="stable")]
    order = by_pck[np.argsort(pairs.ground_truth[by_pck], kind="stable")]
    _, start = np.unique(pairs.ground_truth[order], return_index=True)
    winners = order[start]
    assigned[pairs.prediction[winners]] = winners
    return assigned
