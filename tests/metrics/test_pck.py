"""PCK: thresholds, normalisers, merging, padding and messages."""

import numpy as np
import pytest

from tdpose_jax.metrics.pck import (
    head_reference,
    pck_sums,
    person_box_reference,
    torso_reference,
)
from tdpose_jax.skeleton import JHMDB, POSETRACK


def test_thresholds_are_inclusive_and_per_joint():
    truth = np.zeros((1, 15, 2))
    guess = truth.copy()
    guess[0, 0] = 20, 0  # exactly 0.2 of 100
    guess[0, 1] = 0, 10.001
    guess[0, 2] = np.nan
    sums = pck_sums(guess, truth, np.ones((1, 15)), np.array([100.0]))
    at = {t: sums.result(JHMDB, t) for t in (0.2, 0.1, 0.05)}
    assert [at[t]["neck"] for t in at] == [100, 0, 0]
    assert [at[t]["belly"] for t in at] == [100, 0, 0]
    assert [at[t]["face"] for t in at] == [0, 0, 0]
    assert at[0.2]["total"] == pytest.approx(100 * 14 / 15)
    assert at[0.05]["total"] == pytest.approx(100 * 12 / 15)


def test_normalisers():
    assert person_box_reference(np.array([[5, 5, 30, 40.0]])).tolist() == [40]
    assert head_reference(np.array([[0, 0, 30, 40.0]])).tolist() == [30]
    xy = np.zeros((2, 15, 2))
    xy[:, JHMDB.index("left_shoulder")] = 3, 0
    xy[:, JHMDB.index("right_hip")] = 0, 4
    labeled = np.ones((2, 15), bool)
    labeled[1, JHMDB.index("right_hip")] = False
    torso = torso_reference(xy, labeled, JHMDB)
    assert torso[0] == 5 and np.isnan(torso[1])


def test_merging_batches_equals_one_batch_and_padding_does_not_leak():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 100, (9, 17, 2))
    guess = truth + rng.normal(0, 10, truth.shape)
    labeled = rng.random((9, 17)) < 0.7
    reference = rng.uniform(50, 150, 9)
    whole = pck_sums(guess, truth, labeled, reference)
    parts = [
        pck_sums(guess[i], truth[i], labeled[i], reference[i])
        for i in (slice(0, 4), slice(4, 9))
    ]
    garbage = pck_sums(np.full((1, 17, 2), np.nan), truth[:1], labeled[:1] & False, [0])
    merged = parts[0] + parts[1] + garbage
    for threshold in whole.thresholds:
        assert merged.result(POSETRACK, threshold) == whole.result(POSETRACK, threshold)


def test_never_labelled_joints_are_nan_and_ears_are_left_out():
    labeled = np.ones((1, 17), bool)
    labeled[0, POSETRACK.index("nose")] = False
    truth = np.zeros((1, 17, 2))
    result = pck_sums(truth, truth, labeled, [10]).result(POSETRACK, 0.1)
    assert np.isnan(result["nose"]) and "left_ear" not in result
    assert result["total"] == 100


def test_messages():
    xy = np.zeros((1, 15, 2))
    with pytest.raises(ValueError, match=r"person 0 has the reference length 0\.0"):
        pck_sums(xy, xy, np.ones((1, 15)), [0])
    with pytest.raises(ValueError, match=r"must be \[N, K, 2\]"):
        pck_sums(xy, xy, np.ones((1, 14)), [1])
    with pytest.raises(ValueError, match=r"must be \[1\]"):
        pck_sums(xy, xy, np.ones((1, 15)), [1, 2])
    sums = pck_sums(xy, xy, np.ones((1, 15)), [1])
    with pytest.raises(ValueError, match="not at 0.3"):
        sums.result(JHMDB, 0.3)
    with pytest.raises(ValueError, match="cannot merge"):
        sums + pck_sums(xy, xy, np.ones((1, 15)), [1], (0.5,))
