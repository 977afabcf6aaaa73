"""Keyframes in video order, and evaluation through them and through other runtimes."""

import numpy as np
import pytest

from data_pipelines.input_pipeline import make_eval_iterator
from data_pipelines.keyframes import KeyframeIterator
from tdpose_jax import evaluate, predictors, setup_run
from tdpose_jax.interop.tdmi_names import flax_model, torch_fields
from tdpose_jax.shapes import decode_sample_ids
from tdpose_jax.shared_windows import WindowSharing
from tdpose_jax.skeleton import POSETRACK
from tests import tiny_config
from tests.models import tiny


@pytest.fixture(scope="module")
def config(pose_built):
    config = tiny_config.get_config()
    config.data.root = str(pose_built)
    config.eval.share_tolerance = 0.0
    return config


@pytest.fixture(scope="module")
def network(config):
    model = flax_model(torch_fields(config))
    return config, model, tiny.init(model, num_frames=3), POSETRACK


@pytest.fixture(scope="module")
def naive(network):
    """Of the default evaluation, by sample id."""
    config = network[0]
    batches = make_eval_iterator(config.data, "val", 8, 0, 1)
    predict = predictors.make_predictor(*network)
    return evaluate.predict_split(predict, batches).gather()


def assert_same_people(found, expected):
    assert found.keys() == expected.keys()
    for sample_id, prediction in found.items():
        np.testing.assert_allclose(
            prediction.keypoints_xy_image,
            expected[sample_id].keypoints_xy_image,
            atol=0.01,
        )
        np.testing.assert_allclose(
            prediction.keypoint_score, expected[sample_id].keypoint_score, atol=1e-5
        )


def test_every_person_once_in_the_order_of_the_video(config):
    expected = set()
    for batch in make_eval_iterator(config.data, "val", 8, 0, 1):
        expected |= set(decode_sample_ids(batch.sample_id[batch.example_is_real]))
    found = []
    for process in range(2):
        keyframes = KeyframeIterator(config.data, "val", process, 2)
        mine = list(keyframes)
        assert len(mine) == len(keyframes) > 0
        ids = [i for keyframe in mine for i in keyframe.sample_ids]
        assert len(ids) <= keyframes.max_persons
        assert keyframes.num_examples == len(expected)
        found += ids
        places = [(k.sequence, k.frame_numbers[1]) for k in mine]
        assert places == sorted(places)
    assert len(found) == len(set(found)) and set(found) == expected


def test_same_crops_as_the_default_evaluation(config):
    """One level apart at most: parts of a JPEG against the whole."""
    clips = {}
    for batch in make_eval_iterator(config.data, "val", 8, 0, 1):
        ids = decode_sample_ids(batch.sample_id)
        clips |= {
            i: (batch.frames[r], batch.crop_to_image[r]) for r, i in enumerate(ids)
        }
    for keyframe in KeyframeIterator(config.data, "val", 0, 1):
        sharing = WindowSharing(
            list, tuple(config.data.crop_size_hw), config.data.box_enlarge, 0.0, 1
        )
        windows = sharing.add(
            keyframe.frame_numbers, keyframe.images_rgb, keyframe.boxes_xywh
        )
        for sample_id, window in zip(keyframe.sample_ids, windows, strict=True):
            frames, affine = clips[sample_id]
            np.testing.assert_allclose(window.crop_to_image, affine, rtol=1e-6)
            for shared, own in zip(window.frames, frames, strict=True):
                crop = shared.features.astype(int)  # `list` encodes a crop as itself
                assert np.abs(crop - own).max() <= 1


def test_shared_windows_of_standing_people_score_as_naive_ones(network, naive):
    """Boxes of the small data set stand still: nothing may change."""
    keyframes = KeyframeIterator(network[0].data, "val", 0, 1)
    done = []
    config, model, variables, skeleton = network
    backend = predictors.configured_backend(config, model, variables)
    collector = predictors.predict_keyframes(
        config, backend, skeleton, keyframes, done.append
    )
    assert_same_people(collector.gather(), naive)
    assert done == list(range(1, len(keyframes) + 1))


def test_evaluation_through_another_runtime(network, naive):
    for package in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    config = network[0].copy_and_resolve_references()
    config.eval.backend = "onnxruntime"
    batches = make_eval_iterator(config.data, "val", 8, 0, 1)
    predict = predictors.make_predictor(config, *network[1:])
    assert_same_people(evaluate.predict_split(predict, batches).gather(), naive)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval.backend": "tpu"}, r"eval.backend='tpu'; choose one of \('jax'"),
        ({"model.difference_stages": ()}, "eval.share_tolerance=0.0: a single-frame"),
        ({"data.feature_cache": "x"}, "set eval.backend='jax'"),
    ],
)
def test_what_does_not_go_together(config, fields, message):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(fields)
    with pytest.raises(ValueError, match=message):
        setup_run.check_config(changed)
