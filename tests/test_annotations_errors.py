"""Every malformed file raises AnnotationError with file, field and remedy."""

import copy
import json

import pytest

from tdpose_jax.annotations import AnnotationError, load_annotations
from tdpose_jax.skeleton import POSETRACK_OFFICIAL_JOINTS

GOOD_17 = {
    "annolist": [
        {
            "image": [{"name": "images/bonn/000001/00000001.jpg"}],
            "is_labeled": [1],
            "ignore_regions": [{"point": [{"x": [i], "y": [0]} for i in range(3)]}],
            "annorect": [
                {
                    "annopoints": [{"point": [{"id": [0], "x": [1], "y": [2]}]}],
                    "x1": [0],
                    "y1": [0],
                    "x2": [3],
                    "y2": [4],
                    "track_id": [0],
                }
            ],
        }
    ]
}
GOOD_18 = {
    "images": [
        {
            "file_name": "images/val/a/000000.jpg",
            "id": 7,
            "is_labeled": True,
            "ignore_regions_x": [[0, 1, 1]],
            "ignore_regions_y": [[0, 0, 1]],
        }
    ],
    "annotations": [
        {
            "image_id": 7,
            "track_id": 0,
            "keypoints": [1] * 45,
            "scores": [],
            "bbox": [1, 2, 3, 4],
            "bbox_head": [1, 2, 3, 4],
        }
    ],
    "categories": [{"name": "person", "keypoints": list(POSETRACK_OFFICIAL_JOINTS)}],
}
RECT = "annolist.0.annorect.0"
POINT = f"{RECT}.annopoints.0.point.0"
IMAGE_NAME = "annolist.0.image.0.name"
REMOVE = object()

CASES = [
    # form, place, new value, field in the message, problem
    (17, "annolist", 3, "field annolist:", "expected a list of objects, got 3"),
    (17, "annolist", [], "field annolist:", "lists no frame"),
    (17, "annolist.0", None, "annolist[0]", "expected an object, got None"),
    (17, "annolist.0.image", REMOVE, "field annolist[0].image: ", "is missing"),
    (17, IMAGE_NAME, "../x.jpg", "annolist[0].image.name", "leaves the data root"),
    (17, IMAGE_NAME, "/etc/passwd", "annolist[0].image.name", "leaves the data root"),
    (17, IMAGE_NAME, "a/../../b.jpg", ".image.name", "leaves the data root"),
    (17, IMAGE_NAME, "C:\\x.jpg", ".image.name", "leaves the data root"),
    (17, IMAGE_NAME, "a\\..\\b.jpg", ".image.name", "leaves the data root"),
    (17, IMAGE_NAME, "a\x00.jpg", ".image.name", "not portable"),
    (17, IMAGE_NAME, 5, ".image.name", "expected an image path, got 5"),
    (17, "annolist.0.is_labeled", [7], "[0].is_labeled", "got 7"),
    (17, RECT, "x", "annorect[0]", "expected an object, got 'x'"),
    (17, f"{RECT}.x1", REMOVE, "annorect[0]", "some but not all of x1"),
    (17, f"{RECT}.track_id", [1.5], "annorect[0].track_id", "an integer, got 1.5"),
    (17, f"{RECT}.track_id", [2**70], ".track_id", "does not fit in 64 bits"),
    (17, f"{RECT}.score", ["x"], "annorect[0].score", "a number, got 'x'"),
    (17, f"{POINT}.id", [20], "point[0].id", "joint id 20 is not in this numbering"),
    (17, f"{POINT}.x", REMOVE, "point[0]", "x, y or score: expected a number"),
    (17, f"{POINT}.x", [True], "annopoints.point[0]", "got True"),
    (17, f"{POINT}.y", [10**400], "annopoints.point[0]", "an integer beyond 64 bits"),
    (17, f"{POINT}.y", [1e300], "annopoints.point[0]", "is not a finite number"),
    (17, f"{POINT}.is_visible", [9], "point[0].is_visible", "expected 0, 1"),
    (17, "annolist.0.ignore_regions.0.point.1.x", [None], "point[1]", "got None"),
    (18, "images", REMOVE, "field images: ", "is missing"),
    (18, "images", [], "field images", "lists no frame"),
    (18, "images.0.id", "7", "images[0].id", "an integer, got '7'"),
    (18, "images.0.file_name", "//x", "images[0].file_name", "leaves the data root"),
    (18, "images.0.ignore_regions_x", [[0, 1]], "regions_x[0]", "2 x values but 3 y"),
    (18, "images.0.ignore_regions_x", [], "ignore_regions_x", "0 regions but"),
    (18, "images.0.ignore_regions_x", [[0, "a", 1]], "regions_x[0][1]", "got 'a'"),
    (18, "annotations.0.image_id", 8, "annotations[0].image_id", "no image has the id"),
    (18, "annotations.0.keypoints", [1] * 51, "[0].keypoints", "a list of 45 numbers"),
    (18, "annotations.0.keypoints.3", None, "annotations[0].keypoints[3]", "got None"),
    (18, "annotations.0.keypoints.3", "1", "annotations[0].keypoints[3]", "got '1'"),
    (18, "annotations.0.keypoints.3", 10**400, "keypoints[3]", "beyond 64 bits"),
    (18, "annotations.0.keypoints.3", [[1]], "keypoints[3]", "got a list"),
    (18, "annotations.0.scores", [1.0], "annotations[0].scores", "list of 15 numbers"),
    (18, "annotations.0.bbox", [1, 2, 3], "annotations[0].bbox", "list of 4 numbers"),
    (18, "annotations.0.bbox_head", "x", "annotations[0].bbox_head", "got 'x'"),
    (18, "annotations.0.track_id", [], "annotations[0].track_id", "a list of 0"),
    (18, "categories", [], "field categories", "expected one category, got 0"),
    (18, "categories.0.keypoints", ["a"], "categories[0].keypoints", "no known"),
    (18, "categories.0.keypoints", ["a", "a"], "categories[0].keypoints", "twice"),
    (18, "categories.0.keypoints", [[]], "categories[0].keypoints", "joint names"),
]


def change(content, place, value):
    content = copy.deepcopy(content)
    *parents, last = (int(s) if s.isdigit() else s for s in place.split("."))
    node = content
    for step in parents:
        node = node[step]
    if value is REMOVE:
        del node[last]
    else:
        node[last] = value
    return content


def message_of(path, **kwargs):
    with pytest.raises(AnnotationError) as caught:
        load_annotations(path, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("form, place, value, field, problem", CASES)
def test_field_errors(tmp_path, form, place, value, field, problem):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(change({17: GOOD_17, 18: GOOD_18}[form], place, value)))
    message = message_of(path)
    assert message.startswith(f"{path}: field ")
    assert field in message and problem in message
    assert "; " in message and "\n" not in message  # one line, with the remedy


@pytest.mark.parametrize("content", [GOOD_17, GOOD_18])
def test_the_unchanged_files_are_good(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert len(load_annotations(path).frames[0].persons) == 1


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe\xfd", "is not valid JSON"),
        (b'{"annolist": [', "is not valid JSON"),
        (b"[" * 200_000, "is nested too deeply"),
        (b'{"annolist": ' + b"[" * 100_000, "is nested too deeply"),
        (b'{"a": NaN}', "contains NaN"),
        (b'{"a": -Infinity}', "contains -Infinity"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[1, 2]", "expected an object, got a list of 2"),
        (b"3", "expected an object, got 3"),
        (b"{}", "field categories: is missing"),
    ],
)
def test_files_that_are_no_annotation_files(tmp_path, data, problem):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    message = message_of(path)
    assert message.startswith(str(path)) and problem in message


def test_missing_files_folders_and_bad_matlab_files(tmp_path):
    assert "cannot be read (No such file" in message_of(tmp_path / "none.json")
    assert "cannot be read (Is a directory" in message_of(tmp_path)
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\x00" * 200)
    assert "is not a readable MATLAB file" in message_of(tmp_path / "a.mat")
    import scipy.io

    scipy.io.savemat(tmp_path / "b.mat", {"x": 1})
    assert "holds no variable annolist" in message_of(tmp_path / "b.mat")


def test_duplicate_image_ids(tmp_path):
    content = copy.deepcopy(GOOD_18)
    content["images"].append(content["images"][0])
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert "images[1].id: 7 is used twice" in message_of(path)


def test_joint_ids_must_be_known(tmp_path):
    with pytest.raises(ValueError, match="choose auto, posetrack, mpii, hieve"):
        load_annotations(tmp_path / "a.json", joint_ids="coco")
