"""Comparison over clips: counts, speeds, and intervals that resample whole clips."""

import numpy as np
import pytest

from tdpose_jax.annotations import FrameLabel, PersonLabel, SequenceLabel
from tdpose_jax.compare_clips import compare
from tdpose_jax.metrics.by_clip import (
    bootstrap_difference,
    clip_errors,
    pck_counts,
    speed_thirds,
)
from tdpose_jax.metrics.pck import pck_sums, person_box_reference
from tdpose_jax.skeleton import JHMDB


def sequence(name, xy, visible=None, box=(0.0, 0.0, 40.0, 100.0), persons=1):
    """A clip of one person; xy [F, 15, 2]."""
    visible = np.ones(xy.shape[:2]) if visible is None else visible
    frames = tuple(
        FrameLabel(
            f"{i}.jpg",
            i,
            True,
            (
                PersonLabel(
                    keypoints_xyv=np.concatenate([p, v[:, None]], 1),
                    joint_scores=np.ones(len(p)),
                    person_box_xywh=np.array(box),
                ),
            )
            * persons,
        )
        for i, (p, v) in enumerate(zip(xy, visible, strict=True))
    )
    return SequenceLabel(name, "jhmdb", frames)


@pytest.fixture
def two_clips():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 100, (2, 6, 15, 2))
    noise = rng.normal(0, 5, truth.shape)
    visible = rng.integers(0, 2, (2, 6, 15))
    names = ("a", "b")
    return (
        [sequence(n, t, v) for n, t, v in zip(names, truth, visible, strict=True)],
        [sequence(n, t) for n, t in zip(names, truth + noise, strict=True)],
        (truth, noise, visible),
    )


def test_counts_are_those_of_pck(two_clips):
    truth, predicted, (xy, noise, visible) = two_clips
    counts = pck_counts(clip_errors(truth, predicted[::-1]), 0.05)
    for row, clip in zip(counts, range(2), strict=True):
        boxes = np.tile([0.0, 0.0, 40.0, 100.0], (6, 1))
        sums = pck_sums(
            xy[clip] + noise[clip], xy[clip], visible[clip] > 0,
            person_box_reference(boxes), (0.05,),
        )  # fmt: skip
        assert row.tolist() == [sums.correct.sum(), sums.labeled.sum()]


def test_speed_is_the_mean_step_to_labelled_neighbours():
    x = np.array([0.0, 1.0, 4.0, 4.0, 9.0])
    xy = np.zeros((5, 15, 2))
    xy[..., 0] = x[:, None]
    visible = np.ones((5, 15))
    visible[3, 1] = 0
    (clip,) = clip_errors([sequence("a", xy, visible)], [sequence("a", xy)])
    np.testing.assert_allclose(clip.speed[:, 0] * 100, [1, 2, 1.5, 2.5, 5])
    np.testing.assert_allclose(clip.speed[:3, 1] * 100, [1, 2, 3])
    assert np.isnan(clip.speed[3:, 1]).all()


def test_a_median_removes_jumps_and_keeps_bias():
    xy = np.tile(np.arange(9.0)[:, None, None], (1, 15, 2))
    jumping, biased = xy.copy(), xy + 10
    jumping[4] += 50
    truth = [sequence("a", xy)]

    def percent(predicted, frames):
        clips = clip_errors(truth, [sequence("a", predicted)], frames)
        correct, counted = pck_counts(clips, 0.05).sum(0)
        return correct / counted

    assert [percent(jumping, n) for n in (1, 3)] == [8 / 9, 1]
    assert [percent(biased, n) for n in (1, 3)] == [0, 0]


def test_thirds_split_the_joints_evenly(two_clips):
    truth, predicted, _ = two_clips
    clips = clip_errors(truth, predicted)
    known = sum((c.labeled & ~np.isnan(c.speed)).sum() for c in clips)
    sizes = [
        pck_counts(clips, 1, limits)[:, 1].sum() for _, limits in speed_thirds(clips)
    ]
    assert sum(sizes) == known and max(sizes) - min(sizes) <= 2


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Clips differ far more than people of a clip: resampling people would not."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        level = rng.uniform(0.3, 0.9, 30)
        gain = 0.05 + rng.normal(0, 0.08, 30)
        base = np.stack([level * 1000, np.full(30, 1000)], 1)
        better = np.stack([(level + gain) * 1000, np.full(30, 1000)], 1)
        difference, low, high = bootstrap_difference([base], [better], samples=400)
        assert low < difference < high
        covered += low <= 5.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_equal_sides_differ_by_exactly_zero():
    counts = np.array([[3, 10], [9, 10]])
    assert bootstrap_difference([counts] * 2, [counts] * 2) == (0.0, 0.0, 0.0)


def test_errors(two_clips):
    truth, predicted, (xy, *_) = two_clips
    with pytest.raises(ValueError, match="no predictions for clip 'b'"):
        clip_errors(truth, predicted[:1])
    crowd = [sequence("a", xy[0], persons=2)]
    with pytest.raises(ValueError, match="frame '0.jpg': 1 labelled and 2 predicted"):
        clip_errors(truth[:1], crowd)


def test_rows_are_compared_over_the_seeds_they_share(two_clips):
    """A row with one seed is set against that seed of the first row, not against all."""
    truth, predicted, _ = two_clips
    exact, noisy = clip_errors(truth, truth), clip_errors(truth, predicted)
    rows = {
        "base": {"seed0": noisy, "seed1": exact},
        "same": {"seed0": noisy},
        "better": {"seed0": exact, "seed7": noisy},
    }
    table = compare(rows, JHMDB)
    all_joints = {
        x["row"]: x for x in table if x["part"] == "all" and "0.05" in x["metric"]
    }
    assert all_joints["same"]["difference"] == 0
    noisy_percent = all_joints["same"]["mean"]
    assert all_joints["better"]["difference"] == pytest.approx(100 - noisy_percent)
    assert all_joints["base"]["n"] == 2 and all_joints["better"]["n"] == 2
    with pytest.raises(ValueError, match="row other shares no seed with the first row"):
        compare({"base": {"seed0": noisy}, "other": {"seed1": exact}}, JHMDB)
