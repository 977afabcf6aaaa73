"""Reading annotation files: real samples, the known dirt, and what is written back."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from tdpose_jax.annotations import (
    FrameLabel,
    PersonLabel,
    SequenceLabel,
    load_annotations,
    save_hieve,
    save_posetrack17,
    save_posetrack18,
)
from tdpose_jax.skeleton import HIEVE, JHMDB, POSETRACK, POSETRACK_OFFICIAL_JOINTS
from tests.real_data import REAL, needs_real

REAL17 = REAL / "posetrack17/annotations/val/060470979.json"
REAL18 = REAL / "posetrack18/annotations/val"


def write(tmp_path, content, name="000001_bonn_test.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


def frame17(points, name="images/bonn/000001/00000001.jpg", **rect):
    rect = {"annopoints": [{"point": points}], **rect}
    return {"image": [{"name": name}], "is_labeled": [1], "annorect": [rect]}


def coco(names, keypoints, **annotation):
    """A one-frame 2018 file; `keypoints` is [len(names), 3]."""
    return {
        "images": [{"file_name": "images/val/a/000000.jpg", "id": 7}],
        "annotations": [
            {"image_id": 7, "keypoints": np.ravel(keypoints).tolist(), **annotation}
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(names)}],
    }


@needs_real
def test_real_posetrack17_file_in_mpii_numbering():
    sequence = load_annotations(REAL17)
    assert (sequence.name, sequence.skeleton) == ("060470979", "posetrack")
    assert [len(f.persons) for f in sequence.frames] == [4] * 21
    assert sequence.frames[0].image_name == "images/bonn/060470979/00000001.jpg"
    person = sequence.frames[0].persons[0]
    at = {name: person.keypoints_xyv[i] for i, name in enumerate(POSETRACK.joints)}
    assert at["right_ankle"].tolist() == [343.94, 437.83, 2]
    assert at["head_bottom"].tolist() == [391.68, 135.95, 2]
    assert at["head_top"].tolist() == [392.56, 77.59, 2]
    assert at["left_wrist"].tolist() == [493.1, 189.3, 2]
    assert at["nose"].tolist() == [0, 0, 0]
    assert person.head_box_xyxy.tolist() == [370.17, 77.59, 408.12, 134.95]
    assert (person.track_id, person.person_box_xywh) == (0, None)


@needs_real
def test_real_posetrack18_file():
    sequence = load_annotations(REAL18 / "012834_mpii_test.json")
    frame = sequence.frames[0]
    assert (frame.image_id, frame.is_labeled) == (10128340000, True)
    assert len(frame.persons) == 11 and len(frame.ignore_polygons) == 4
    raw = json.loads((REAL18 / "012834_mpii_test.json").read_text())["annotations"][0]
    person = frame.persons[0]
    assert person.keypoints_xyv.ravel().tolist() == raw["keypoints"]
    x, y, w, h = raw["bbox_head"]
    assert person.head_box_xyxy.tolist() == [x, y, x + w, y + h]
    assert person.person_box_xywh.tolist() == raw["bbox"]
    assert np.isnan(person.joint_scores).all()


def test_posetrack_numbering_and_hidden_joints(tmp_path):
    points = [
        {"id": [i], "x": [i + 0.5], "y": [2 * i], "is_visible": [int(i != 3)]}
        for i in range(15)
    ]
    path = write(tmp_path, {"annolist": [frame17(points)]})
    xyv = load_annotations(path).frames[0].persons[0].keypoints_xyv
    for i, name in enumerate(POSETRACK_OFFICIAL_JOINTS):
        expected = [i + 0.5, 2 * i, 2 if i != 3 else 1]
        assert xyv[POSETRACK.index(name)].tolist() == expected
    forced = load_annotations(path, joint_ids="mpii").frames[0].persons[0]
    assert forced.keypoints_xyv[POSETRACK.index("head_bottom"), 0] == 8.5


def test_bare_scalars_mean_the_same_as_one_element_lists(tmp_path):
    point = {"id": 14, "x": 3.0, "y": 4, "score": 0.25}
    frame = frame17([point], x1=1, y1=2, x2=3, y2=4, track_id=5, score=0.5)
    frame["image"] = {"name": "images/bonn/000001/00000001.jpg"}
    listed = json.loads(
        json.dumps(frame17([{k: [v] for k, v in point.items()}])),
    )
    for key in ("x1", "y1", "x2", "y2", "track_id", "score"):
        listed["annorect"][0][key] = [frame["annorect"][0][key]]
    content = {"annolist": [frame, listed]}
    bare, wrapped = (
        f.persons[0] for f in load_annotations(write(tmp_path, content)).frames
    )
    assert_same_person(bare, wrapped)
    assert bare.head_box_xyxy.tolist() == [1, 2, 3, 4]
    assert bare.joint_scores[POSETRACK.index("head_top")] == 0.25


def test_persons_without_points_and_with_an_empty_list_differ(tmp_path):
    frame = frame17([])
    frame["annorect"] += [{"annopoints": []}, {}, {"annopoints": [{}]}]
    persons = load_annotations(write(tmp_path, {"annolist": [frame]})).frames[0].persons
    assert [p.has_points for p in persons] == [True, False, False, False]


def test_repeated_joint_counts_once_the_first(tmp_path):
    points = [{"id": 0, "x": 1, "y": 1}, {"id": 0, "x": 9, "y": 9}]
    path = write(tmp_path, {"annolist": [frame17(points)]})
    xyv = load_annotations(path).frames[0].persons[0].keypoints_xyv
    assert xyv[POSETRACK.index("right_ankle")].tolist() == [1, 1, 1]


def test_hieve_is_found_by_its_bare_image_names(tmp_path):
    points = [{"id": [i], "x": [i + 1], "y": [i]} for i in range(14)]
    box = {"x1": [10], "y1": [20], "x2": [40], "y2": [80]}
    content = {"annolist": [frame17(points, name="000000.jpg", **box)]}
    path = write(tmp_path, content, "11.json")
    sequence = load_annotations(path)
    assert sequence.skeleton == "hieve"
    person = sequence.frames[0].persons[0]
    assert person.keypoints_xyv[HIEVE.index("chest")].tolist() == [2, 1, 1]
    assert person.person_box_xywh.tolist() == [10, 20, 30, 60]
    assert person.head_box_xyxy is None
    assert load_annotations(path, joint_ids="posetrack").skeleton == "posetrack"


def test_ignore_regions_of_2017(tmp_path):
    frame = frame17([])
    triangle = [{"x": [x], "y": [y]} for x, y in ((0, 0), (4, 0), (0, 4))]
    frame["ignore_regions"] = [{"point": triangle}, {"point": triangle[:2]}]
    polygons = load_annotations(write(tmp_path, {"annolist": [frame]})).frames[0]
    assert [p.tolist() for p in polygons.ignore_polygons] == [[[0, 0], [4, 0], [0, 4]]]


@pytest.mark.parametrize("names", [POSETRACK.joints, POSETRACK_OFFICIAL_JOINTS])
def test_names_decide_the_columns(tmp_path, names):
    names = list(names)[::-1]
    keypoints = [(i + 1, 2 * i, 1) for i in range(len(names))]
    scores = [i / 100 for i in range(len(names))]
    path = write(tmp_path, coco(names, keypoints, scores=scores, track_id=2))
    person = load_annotations(path).frames[0].persons[0]
    for i, name in enumerate(names):
        slot = POSETRACK.index(name)
        if name in ("left_ear", "right_ear"):
            assert not person.keypoints_xyv[slot].any()
        else:
            assert person.keypoints_xyv[slot].tolist() == [i + 1, 2 * i, 1]
            assert person.joint_scores[slot] == i / 100


@pytest.mark.parametrize("skeleton", [JHMDB, HIEVE])
def test_other_skeletons_by_name(tmp_path, skeleton):
    keypoints = np.arange(3 * skeleton.num_keypoints).reshape(-1, 3)
    sequence = load_annotations(write(tmp_path, coco(skeleton.joints, keypoints)))
    assert sequence.skeleton == skeleton.name
    assert sequence.frames[0].persons[0].keypoints_xyv.tolist() == keypoints.tolist()


def test_posetrack21_fields(tmp_path):
    content = coco(POSETRACK.joints, np.zeros((17, 3)), bbox=[1, 2, 3, 4], person_id=9)
    content["images"][0] |= {"is_labeled": False, "has_labeled_person": True}
    frame = load_annotations(write(tmp_path, content)).frames[0]
    assert not frame.is_labeled and frame.persons[0].has_points
    assert frame.persons[0].track_id is None
    assert frame.persons[0].head_box_xyxy is None


@needs_real
def test_matlab_form_equals_the_json_form(tmp_path):
    import scipy.io

    content = json.loads(REAL17.read_text())
    content["annolist"] = content["annolist"][:3]
    # A frame with one person, and one without: MATLAB squeezes both.
    content["annolist"][1]["annorect"] = content["annolist"][1]["annorect"][:1]
    content["annolist"][2]["annorect"] = []
    bare = _without_singletons(copy.deepcopy(content))
    scipy.io.savemat(tmp_path / "a.mat", {"annolist": _structs(bare["annolist"])})
    expected = load_annotations(write(tmp_path, content, "a.json"))
    assert_same_sequence(load_annotations(tmp_path / "a.mat"), expected)


def _without_singletons(node):
    if isinstance(node, dict):
        return {k: _without_singletons(v) for k, v in node.items()}
    if isinstance(node, list):
        node = [_without_singletons(v) for v in node]
        return node[0] if len(node) == 1 else node
    return node


def _structs(node):
    """Lists of objects as struct arrays, which is what MATLAB saves."""
    if isinstance(node, dict):
        return {k: _structs(v) for k, v in node.items()}
    if isinstance(node, list) and node and isinstance(node[0], dict):
        keys = list(dict.fromkeys(k for item in node for k in item))
        array = np.zeros(len(node), dtype=[(k, object) for k in keys])
        for i, item in enumerate(node):
            for k in keys:
                array[i][k] = _structs(item.get(k, []))
        return array
    return node


def full_sequence(skeleton="posetrack"):
    """Two persons, an unlabelled frame, ignore regions, scores."""
    rng = np.random.default_rng(3)
    num = {"posetrack": 17, "hieve": 14, "jhmdb": 15}[skeleton]

    def person(track_id):
        xyv = np.concatenate([rng.normal(200, 90, (num, 2)), np.ones((num, 1))], axis=1)
        scores = rng.random(num)
        if skeleton == "posetrack":
            xyv[3:5], scores[3:5] = 0, 0
        head = None if skeleton == "hieve" else np.array([1.0, 2, 31, 42])
        box = np.array([5.0, 6, 70, 80])
        return PersonLabel(xyv, scores, True, head, box, track_id, float(rng.random()))

    region = np.array([[0, 0], [9.5, 0], [9.5, 9]])
    frames = (
        FrameLabel(
            "images/val/a/000000.jpg", 11, True, (person(4), person(0)), (region,)
        ),
        FrameLabel("images/val/a/000001.jpg", 12, False),
    )
    return SequenceLabel("a", skeleton, frames)


@pytest.mark.parametrize("skeleton", ["posetrack", "hieve", "jhmdb"])
def test_posetrack18_round_trip_is_exact(tmp_path, skeleton):
    sequence = full_sequence(skeleton)
    save_posetrack18(sequence, tmp_path / "a.json")
    back = load_annotations(tmp_path / "a.json")
    blank = sequence.frames[0].persons[0].joint_scores.copy()
    if skeleton == "posetrack":
        blank[3:5] = np.nan  # the ears' scores are not read
        persons = tuple(
            dataclasses.replace(
                p, joint_scores=np.where(np.isnan(blank), np.nan, p.joint_scores)
            )
            for p in sequence.frames[0].persons
        )
        frame = dataclasses.replace(sequence.frames[0], persons=persons)
        sequence = dataclasses.replace(sequence, frames=(frame, sequence.frames[1]))
    assert_same_sequence(back, sequence)


def test_posetrack17_submission(tmp_path):
    sequence = full_sequence()
    save_posetrack17(sequence, tmp_path / "a.json")
    raw = json.loads((tmp_path / "a.json").read_text())["annolist"]
    assert raw[0]["image"] == {"name": "images/val/a/000000.jpg"}  # a dict, not a list
    assert [len(p["annopoints"][0]["point"]) for p in raw[0]["annorect"]] == [15, 15]
    assert "x1" not in raw[0]["annorect"][0]
    point = {"id": [0], "x": [0.0], "y": [0.0], "score": [-100.0]}
    dummy = {"annopoints": [{"point": [point]}], "score": [0.0], "track_id": [0]}
    assert raw[1]["annorect"] == [dummy]
    back = load_annotations(tmp_path / "a.json").frames
    for ours, read in zip(sequence.frames[0].persons, back[0].persons, strict=True):
        np.testing.assert_array_equal(read.keypoints_xyv, ours.keypoints_xyv)
        assert (read.track_id, read.score) == (ours.track_id, ours.score)
    assert back[1].persons[0].keypoints_xyv.any(axis=1).sum() == 1


def test_hieve_submission(tmp_path):
    sequence = full_sequence("hieve")
    save_hieve(sequence, tmp_path / "20.json")
    back = load_annotations(tmp_path / "20.json", joint_ids="hieve")
    for ours, read in zip(
        sequence.frames[0].persons, back.frames[0].persons, strict=True
    ):
        assert_same_person(read, ours)
    assert back.frames[1].persons == ()
    with pytest.raises(ValueError, match="skeleton 'hieve'; this form is for"):
        save_posetrack17(sequence, tmp_path / "no.json")


def test_writers_fill_track_ids_and_image_ids_and_keep_file_whole(tmp_path):
    sequence = full_sequence()
    persons = tuple(
        dataclasses.replace(p, track_id=t)
        for p, t in zip(sequence.frames[0].persons * 2, (None, 1, None, 0), strict=True)
    )
    frame = dataclasses.replace(sequence.frames[0], persons=persons, image_id=None)
    sequence = dataclasses.replace(sequence, frames=(frame, sequence.frames[1]))
    save_posetrack18(sequence, tmp_path / "a.json")
    back = load_annotations(tmp_path / "a.json").frames
    assert [p.track_id for p in back[0].persons] == [2, 1, 3, 0]
    assert [f.image_id for f in back] == [1, 2]
    broken = dataclasses.replace(persons[0], score=float("nan"))
    bad = dataclasses.replace(frame, persons=(broken,))
    before = (tmp_path / "a.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_posetrack18(
            dataclasses.replace(sequence, frames=(bad,)), tmp_path / "a.json"
        )
    assert (tmp_path / "a.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def assert_same_sequence(a, b):
    assert (a.name, a.skeleton, len(a.frames)) == (b.name, b.skeleton, len(b.frames))
    for f, g in zip(a.frames, b.frames, strict=True):
        assert (f.image_name, f.image_id, f.is_labeled) == (
            g.image_name,
            g.image_id,
            g.is_labeled,
        )
        for p, q in zip(f.persons, g.persons, strict=True):
            assert_same_person(p, q)
        for p, q in zip(f.ignore_polygons, g.ignore_polygons, strict=True):
            np.testing.assert_array_equal(p, q)


def assert_same_person(a, b):
    for field in dataclasses.fields(PersonLabel):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y, field.name
