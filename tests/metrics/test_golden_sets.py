"""G1 and the real PoseTrack18 frames, as poseval and the PoseTrack21 kit score them."""

import dataclasses

import numpy as np
import pytest

from tdpose_jax.annotations import load_annotations
from tdpose_jax.metrics.average_precision import average_precision
from tdpose_jax.metrics.hota import _per_sequence
from tdpose_jax.metrics.matching import make_pairs
from tdpose_jax.metrics.mota import clear_mot
from tdpose_jax.metrics.person_tables import concatenate, pack
from tdpose_jax.metrics.protocols import RULES, group_means, score
from tests.metrics.golden_sets import expect, g1, person, sequence
from tests.real_data import REAL, needs_real

EXACT = 1e-9
SIX_DIGITS = 5.1e-7  # the reference was printed with six decimals
NO_WRISTS = (6, 11)

G1_POSEVAL = {
    "AP": "48.744317 47.991235 59.960771 47.194755 51.816714 47.995781 46.096326 "
    "55.510635 41.746297 48.095184 41.736901 62.173913 55.762153 41.838879 44.346760 "
    "49.400708",
    "MOTA": "35.714286 17.5 32.432432 13.513514 16.216216 22.5 17.5 42.5 17.948718 "
    "8.571429 13.157895 52.5 37.5 15.789474 25.0 24.556264",
}
G1_TOTALS = {
    "precision": 63.094118,
    "recall": 70.031370,
    "MOT_precision": 63.123874,
    "MOT_recall": 71.289051,
    "MOTP": 68.138835,
    "MOTP_as_printed_by_poseval": 34.119038,
}
G1_GROUPS = dict(
    Head=47.315931,
    Shoulder=44.920740,
    Elbow=48.623768,
    Wrist=54.135120,
    Hip=53.577763,
    Knee=49.903974,
    Ankle=48.370049,
    Total=49.400708,
)


def test_g1_set_is_the_published_one():
    _, guess, draw = g1()
    assert draw.x == 14432226
    assert [sum(len(f.persons) for f in s.frames) for s in guess] == [36, 35]
    first = guess[0].frames[0].persons[0]
    np.testing.assert_allclose(
        first.keypoints_xyv[0, :2], (800.4715826567, 398.9752043104), atol=1e-10
    )
    assert first.joint_scores[0] == pytest.approx(0.3086515162, abs=1e-10)


def test_g1_poseval():
    truth, guess, _ = g1()
    result = score(truth, guess)
    assert result["num_frames"] == 18
    for measure, text in G1_POSEVAL.items():
        np.testing.assert_allclose(
            list(result[measure].values()),
            [float(v) for v in text.split()],
            rtol=0,
            atol=SIX_DIGITS,
        )
    for measure, total in G1_TOTALS.items():
        assert result[measure]["total"] == pytest.approx(total, abs=SIX_DIGITS), measure
    groups = group_means(result["AP"], "posetrack")
    assert list(groups) == list(G1_GROUPS)
    for name, value in G1_GROUPS.items():
        assert groups[name] == pytest.approx(value, abs=SIX_DIGITS), name


def test_g1_counts():
    truth, guess, _ = g1()
    data = concatenate(
        [pack(t, p, RULES["poseval"]) for t, p in zip(truth, guess, strict=True)]
    )
    pairs = make_pairs(data)
    ap = average_precision(data, pairs)
    assert ap.num_ground_truth.tolist() == (
        [48, 48, 44, 42, 44, 48, 46, 48, 46, 42, 46, 46, 48, 46, 46]
    )
    assert ap.num_predictions.tolist() == (
        [52, 52, 51, 50, 50, 50, 52, 52, 52, 50, 50, 50, 50, 52, 51]
    )
    switches = clear_mot(data, pairs).switches
    assert switches.tolist() == [2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 1, 2]


def test_g1_posetrack21_kit():
    truth, guess, _ = g1()
    result = score(truth, guess, "posetrack21")
    expected = {
        "AP": (49.401, 5e-4),  # printed with three digits
        "HOTA": (15.12764, 5.1e-6),
        "DetA": (11.771555, SIX_DIGITS),
        "AssA": (19.719840, SIX_DIGITS),
        "FragA": (19.719840, SIX_DIGITS),
        "LocA": (68.948320, SIX_DIGITS),
        "DetRe": (17.317487, SIX_DIGITS),
        "DetPr": (22.485533, SIX_DIGITS),
    }
    for measure, (value, tolerance) in expected.items():
        assert result[measure]["total"] == pytest.approx(value, abs=tolerance), measure
    poseval = score(truth, guess)
    assert result["AP"] == pytest.approx(poseval["AP"], abs=EXACT)
    rules = RULES["posetrack21"]
    data = concatenate([pack(t, p, rules) for t, p in zip(truth, guess, strict=True)])
    counts, _ = _per_sequence(data, make_pairs(data))
    for alpha, expected in ((0, (441, 551, 323)), (9, (142, 850, 622))):
        found = [counts[key][..., alpha].sum() for key in ("tp", "fn", "fp")]
        assert found == pytest.approx(expected)


def test_posetrack21_joint_without_ground_truth_scores_zero():
    truth = sequence(*[(person(0, 1, 1, without=NO_WRISTS),)] * 3)
    result = score(
        [truth], [sequence(*[(person(0, 1, 1, score=0.5),)] * 3)], "posetrack21"
    )
    expect(result["AP"], 100, dict.fromkeys(NO_WRISTS, 0))
    assert result["AP"]["total"] == pytest.approx(1300 / 15, abs=EXACT)


def test_posetrack21_drops_joints_left_of_or_above_the_image():
    truth = sequence(*[(person(0, 1, 1),)] * 3)
    stray = person(1, ox=-500, oy=1, score=0.9)
    guess = sequence(*[(person(0, 1, 1, score=0.5), stray)] * 3)
    expect(score([truth], [guess], "posetrack21")["precision"], 100)
    expect(score([truth], [guess], "poseval")["precision"], 50)


def test_posetrack21_empty_frame_costs_the_joints_of_the_whole_sequence():
    """The kit's published example has 199 misses instead of 26 for one such frame."""
    full = tuple(person(i, 1 + 500 * i, 1, score=0.5) for i in range(2))
    truth = sequence(*[full] * 8)
    guess = sequence(full, (), *[full] * 6)
    data = pack(truth, guess, RULES["posetrack21"])
    counts, _ = _per_sequence(data, make_pairs(data))
    assert counts["fn"][0, 0].tolist() == [16] * 19
    assert counts["fp"].max() == 0


def test_posetrack21_labelled_frames_without_persons_do_not_crash():
    """The kit raises here; every prediction there counts as a false positive."""
    label = (person(0, 1, 1, score=0.5),)
    truth = sequence(label, (), label)
    frames = list(truth.frames)
    frames[1] = dataclasses.replace(frames[1], is_labeled=True)
    truth = dataclasses.replace(truth, frames=tuple(frames))
    result = score([truth], [sequence(label, label, label)], "posetrack21")
    expect(result["precision"], 200 / 3)
    empty = score([truth], [sequence((), (), ())], "posetrack21")
    expect(empty["AP"], 0)
    assert empty["HOTA"]["total"] == 0


@pytest.fixture(scope="module")
def real_sequences():
    paths = sorted((REAL / "posetrack18/annotations/val").glob("*.json"))
    return [load_annotations(path) for path in paths]


def _edit(sequences, change):
    """Applies change(person, index in frame) to every person."""
    return [
        dataclasses.replace(
            s,
            frames=tuple(
                dataclasses.replace(
                    f, persons=tuple(change(p, i) for i, p in enumerate(f.persons))
                )
                for f in s.frames
            ),
        )
        for s in sequences
    ]


@needs_real
def test_real_sample_as_its_own_prediction(real_sequences):
    guess = _edit(
        real_sequences,
        lambda p, i: dataclasses.replace(p, joint_scores=np.ones(17)),
    )
    assert [len(s.frames[0].persons) for s in real_sequences] == [1, 2, 11]
    values = score(real_sequences, guess)["AP"].values()
    assert list(values) == pytest.approx([100] * 16, abs=EXACT)


@needs_real
def test_real_sample_shifted_by_almost_the_threshold(real_sequences):
    def shift(p, i):
        size = 0.6 * np.linalg.norm(p.head_box_xyxy[2:] - p.head_box_xyxy[:2])
        xyv = p.keypoints_xyv.copy()
        xyv[xyv.any(axis=1), 0] += 0.4999 * size
        return dataclasses.replace(p, keypoints_xyv=xyv, joint_scores=np.ones(17))

    result = score(real_sequences, _edit(real_sequences, shift))["AP"]
    assert result["total"] == pytest.approx(96.534799, abs=SIX_DIGITS)
    groups = list(group_means(result, "posetrack").values())[:7]
    expected = [97.4359, 96.4286, 86.4286, 100, 100, 100, 95.0]
    assert groups == pytest.approx(expected, abs=5.1e-5)


@needs_real
def test_real_sample_with_every_third_person_missing(real_sequences):
    def thin(p, i):
        xyv = p.keypoints_xyv * (i % 3 != 2)
        scores = np.full(17, 1 - 0.03 * i)
        return dataclasses.replace(p, keypoints_xyv=xyv, joint_scores=scores)

    result = score(real_sequences, _edit(real_sequences, thin))["AP"]
    assert result["total"] == pytest.approx(79.509824, abs=SIX_DIGITS)
    groups = list(group_means(result, "posetrack").values())[:7]
    expected = [78.022, 78.5714, 89.2857, 81.8182, 84.6154, 70.0, 75.0]
    assert groups == pytest.approx(expected, abs=5.1e-4)
