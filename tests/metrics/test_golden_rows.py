"""The golden table: small cases whose scores poseval printed."""

import dataclasses

import numpy as np
import pytest

from tdpose_jax.metrics.protocols import score
from tdpose_jax.skeleton import OFFICIAL_TO_SLOT
from tests.metrics.golden_sets import empty_person, expect, person, sequence

EXACT = 1e-9
NO_WRISTS = (6, 11)


def test_t1_joints_never_annotated_but_predicted_are_left_out_of_the_mean():
    truth = sequence(*[(person(0, without=NO_WRISTS),)] * 3)
    result = score([truth], [sequence(*[(person(0, score=0.5),)] * 3)])
    expect(result["AP"], 100, dict.fromkeys(NO_WRISTS, np.nan))
    expect(result["MOTA"], 100, dict.fromkeys(NO_WRISTS, np.nan))
    assert result["AP"]["total"] == pytest.approx(100, abs=EXACT)
    assert result["precision"]["total"] == pytest.approx(1300 / 15, abs=EXACT)
    assert result["MOTA"]["total"] == pytest.approx(100, abs=EXACT)
    assert result["MOTP"]["total"] == pytest.approx(1300 / 15, abs=EXACT)
    assert result["MOTP_as_printed_by_poseval"]["total"] == pytest.approx(1300 / 15)


def test_t1b_joints_never_predicted_count_as_zero():
    truth = sequence(*[(person(0, without=NO_WRISTS),)] * 3)
    guess = sequence(*[(person(0, score=0.5, without=NO_WRISTS),)] * 3)
    result = score([truth], [guess])
    expect(result["AP"], 100, dict.fromkeys(NO_WRISTS, 0))
    assert result["AP"]["total"] == pytest.approx(1300 / 15, abs=EXACT)
    assert result["MOTA"]["total"] == pytest.approx(100, abs=EXACT)


def test_t1c_joint_missing_on_a_matched_person_is_a_false_positive():
    truth = sequence(*[(person(0), person(1, ox=500, without=NO_WRISTS))] * 3)
    guess = sequence(*[(person(0, score=0.5), person(1, ox=500, score=0.9))] * 3)
    result = score([truth], [guess])
    expect(result["AP"], 100, dict.fromkeys(NO_WRISTS, 50))
    expect(result["MOTA"], 100, dict.fromkeys(NO_WRISTS, 0))
    assert result["AP"]["total"] == pytest.approx(1400 / 15, abs=EXACT)
    assert result["MOTA"]["total"] == pytest.approx(1300 / 15, abs=EXACT)


def test_t2_a_duplicate_with_the_higher_score_loses_to_file_order():
    truth = sequence(*[(person(0),)] * 3)
    guess = sequence(*[(person(0, score=0.5), person(1, score=0.9))] * 3)
    result = score([truth], [guess])
    expect(result["AP"], 50)
    expect(result["precision"], 50)
    expect(result["recall"], 100)
    expect(result["MOTA"], 0)


def test_t3_frame_without_predictions():
    both = (person(0, score=0.5), person(1, ox=500, score=0.5))
    result = score([sequence(*[both] * 4)], [sequence(both, (), both, both)])
    expect(result["AP"], 75)
    expect(result["recall"], 75)
    expect(result["MOTA"], 60)
    expect(result["MOT_precision"], 80)
    expect(result["MOT_recall"], 80)


def test_t4_ties_are_taken_last_first_as_numpys_sort_leaves_them():
    good, bad = (person(0, score=0.5),), (person(0, ox=500, score=0.5),)
    result = score([sequence(*[good] * 3)], [sequence(good, good, bad)])
    expect(result["AP"], 100 * 4 / 9)
    expect(result["MOTA"], 100)


def test_t5_the_threshold_is_inclusive():
    truth = (person(0), person(1, ox=500))
    guess = (person(0, ox=15, score=0.5), person(1, ox=515.0001, score=0.9))
    result = score([sequence(truth, truth)], [sequence(guess, guess)])
    expect(result["AP"], 25)
    expect(result["precision"], 50)
    expect(result["recall"], 50)
    expect(result["MOTA"], 0)
    expect(result["MOTP"], 50)  # a distance of half a head
    expect(result["MOTP_as_printed_by_poseval"], 0)


def test_t6_predictions_without_scores():
    truth = sequence(*[(person(0),)] * 3)
    expect(score([truth], [truth])["AP"], 100)


def test_t7_predictions_on_unlabelled_frames_are_free():
    truth = sequence((person(0),), (), (person(0),))
    guess = sequence(
        (person(0, score=0.5),), (person(0, score=0.99),), (person(0, score=0.5),)
    )
    result = score([truth], [guess])
    expect(result["AP"], 100)
    expect(result["MOTA"], 100)


def test_t8_a_person_without_joints_keeps_the_frame_alive():
    truth = sequence((person(0),), (empty_person(0),), (person(0),))
    guess = sequence(
        (person(0, score=0.5),), (person(0, score=0.99),), (person(0, score=0.5),)
    )
    result = score([truth], [guess])
    expect(result["AP"], 200 / 3)
    expect(result["precision"], 200 / 3)
    expect(result["MOTA"], 0)
    expect(result["MOT_precision"], 50)


def test_t9_ignored_persons_and_predictions_vanish():
    square = np.array([[450, -50], [700, -50], [700, 150], [450, 150.0]])
    truth = sequence(*[(person(0), person(1, ox=500))] * 3, polygons=(square,))
    guess = sequence(*[(person(0, score=0.5), person(1, ox=520, score=0.9))] * 3)
    result = score([truth], [guess])
    expect(result["AP"], 100)
    expect(result["MOTA"], 100)


def test_t9b_points_on_the_border_of_an_ignore_region_stay():
    rectangle = np.array([[0, 0], [140, 0], [140, 70], [0, 70.0]])
    truth = sequence(*[(person(0, score=0.5),)] * 3, polygons=(rectangle,))
    result = score([truth], [truth])
    expect(result["AP"], 0, {0: 100, 14: 100})
    assert result["AP"]["total"] == pytest.approx(200 / 15, abs=EXACT)


def test_t10_switch_and_the_unscored_last_frame():
    truth = sequence(*[(person(0),)] * 4)
    guess = sequence(*[(person(i, score=0.5),) for i in (0, 0, 1, 1)])
    result = score([truth], [guess])
    expect(result["AP"], 100)
    expect(result["MOTA"], 200 / 3)


def test_t12_motp_correct_and_as_printed():
    truth = sequence(*[(person(0),)] * 5)
    result = score([truth], [sequence(*[(person(0, ox=3, score=0.5),)] * 5)])
    expect(result["AP"], 100)
    expect(result["MOTP"], 90)
    expect(result["MOTP_as_printed_by_poseval"], 80)


def test_t13_wrong_joints_cost_twice_in_mota():
    right = person(0, score=0.5)
    xyv = right.keypoints_xyv.copy()
    wrong = list(range(7))
    xyv[[OFFICIAL_TO_SLOT[i] for i in wrong], 1] += 100
    guess = dataclasses.replace(right, keypoints_xyv=xyv)
    result = score([sequence(*[(right,)] * 3)], [sequence(*[(guess,)] * 3)])
    expect(result["AP"], 100, dict.fromkeys(wrong, 0))
    expect(result["MOTA"], 100, dict.fromkeys(wrong, -100))
    assert result["AP"]["total"] == pytest.approx(800 / 15, abs=EXACT)
    assert result["MOTA"]["total"] == pytest.approx(100 / 15, abs=EXACT)


def test_frames_emptied_by_cleaning_count_a_dummy_in_mot():
    """A person without a point list, or wholly ignored, is dropped; unlike T8's."""
    good = (person(0, score=0.5),)
    guess = sequence(good, good, good)
    gone = dataclasses.replace(empty_person(0), has_points=False)
    result = score([sequence(good, (gone,), good)], [guess])
    expect(result["precision"], 200 / 3)
    expect(result["MOT_recall"], 50)
    square = np.array([[450, -50], [700, -50], [700, 150], [450, 150.0]])
    truth = sequence(good, (person(0, ox=500),), good, polygons=(square,))
    expect(score([truth], [guess])["MOT_recall"], 50)
    # T8's person has a list, an empty one: no object, so nothing is missed.
    truth = sequence(good, (empty_person(0),), good)
    expect(score([truth], [guess])["MOT_recall"], 100)
