"""Comparison over clips: counts, speeds, and intervals that resample whole clips."""

import csv
import json

import numpy as np
import pytest

from tdpose_jax import ablations, compare_clips
from tdpose_jax.annotations import (
    FrameLabel,
    PersonLabel,
    SequenceLabel,
    save_posetrack18,
)
from tdpose_jax.compare_clips import compare
from tdpose_jax.metrics.by_clip import (
    ClipErrors,
    bootstrap_difference,
    clip_errors,
    pck_counts,
    speed_thirds,
    wrong_joint_shares,
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


def test_the_true_motion_helps_where_joints_move_and_only_there():
    """A fast joint's median is far from it; along its motion one bad frame is voted out.

    The third frame is off by 50 and the fourth not labelled, its prediction absurd.
    """
    xy = np.zeros((7, 15, 2))
    xy[..., 0] = 40.0 * np.arange(7)[:, None] ** 2
    visible = np.ones((7, 15))
    visible[3] = 0
    predicted = xy.copy()
    predicted[2] += 50
    predicted[3] = 1e6
    truth, biased = [sequence("a", xy, visible)], [sequence("a", xy + 10)]

    def correct(predictions, *median):
        (clip,) = clip_errors(truth, predictions, *median)
        assert np.isfinite(clip.distance[clip.labeled]).all()
        return (clip.labeled & (clip.distance <= 0.05)).any(1).astype(int).tolist()

    assert correct([sequence("a", predicted)]) == [1, 1, 0, 0, 1, 1, 1]
    assert correct([sequence("a", predicted)], 5) == [1, 1, 0, 0, 0, 0, 1]
    assert correct([sequence("a", predicted)], 5, 1) == [1, 1, 1, 0, 1, 1, 1]
    assert correct(biased, 5, 1) == [0] * 7
    still = clip_errors([sequence("a", predicted * 0)], [sequence("a", predicted)], 5)
    along = clip_errors(
        [sequence("a", predicted * 0)], [sequence("a", predicted)], 5, 1
    )
    np.testing.assert_allclose(along[0].distance, still[0].distance)


def test_a_label_held_for_two_frames_moves_evenly_on_average():
    """A joint that moves 6 a frame, a label clicked every second frame.

    Every answer is right but that of frame 4, which is off by 40. Along the label, as
    along the joint, the median leaves what the clicks are off (0 and 6); the label
    averaged over three frames moves 4 and 8.
    """
    true = np.zeros((9, 15, 2)) + 6.0 * np.arange(9)[:, None, None] * [1, 0]
    label = true[np.arange(9) // 2 * 2]
    predicted = true.copy()
    predicted[4] += [40, 0]
    for motion_frames, expected in ((1, 6), (3, 2)):
        (clip,) = clip_errors(
            [sequence("a", label)], [sequence("a", predicted)], 3, motion_frames
        )
        np.testing.assert_allclose(clip.distance[4] * 100, expected)
    visible = np.ones((9, 15))
    visible[[3, 5]] = 0  # beside labelled frames, and without a vote
    predicted = true.copy()
    predicted[[3, 5]] = 1e6
    seen = [sequence("a", true, visible)]
    (clip,) = clip_errors(seen, [sequence("a", predicted)], 3, 3)
    np.testing.assert_allclose(clip.distance[4], 0)


def test_the_worst_clip_is_listed_first(two_clips):
    truth, predicted, (xy, *_) = two_clips
    exact = [sequence("a", xy[0])]
    errors = clip_errors(truth, exact + predicted[1:])
    perfect = clip_errors(truth, truth)
    table = compare({"base": {"seed0": errors}, "best": {"seed0": perfect}}, JHMDB)
    clips = [x for x in table if x["part"].startswith("clip ")]
    assert [(x["part"], x["row"]) for x in clips] == [
        ("clip b", "base"), ("clip b", "best"), ("clip a", "base"), ("clip a", "best"),
    ]  # fmt: skip
    assert clips[2]["mean"] == 100 and clips[0]["mean"] < 100
    assert clips[1]["difference"] == pytest.approx(100 - clips[0]["mean"])
    assert all(np.isnan(x["ci_low"]) and np.isnan(x["ci_high"]) for x in clips)
    assert "| clip b | PCK@0.05 | best | 1 | 100.00 |  | " in compare_clips.markdown(
        table
    )
    assert "nan" not in compare_clips.markdown(table)


def test_wrong_joints_are_bias_flicker_both_or_neither():
    """Columns are joints over six frames; 1 is wrong, x not labelled.

    a: four wrong of six, the last two at most two frames from a right one. b: one
    wrong, beside right ones. c: always wrong. d: two wrong of four labelled.
    """
    columns = ["111100", "000100", "111111", "x11x00"]
    marks = np.array([list(column) for column in columns]).T
    labeled = marks != "x"
    distance = np.where(marks == "1", 0.06, 0.05)
    clip = ClipErrors("a", distance, labeled, np.zeros(distance.shape))
    # Wrong: 4 + 1 + 6 + 2. Bias: 4 + 6 (d: two of four are no more than half).
    # Flicker: a's third and fourth, b's, d's third (its second is three away).
    bias, flicker = wrong_joint_shares([clip], 0.05)
    assert (bias, flicker) == pytest.approx((100 * 10 / 13, 100 * 4 / 13))
    half = ClipErrors("b", distance[:, :2], labeled[:, :2], distance[:, :2])
    both = wrong_joint_shares([clip, half], 0.05)
    assert both == pytest.approx((100 * 14 / 18, 100 * 7 / 18))
    assert np.isnan(wrong_joint_shares([clip], 0.06)).all()


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
    for text in ("5", "5:0", "4:1", "a:1", "5:1:1"):
        with pytest.raises(SystemExit, match=f"--oracles={text}: give frames of the"):
            compare_clips.main(
                ["--ground_truth=x", "--runs=x", "--rows=x", "--table=x.csv",
                 f"--oracles={text}"]
            )  # fmt: skip
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


def test_the_table_says_what_it_was_made_from(two_clips, tmp_path, capsys):
    truth, predicted, _ = two_clips
    for folder, clips in (
        ("truth", truth),
        ("runs/base/seed0/predictions", predicted),
        ("runs/base/seed1/predictions", truth),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for clip in clips:
            save_posetrack18(clip, tmp_path / folder / f"{clip.name}.json")
    for seed, commit in ((0, "abc"), (1, "def")):
        run = tmp_path / "runs/base" / f"seed{seed}"
        (run / "config.json").write_text(json.dumps({"a": 1, "seed": seed}))
        (run / "environment.txt").write_text(
            f"commit {commit}\ndevices 1 x cpu\nmachine x\n"
        )
    table = tmp_path / "table.csv"
    compare_clips.main(
        [f"--ground_truth={tmp_path / 'truth'}", f"--runs={tmp_path / 'runs'}",
         "--rows=base", "--medians=3", "--oracles=5:1,5:3", f"--table={table}"]
    )  # fmt: skip
    with table.open() as file:
        lines = list(csv.DictReader(file))
    assert {x["row"] for x in lines} == {
        "base", "base, median of 3", "base, median of 5 along the label",
        "base, median of 5 along the label averaged over 3",
    }  # fmt: skip
    config = ablations.config_hash({"a": 1})
    for line in lines:
        made_by = line["config_hash"], line["seeds"], line["commit"]
        assert made_by == (config, "0 1", "abc; def")
    shares = wrong_joint_shares(clip_errors(truth, predicted), 0.05)
    told = [
        x["each_seed"] for x in lines if x["metric"] == "% of the joints wrong at 0.05"
    ]
    assert told == [f"{share:.1f} nan" for share in shares]
    text = capsys.readouterr().out
    assert text.strip() == table.with_suffix(".md").read_text().strip()
    assert f"base: seeds 0 1; config {config}; commit abc; def." in text
    assert f"(by seed: {told[0]})" in text
