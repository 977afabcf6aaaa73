"""Box files in every form, and detectors on a real picture."""

import json

import cv2
import numpy as np
import pytest

from tdpose_jax.geometry import box_iou_xywh
from tdpose_jax.video.box_files import BoxFileError, load_box_file
from tdpose_jax.video.decode import Frame
from tdpose_jax.video.detect import (
    DetectorError,
    HogDetector,
    YoloxDetector,
    decode_yolox,
    letterbox,
    make_detector,
)
from tdpose_jax.video.poses import Boxes
from tests.real_data import REAL, needs_real

YOLOX = REAL / "weights" / "yolox_nano.onnx"


def frame(index, name="clip/x.png"):
    return Frame(index, index / 25, name, None)


def test_mot_counts_from_one_and_knows_identities(tmp_path):
    path = tmp_path / "det.txt"
    path.write_text("1,7,10,20,30,40,0.5,-1,-1,-1\n3,8,1,2,3,4,1,1,1.0\n\n")
    boxes = load_box_file(path)
    np.testing.assert_array_equal(boxes(frame(0), False).xywh, [[10, 20, 30, 40]])
    np.testing.assert_allclose(boxes(frame(0), True).score, [0.5])
    assert boxes(frame(0), False).track_id.tolist() == [7]
    assert not len(boxes(frame(1), False).xywh)
    assert boxes(frame(2), False).track_id.tolist() == [8]


def test_mot_without_identities(tmp_path):
    path = tmp_path / "det.txt"
    path.write_text("1,-1,10,20,30,40,0.5\n1 4 10 20 30 40\n")
    assert load_box_file(path)(frame(0), False).track_id is None


def test_coco_by_name_in_folders_and_by_number(tmp_path):
    path = tmp_path / "coco.json"
    by_name = {"image_name": "other/x.png", "bbox": [1, 2, 3, 4], "score": 0.25}
    path.write_text(json.dumps([by_name, {**by_name, "category_id": 3}]))
    found = load_box_file(path)(frame(5), of_folder=True)
    np.testing.assert_array_equal(found.xywh, [[1, 2, 3, 4]])
    np.testing.assert_allclose(found.score, [0.25])
    path.write_text(json.dumps([{"image_id": 2, "bbox": [1, 2, 3, 4], "score": 1}]))
    assert len(load_box_file(path)(frame(1), False).xywh) == 1
    assert len(load_box_file(path)(frame(2), False).xywh) == 0


def test_posetrack_file_gives_boxes_ids_and_image_ids(clip):
    boxes = load_box_file(clip.boxes)
    for i, label in enumerate(clip.truth.frames):
        by_name = boxes(frame(99, f"elsewhere/{i:06d}.png"), of_folder=True)
        by_place = boxes(frame(i), of_folder=False)
        for found in (by_name, by_place):
            expected = [p.person_box_xywh for p in label.persons]
            np.testing.assert_allclose(found.xywh, expected, rtol=1e-6)
            assert found.track_id.tolist() == [p.track_id for p in label.persons]
            assert found.image_id == i + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no box"),
        ("1,2,3\n", "line 1 is '1,2,3'"),
        ("1,1,0,0,9,9,1\n0,1,0,0,9,9,1\n", "line 2"),
        ("1,1,0,0,nan,9,1\n", "line 1"),
        ("[", "not a JSON file"),
        ("[]", "lists no person's box"),
        ("[3]", "box 0: not an object"),
        ('[{"bbox": [1, 2, 3], "image_id": 1}]', "box 0: needs bbox"),
        ('[{"bbox": [1, 2, 3, "a"], "image_id": 1}]', "box 0: needs bbox"),
        ('[{"bbox": [1, 2, 3, 4], "image_id": 0}]', "1 is the first frame"),
        ("{}", "images"),
    ],
)
def test_bad_box_files(tmp_path, text, message):
    path = tmp_path / "boxes"
    path.write_text(text)
    with pytest.raises(BoxFileError, match=message) as error:
        load_box_file(path)
    assert str(path) in str(error.value)
    with pytest.raises(BoxFileError, match="cannot be read"):
        load_box_file(tmp_path / "absent")


def test_boxes_without_area_are_dropped_with_their_rows():
    boxes = Boxes([[0, 0, 0, 5], [1, 1, 2, 2], [0, 0, np.nan, 1]], [1, 2, 3], [4, 5, 6])
    np.testing.assert_array_equal(boxes.xywh, [[1, 1, 2, 2]])
    assert boxes.score.tolist() == [2] and boxes.track_id.tolist() == [5]


def test_letterbox_keeps_the_ratio_and_the_corner():
    image = np.full((100, 50, 3), (10, 20, 30), np.uint8)
    blob, ratio = letterbox(image, (64, 64))
    assert blob.shape == (1, 3, 64, 64) and ratio == 0.64
    np.testing.assert_array_equal(blob[0, :, 0, 0], [30, 20, 10])  # BGR, raw
    np.testing.assert_array_equal(blob[0, :, 63, 40], [114, 114, 114])
    assert blob[0, 0, 10, 31] == 30 and blob[0, 0, 10, 33] == 114


def test_yolox_decoding_of_one_cell():
    grid, stride = np.array([[3, 5], [3, 5]], np.float32), np.array([[8], [8]])
    row = [0.5, 0.25, np.log(4), np.log(8), 0.9, 0.8, 0.1]
    doubled = [row, [*row[:4], 0.5, 0.8, 0.1]]  # the weaker double is suppressed
    found = decode_yolox(np.array(doubled, np.float32), grid, stride, ratio=0.5)
    # Centre (3.5, 5.25) cells of 8 pixels at half scale; size 4 x 8 cells.
    np.testing.assert_allclose(found.xywh, [[56 - 32, 84 - 64, 64, 128]], rtol=1e-6)
    np.testing.assert_allclose(found.score, [0.72], rtol=1e-6)


@needs_real
def test_yolox_finds_the_labelled_people():
    label = json.loads(
        (REAL / "posetrack17/annotations/val/060470979.json").read_text()
    )
    detector = make_detector(str(YOLOX))
    found = missed = 0
    for entry in label["annolist"][::7]:
        name = REAL / "posetrack17" / entry["image"][0]["name"]
        boxes = detector(cv2.imread(str(name))[..., ::-1])
        assert (boxes.xywh[:, :2] > -60).all() and len(boxes.xywh) <= 8
        for person in entry["annorect"]:
            points = person["annopoints"][0]["point"]
            xy = np.array([[p["x"][0], p["y"][0]] for p in points])
            box = [*xy.min(0), *np.ptp(xy, axis=0)]
            best = box_iou_xywh(np.array([box]), boxes.xywh).max(initial=0)
            found, missed = found + (best > 0.4), missed + (best <= 0.4)
    assert found >= 9 and missed <= 3  # four people who cover one another


def test_detectors_that_cannot_be_used(tmp_path):
    with pytest.raises(DetectorError, match="no such file"):
        make_detector(str(tmp_path / "a.onnx"))
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(DetectorError, match="not an ONNX network"):
        make_detector(str(tmp_path / "a.onnx"))
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    for sides, message in (([1, 3, 32], "is not .1, 3, H, W."), (None, "not YOLOX's")):
        shape = sides or [1, 3, 32, 32]
        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        graph = onnx.helper.make_graph(
            [node], "g", [value("x", 1, shape)], [value("y", 1, shape)]
        )
        opset = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
        onnx.save(model, str(tmp_path / "b.onnx"))
        with pytest.raises(DetectorError, match=message):
            YoloxDetector(tmp_path / "b.onnx")


def test_hog_without_opencv_contrib_says_so(monkeypatch):
    monkeypatch.delattr(cv2, "HOGDescriptor", raising=False)
    with pytest.raises(DetectorError, match="opencv-contrib-python-headless"):
        make_detector("hog")


@needs_real
@pytest.mark.skipif(not hasattr(cv2, "HOGDescriptor"), reason="OpenCV without HOG")
def test_hog_finds_standing_people():
    capture = cv2.VideoCapture(str(REAL / "video/gym.mp4"))
    image = capture.read()[1][..., ::-1]
    reference = make_detector(str(YOLOX))(image)
    found = HogDetector()(image)
    iou = box_iou_xywh(reference.xywh, found.xywh)
    assert (iou.max(1, initial=0) > 0.4).sum() >= 2
    assert not len(HogDetector()(image[:50, :50]).xywh)
