"""MOTA against motmetrics and TrackEval, ignore regions against shapely."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdpose_jax.metrics.ignore_regions import inside_any_polygon
from tdpose_jax.metrics.matching import make_pairs
from tdpose_jax.metrics.mota import clear_mot
from tdpose_jax.metrics.person_tables import concatenate, pack
from tdpose_jax.metrics.protocols import RULES
from tests.metrics.golden_sets import g1
from tests.metrics.random_sets import random_set


def packed(truth, guess):
    rules = RULES["poseval"]
    return concatenate([pack(t, p, rules) for t, p in zip(truth, guess, strict=True)])


def frames_of_joint(data, pairs, sequence, j):
    """What poseval feeds: (gt ids, predicted ids, distances with NaN) per frame."""
    truth, guess = data.ground_truth, data.predictions
    frames = np.flatnonzero(data.sequence_of_frame == sequence)[:-1]
    for f in frames:
        rows = np.flatnonzero(truth.frame == f)
        columns = np.flatnonzero(guess.frame == f)
        if not len(rows) or not len(columns):
            yield [0], [0], np.full((1, 1), np.nan)
            continue
        block = (pairs.prediction[:, None] == columns).any(axis=1)
        table = pairs.distance[block, j].reshape(len(columns), len(rows)).T
        rows_there = truth.present[rows, j]
        columns_there = guess.present[columns, j]
        table = table[rows_there][:, columns_there]
        yield (
            truth.track[rows[rows_there]].tolist(),
            guess.track[columns[columns_there]].tolist(),
            np.where(table <= 0.5, table, np.nan),
        )


@pytest.mark.parametrize("which", ["g1", 0, 1, 2])
def test_counts_and_distances_equal_motmetrics(which):
    import motmetrics

    truth, guess = g1()[:2] if which == "g1" else random_set(which)
    data = packed(truth, guess)
    pairs = make_pairs(data)
    ours = clear_mot(data, pairs)
    for j in range(0, 15, 1 if which == "g1" else 4):
        counts = dict.fromkeys(
            "objects MATCH SWITCH MISS FP distance printed".split(), 0
        )
        for s in range(data.num_sequences):
            accumulator = motmetrics.MOTAccumulator(auto_id=True)
            for ids, predicted_ids, table in frames_of_joint(data, pairs, s, j):
                accumulator.update(ids, predicted_ids, table)
                counts["objects"] += len(ids)
            events = accumulator.mot_events
            for kind in ("MATCH", "SWITCH", "MISS", "FP"):
                counts[kind] += int((events.Type == kind).sum())
            found = accumulator.mot_events.Type.isin(["MATCH", "SWITCH"])
            counts["distance"] += events.D[found].sum()
            counts["printed"] += accumulator.events.D.sum()
        assert counts["objects"] == ours.objects[j]
        assert counts["MATCH"] == ours.matches[j]
        assert counts["SWITCH"] == ours.switches[j]
        assert counts["MISS"] == ours.misses[j]
        assert counts["FP"] == ours.false_positives[j]
        assert counts["distance"] == pytest.approx(ours.distance[j], abs=1e-9)
        assert counts["printed"] == pytest.approx(ours.distance_as_printed[j], abs=1e-9)


def test_mota_equals_trackevals_clear():
    from trackeval.metrics import CLEAR

    truth, guess, _ = g1()
    data = packed(truth, guess)
    pairs = make_pairs(data)
    ours = clear_mot(data, pairs).mota()
    # TrackEval counts a pair as a candidate at similarity >= THRESHOLD.
    metric = CLEAR({"THRESHOLD": 0.5, "PRINT_CONFIG": False})
    for j in range(15):
        results = {}
        for s in range(data.num_sequences):
            frames = list(frames_of_joint(data, pairs, s, j))
            similarity = [np.nan_to_num(1 - f[2], nan=0.0) for f in frames]
            # Its dummies have similarity 0: one miss and one false positive, as ours.
            truth_ids, true = _consecutive([f[0] for f in frames])
            guess_ids, guessed = _consecutive([f[1] for f in frames])
            results[str(s)] = metric.eval_sequence(
                {
                    "gt_ids": true,
                    "tracker_ids": guessed,
                    "similarity_scores": similarity,
                    "num_gt_ids": truth_ids,
                    "num_tracker_ids": guess_ids,
                    "num_gt_dets": sum(map(len, true)),
                    "num_tracker_dets": sum(map(len, guessed)),
                    "num_timesteps": len(frames),
                }
            )
        mota = metric.combine_sequences(results)["MOTA"]
        assert 100 * mota == pytest.approx(ours[j], abs=1e-9)


def _consecutive(ids):
    numbers = {}
    for frame in ids:
        for i in frame:
            numbers.setdefault(i, len(numbers))
    return len(numbers), [np.array([numbers[i] for i in f], dtype=int) for f in ids]


def shapely_contains(points, polygon):
    import shapely

    return shapely.contains_xy(shapely.Polygon(polygon), points[:, 0], points[:, 1])


# Pixels with a few decimals, as annotation tools write them, and many on one line.
coordinate = st.one_of(
    st.integers(0, 8).map(float), st.integers(-1000, 9000).map(lambda i: i / 1000)
)
point = st.tuples(coordinate, coordinate)


@given(
    st.lists(point, min_size=3, max_size=12), st.lists(point, min_size=1, max_size=20)
)
@settings(max_examples=150, deadline=None)
def test_inside_equals_shapely_for_valid_polygons(polygon, points):
    import shapely

    polygon = np.array(polygon)
    if not shapely.Polygon(polygon).is_valid:
        return
    # The points, the vertices and points on the edges.
    edges = (polygon + np.roll(polygon, -1, axis=0)) / 2
    points = np.concatenate([np.array(points), polygon, edges])
    ours = inside_any_polygon(points, [polygon])
    np.testing.assert_array_equal(ours, shapely_contains(points, polygon))


def test_inside_for_large_star_polygons_with_many_vertices():
    rng = np.random.default_rng(5)
    for _ in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 150))
        radius = rng.uniform(50, 900, 150)
        star = np.stack([960 + radius * np.cos(angle), 540 + radius * np.sin(angle)], 1)
        star = np.round(star)
        points = np.concatenate([rng.uniform(0, 1920, (500, 2)), star])
        expected = shapely_contains(points, star)
        import shapely

        if shapely.Polygon(star).is_valid:
            np.testing.assert_array_equal(inside_any_polygon(points, [star]), expected)


def test_borders_and_vertices_are_outside_and_polygons_unite():
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2.0]])
    other = square + 1.5
    points = np.array([[0, 0], [1, 0], [1, 1], [2, 1], [3, 3], [1.75, 1.75], [9, 9.0]])
    inside = inside_any_polygon(points, [square, other])
    assert inside.tolist() == [False, False, True, False, True, True, False]
    assert inside_any_polygon(points, [square[:2]]).tolist() == [False] * 7
    assert inside_any_polygon(points[:0], [square]).shape == (0,)
