"""TinyPose's real weights: equal to its layer graph, right on real people, strict."""

import json
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax.geometry import (
    apply_affine,
    box_to_window,
    image_to_crop_affine,
    invert_affine,
    keypoints_box_xywh,
)
from tdpose_jax.heatmaps import decode_heatmaps, heatmap_to_crop
from tdpose_jax.interop.tinypose import WeightsError, load_tinypose, tinypose_layers
from tdpose_jax.models.lite_hrnet import Depthwise, LiteHRNet
from tdpose_jax.shapes import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB
from tdpose_jax.skeleton import COCO
from tests.interop.ncnn_graph import run_graph
from tests.real_data import REAL, needs_real

WEIGHTS = REAL / "weights" / "tinypose_256x192.npz"
CROP_HW = (256, 192)
BATCH = 21  # one batch size, so that the network is compiled once
# The labelled sequence uses MPII's joint ids.
MPII_TO_COCO = {
    0: "right_ankle",
    1: "right_knee",
    2: "right_hip",
    3: "left_hip",
    4: "left_knee",
    5: "left_ankle",
    10: "right_wrist",
    11: "right_elbow",
    12: "right_shoulder",
    13: "left_shoulder",
    14: "left_elbow",
    15: "left_wrist",
}


@pytest.fixture(scope="module")
def run():
    """[BATCH, 256, 192, 3] normalised crops -> stage features and heatmaps."""
    variables = load_tinypose(WEIGHTS)
    return jax.jit(lambda x: LiteHRNet().apply(variables, x))


def labelled_people():
    """(image RGB, {COCO index: xy}, box around all points, head size) of each person."""
    root = REAL / "posetrack17"
    label = json.loads((root / "annotations/val/060470979.json").read_text())
    for frame in label["annolist"]:
        image = cv2.imread(str(root / frame["image"][0]["name"]))[..., ::-1]
        for person in frame["annorect"]:
            points = {
                p["id"][0]: (p["x"][0], p["y"][0])
                for p in person["annopoints"][0]["point"]
            }
            xy = np.array(list(points.values()))
            box = keypoints_box_xywh(xy, np.ones(len(xy)), enlarge=1.0)
            corners = [person[k][0] for k in ("x1", "y1", "x2", "y2")]
            # PCKh's head size: 0.6 of the head rectangle's diagonal.
            head = 0.6 * np.hypot(corners[2] - corners[0], corners[3] - corners[1])
            joints = {
                COCO.index(joint): points[i]
                for i, joint in MPII_TO_COCO.items()
                if i in points
            }
            yield image, joints, box, head


@pytest.fixture(scope="module")
def real_crops():
    """Normalised crops [N, 256, 192, 3], affines to the image, labels, head sizes."""
    crops, to_image, labels, heads = [], [], [], []
    for image, joints, box, head in labelled_people():
        window = box_to_window(box, CROP_HW, box_enlarge=1.25)
        affine = image_to_crop_affine(window, CROP_HW)
        crop = cv2.warpAffine(image, affine, CROP_HW[::-1], flags=cv2.INTER_LINEAR)
        crops.append((crop / np.float32(255) - IMAGENET_MEAN_RGB) / IMAGENET_STD_RGB)
        to_image.append(invert_affine(affine))
        labels.append(joints)
        heads.append(head)
    return np.stack(crops).astype(np.float32), np.stack(to_image), labels, heads


@needs_real
def test_forward_equals_the_layer_graph(run, real_crops):
    pytest.importorskip("torch")
    graph = json.loads(WEIGHTS.with_name("tinypose_256x192.graph.json").read_text())
    noise = np.random.default_rng(0).normal(size=(BATCH, *CROP_HW, 3))
    x = noise.astype(np.float32)
    x[0] = real_crops[0][0]
    blobs = run_graph(graph, np.load(WEIGHTS), x[:2].transpose(0, 3, 1, 2).copy())
    features, heatmaps = run(x)
    names = ["reshape2_1.tmp_0", "relu_24.tmp_0", "relu_87.tmp_0", "relu_143.tmp_0"]
    for name, ours in zip(
        [*names, graph[-1]["outputs"][0]], [*features, heatmaps], strict=True
    ):
        theirs = blobs[name].transpose(0, 2, 3, 1)
        assert ours.shape[1:] == theirs.shape[1:], name
        np.testing.assert_allclose(ours[:2], theirs, rtol=0, atol=1e-4, err_msg=name)
    assert heatmaps[0].max() > 0.5  # the person is found, so the maps are not noise


@needs_real
def test_real_people_from_true_boxes(run, real_crops):
    crops, to_image, labels, heads = real_crops
    assert len(crops) == 84
    hits = []
    for start in range(0, len(crops), BATCH):
        part = slice(start, start + BATCH)
        heatmaps = run(crops[part])[1]
        xy = heatmap_to_crop(decode_heatmaps(heatmaps, "quarter")[0])
        xy = apply_affine(to_image[part], np.asarray(xy))
        for points, joints, head in zip(xy, labels[part], heads[part], strict=True):
            for index, truth in joints.items():
                hits.append(np.hypot(*(points[index] - truth)) <= 0.5 * head)
    pckh = 100 * np.mean(hits)
    print(f"PCKh@0.5 over {len(hits)} limb joints: {pckh:.2f}")
    assert len(hits) == 84 * 12
    assert pckh >= 96


@needs_real
def test_parameters_fill_the_model_exactly():
    variables = load_tinypose(WEIGHTS)
    wanted = jax.eval_shape(
        LiteHRNet().init, jax.random.key(0), jnp.zeros((1, *CROP_HW, 3))
    )
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, wanted)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    assert sum(x.size for x in jax.tree.leaves(variables)) == 1_300_177


@pytest.fixture
def fake_file(tmp_path):
    """Writes a file of the right names and shapes, after `change(arrays)`."""

    def write(change=lambda arrays: None):
        arrays = {}
        for i, layer in enumerate(tinypose_layers()):
            arrays[f"Conv_{i}.weight"] = np.zeros(layer.oihw, np.float16)
            arrays[f"Conv_{i}.bias"] = np.zeros(layer.outputs, np.float16)
        change(arrays)
        np.savez(tmp_path / "net.npz", **arrays)
        return tmp_path / "net.npz"

    return write


def test_every_tensor_is_used_once(fake_file):
    load_tinypose(fake_file())
    paths = [layer.path for layer in tinypose_layers()]
    assert len(paths) == len(set(paths)) == 269
    with pytest.raises(WeightsError, match="'Conv_7.bias' for .*pointwise is missing"):
        load_tinypose(fake_file(lambda a: a.pop("Conv_7.bias")))
    with pytest.raises(WeightsError, match="1 tensors have no place .*'Conv_269.bias'"):
        load_tinypose(fake_file(lambda a: a.update({"Conv_269.bias": np.zeros(1)})))
    wide = {"Conv_0.weight": np.zeros((48, 3, 3, 3))}
    message = r"'Conv_0.weight' has shape \(48, 3, 3, 3\), but stem/conv needs \(32,"
    with pytest.raises(WeightsError, match=message):
        load_tinypose(fake_file(lambda a: a.update(wide)))


def test_broken_files(fake_file, tmp_path):
    whole = fake_file().read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("cut.npz", "absent.npz"):
        with pytest.raises(WeightsError, match=f"{name}: not a readable .npz file"):
            load_tinypose(tmp_path / name)


@needs_real
def test_the_graph_beside_the_file_is_checked(tmp_path):
    shutil.copy(WEIGHTS, tmp_path / "net.npz")
    graph = json.loads(WEIGHTS.with_name("tinypose_256x192.graph.json").read_text())
    strided = next(layer for layer in graph if layer["name"] == "Conv_8")
    strided["attrs"].pop("3")  # stride 2 becomes 1: no shape reveals it
    (tmp_path / "net.graph.json").write_text(json.dumps(graph))
    with pytest.raises(WeightsError, match="is not Conv_8 of TinyPose, transition_br"):
        load_tinypose(tmp_path / "net.npz")


def test_odd_crop_sizes_are_refused():
    with pytest.raises(ValueError, match="multiples of 32, got height 250, width 192"):
        jax.eval_shape(LiteHRNet().init, jax.random.key(0), jnp.zeros((1, 250, 192, 3)))


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_equals_xla_grouped_convolution(stride):
    rng = np.random.default_rng(stride)
    x = rng.normal(size=(2, 7, 10, 6)).astype(np.float32)
    params = {
        "kernel": rng.normal(size=(3, 3, 1, 6)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
    }
    grouped = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    ours = Depthwise(stride).apply({"params": params}, x)
    np.testing.assert_allclose(ours, grouped + params["bias"], atol=1e-5)
