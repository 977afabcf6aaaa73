"""`tdmi_torch.py` computes what the Flax model computes, for every row of the config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax.interop.export_torch import QUICK_COMPILE
from tdpose_jax.interop.hrnet_names import to_torch_layout, torch_name
from tdpose_jax.interop.weights_file import flatten
from tdpose_jax.models.hrnet import HRNet
from tdpose_jax.models.lite_hrnet import LiteHRNet
from tdpose_jax.models.tdmi import TDMI

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

HRNET = dict(
    width=4,
    stem_width=4,
    stage1_blocks=1,
    stage_modules=(1, 1, 1),
    branch_blocks=1,
    num_keypoints=3,
)
BASE = dict(
    num_keypoints=5, channels=8, offset_groups=2, difference_blocks=(2, 1, 1, 1)
)
ROWS = {
    "full": {},
    "backbone_only": {"backbone_only": True},
    "single_frame": {"difference_stages": ()},
    "plain_convolution_no_cascade": {"deformable": False, "cascade": False},
    "last_stage_spatio_temporal": {
        "difference_stages": (4,),
        "disentangle": False,
        "spatio_temporal": True,
    },
}


def random_like(shapes, seed):
    """Values as after training: gains near 1, positive variances, lively offsets."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        size = np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 8))
        return (size * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def torch_state(variables, model):
    """Flax variables under PyTorch's names; 1x1 matrices in the shape of the module."""
    state = model.state_dict()
    filled = {k: v for k, v in state.items() if k.endswith("num_batches_tracked")}
    for name, value in flatten(variables).items():
        value = to_torch_layout(value.T if value.ndim == 2 else value)
        name = torch_name(name)
        filled[name] = torch.from_numpy(value.copy()).reshape(state[name].shape)
    return filled


def both(flax_model, torch_model, frames, seed=0):
    from tdpose_jax.interop.torch_template import tdmi_torch

    shapes = jax.eval_shape(flax_model.init, jax.random.key(0), jnp.asarray(frames))
    variables = random_like(shapes, seed)
    run = jax.jit(flax_model.apply, compiler_options=QUICK_COMPILE)
    ours = run(variables, frames)
    net = getattr(tdmi_torch, torch_model[0])(**torch_model[1])
    net.load_state_dict(torch_state(variables, net), strict=True)
    net = net.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        theirs = net(torch.from_numpy(np.moveaxis(frames, -1, -3).copy()))
    return ours, theirs


def assert_close(ours, theirs):
    theirs = np.moveaxis(theirs.numpy(), -3, -1)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("row", ROWS)
def test_tdmi(row):
    fields = {**BASE, **ROWS[row]}
    frames = np.random.default_rng(1).normal(size=(2, 3, 64, 96, 3)).astype(np.float32)
    (ours, _), theirs = both(
        TDMI(backbone=HRNet(**HRNET), **fields),
        ("TDMI", dict(backbone="hrnet", hrnet=HRNET, window_delta=1, **fields)),
        frames,
    )
    assert_close(ours, theirs)


def test_lite_hrnet():
    frames = np.random.default_rng(1).normal(size=(2, 64, 96, 3)).astype(np.float32)
    (features, heatmaps), (their_features, their_heatmaps) = both(
        LiteHRNet(width=8, stem_width=8, stage_modules=(1, 1, 1)),
        ("LiteHRNet", dict(width=8, stem_width=8, stage_modules=(1, 1, 1))),
        frames,
    )
    for ours, theirs in zip(features, their_features, strict=True):
        assert_close(ours, theirs)
    assert_close(heatmaps, their_heatmaps)


def test_deformable_convolution_far_outside_and_on_the_border():
    """Samples beyond the map are zero and fade in within one pixel of it."""
    from tdpose_jax.interop.torch_template import tdmi_torch
    from tdpose_jax.models.deform_conv import modulated_deform_conv

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 7, 8)).astype(np.float32)
    offsets = (6 * rng.normal(size=(2, 9, 7, 4, 9, 2))).astype(np.float32)
    modulation = rng.uniform(size=(2, 9, 7, 4, 9)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
    convolve = jax.jit(modulated_deform_conv, static_argnames="dilation")
    ours = convolve(x, offsets, modulation, kernel, dilation=3)

    def nchw(array):
        return torch.from_numpy(np.moveaxis(array.reshape(2, 9, 7, -1), -1, 1).copy())

    weight = torch.from_numpy(to_torch_layout(kernel))
    theirs = tdmi_torch.deform_conv2d(
        nchw(x), nchw(offsets), nchw(modulation), weight, 3
    )
    assert_close(ours, theirs)
