"""The runtimes of a network agree, whole and in parts, and say what they lack."""

import importlib.util

import jax
import numpy as np
import pytest

from tdpose_jax import backends
from tdpose_jax.interop.tdmi_names import flax_model, torch_fields
from tests import tiny_config
from tests.models import tiny

SIZE_HW = (64, 64)


@pytest.fixture(scope="module")
def network():
    config = tiny_config.get_config()
    fields = torch_fields(config)
    model = flax_model(fields)
    return model, tiny.init(model, num_frames=3), fields


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).integers(0, 256, (2, 3, *SIZE_HW, 3), np.uint8)


@pytest.fixture(scope="module")
def by_jax(network, clips):
    model, variables, fields = network
    backend = backends.make_backend("jax", model, variables, fields, SIZE_HW)
    return backend, backend(clips)


def largest_difference(maps, others):
    return np.abs(maps - others).max() / np.abs(others).max()


def in_parts(backend, clips):
    """Every frame encoded alone in a batch of its own order, then decoded."""
    b, t = clips.shape[:2]
    frames = backend.encode_frames(clips.reshape(b * t, *clips.shape[2:]))
    return backend.decode_windows([frames[i * t : (i + 1) * t] for i in range(b)])


def test_jax_in_parts(by_jax, clips):
    backend, whole = by_jax
    parts = in_parts(backend, clips)
    assert set(parts) == set(whole) == {"heatmaps", *backends.MOTION}
    for name, values in parts.items():
        assert values.shape == whole[name].shape
        assert largest_difference(values, whole[name]) < 1e-5


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_exported_runtimes_agree_with_jax(network, clips, by_jax, name):
    for package in ("torch", "onnx", name):
        pytest.importorskip(package)
    backend = backends.make_backend(name, *network, SIZE_HW)
    expected = by_jax[1]["heatmaps"]
    for maps in (backend(clips)["heatmaps"], in_parts(backend, clips)["heatmaps"]):
        assert maps.shape == expected.shape and maps.dtype == np.float32
        assert largest_difference(maps, expected) < 2e-5
    # Another batch, and results that later calls do not write into.
    one = backend(clips[1:])["heatmaps"]
    backend(clips[:1])
    assert largest_difference(one, expected[1:]) < 2e-5


def test_single_frame_networks_run_whole(clips):
    pytest.importorskip("openvino")
    config = tiny_config.get_config()
    config.model.backbone_only = True
    config.data.window_delta = 0
    fields = torch_fields(config)
    model = flax_model(fields)
    variables = tiny.init(model, num_frames=1)
    one = clips[:, :1]
    expected = jax.jit(model.apply)(variables, backends.normalize_frames(one))[0]
    backend = backends.make_backend("openvino", model, variables, fields, SIZE_HW)
    assert largest_difference(backend(one)["heatmaps"], expected) < 2e-5


def test_unknown_names(network):
    with pytest.raises(backends.BackendError, match=r"eval.backend='tpu'; choose one"):
        backends.make_backend("tpu", *network, SIZE_HW)


@pytest.mark.parametrize("missing", ["openvino", "torch"])
def test_a_missing_package_is_named(network, monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == missing else find(name),
    )
    with pytest.raises(backends.BackendError, match=f"the package {missing}, which is"):
        backends.make_backend("openvino", *network, SIZE_HW)
