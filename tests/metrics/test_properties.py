"""What must hold for any set: perfection, order, ignorance of order, monotony."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdpose_jax.metrics.protocols import RULES, score
from tests.metrics.random_sets import random_set

PROTOCOLS = ("poseval", "posetrack21")
few = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 10_000)


def edit_frames(sequences, change):
    """Applies change(frame) to every frame."""
    return [
        dataclasses.replace(s, frames=tuple(change(f) for f in s.frames))
        for s in sequences
    ]


def edit_persons(sequences, change):
    def frame(f):
        return dataclasses.replace(f, persons=tuple(change(p) for p in f.persons))

    return edit_frames(sequences, frame)


def small_set(seed):
    return random_set(seed, num_sequences=2, num_frames=6, num_persons=4)


def measures(result):
    return {k: v for k, v in result.items() if isinstance(v, dict)}


def assert_same(a, b, abs_=1e-9):
    a, b = measures(a), measures(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == pytest.approx(b[name], abs=abs_, nan_ok=True), name


@given(seeds)
@few
def test_a_perfect_prediction_scores_100(seed):
    # Apart, so that nobody else is within half a head of anybody's joint.
    truth, _ = small_set(seed)

    def apart(person):
        xyv = person.keypoints_xyv.copy()
        xyv[xyv.any(axis=1), 0] += 1000 * person.track_id
        return dataclasses.replace(person, keypoints_xyv=xyv)

    truth = edit_persons(edit_frames(truth, _without_regions), apart)
    for protocol in PROTOCOLS:
        result = score(truth, truth, protocol)
        for name in {"AP", "precision", "recall", "MOTA", "MOTP", "DetPr", "LocA"}:
            if name in result:
                assert result[name]["total"] == pytest.approx(100, abs=1e-9), name
    # The kit's HOTA is 100 too where no frame is empty.
    full = edit_frames(truth, lambda f: f if f.persons else None)
    full = [
        dataclasses.replace(s, frames=tuple(f for f in s.frames if f)) for s in full
    ]
    result = score(full, full, "posetrack21")
    for name in ("HOTA", "DetA", "AssA", "FragA", "LocA"):
        assert result[name]["total"] == pytest.approx(100, abs=1e-9), name


def _without_regions(frame):
    return dataclasses.replace(frame, ignore_polygons=())


@given(seeds)
@few
def test_order_of_sequences_and_predictions_does_not_matter(seed):
    truth, guess = small_set(seed)
    for protocol in PROTOCOLS:
        straight = score(truth, guess, protocol)
        assert_same(straight, score(truth[::-1], guess, protocol))
        assert_same(straight, score(truth, guess[::-1], protocol))


@given(seeds)
@few
def test_order_of_persons_does_not_matter_without_ties(seed):
    """The greedy matching's ties: only people apart have no equal PCK."""
    truth, guess = small_set(seed)

    def apart(person):
        xyv = person.keypoints_xyv.copy()
        xyv[xyv.any(axis=1), 0] += 1000 * (person.track_id % 10)
        return dataclasses.replace(person, keypoints_xyv=xyv)

    truth, guess = edit_persons(truth, apart), edit_persons(guess, apart)
    rng = np.random.default_rng(seed)

    def shuffle(frame):
        order = rng.permutation(len(frame.persons))
        persons = tuple(frame.persons[i] for i in order)
        return dataclasses.replace(frame, persons=persons)

    for protocol in PROTOCOLS:
        shuffled = score(
            edit_frames(truth, shuffle), edit_frames(guess, shuffle), protocol
        )
        assert_same(score(truth, guess, protocol), shuffled)


@given(seeds)
@few
def test_order_of_frames_does_not_matter_for_ap(seed):
    truth, guess = small_set(seed)
    rng = np.random.default_rng(seed)
    for i, (t, g) in enumerate(zip(truth, guess, strict=True)):
        order = rng.permutation(len(t.frames))
        truth[i] = dataclasses.replace(t, frames=tuple(t.frames[k] for k in order))
        guess[i] = dataclasses.replace(g, frames=tuple(g.frames[k] for k in order))
    straight_truth, straight_guess = small_set(seed)
    straight = score(straight_truth, straight_guess)
    shuffled = score(truth, guess)
    for name in ("AP", "precision", "recall"):
        assert straight[name] == pytest.approx(shuffled[name], abs=1e-9, nan_ok=True)


@given(seeds, st.floats(0, 1))
@few
def test_a_worse_prediction_never_raises_recall(seed, share):
    """Removing joints from the matched person, or moving them far away."""
    truth, guess = small_set(seed)
    guess = edit_persons(truth, lambda p: _scored(p, seed))
    rng = np.random.default_rng(seed)

    def move(person):
        xyv = person.keypoints_xyv.copy()
        xyv[rng.random(17) < share, 1] += 5000
        xyv[~person.keypoints_xyv.any(axis=1)] = 0
        return dataclasses.replace(person, keypoints_xyv=xyv)

    def drop(person):
        xyv = person.keypoints_xyv * (rng.random((17, 1)) >= share)
        return dataclasses.replace(person, keypoints_xyv=xyv)

    for protocol in PROTOCOLS:
        best = score(truth, guess, protocol)["recall"]
        for worse in (move, drop):
            recall = score(truth, edit_persons(guess, worse), protocol)["recall"]
            for joint, value in recall.items():
                assert np.isnan(value) or value <= best[joint] + 1e-9, joint


def _scored(person, seed):
    rng = np.random.default_rng(seed)
    return dataclasses.replace(person, joint_scores=rng.random(17))


@given(seeds)
@few
def test_unlabelled_frames_are_free(seed):
    truth, guess = small_set(seed)
    cleared = [
        dataclasses.replace(
            g,
            frames=tuple(
                dataclasses.replace(b, persons=b.persons if a.persons else ())
                for a, b in zip(t.frames, g.frames, strict=True)
            ),
        )
        for t, g in zip(truth, guess, strict=True)
    ]
    for protocol in RULES:
        if protocol != "hieve_approx":
            assert_same(score(truth, guess, protocol), score(truth, cleared, protocol))
