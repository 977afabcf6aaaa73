"""HRNet: published sizes, official names, shapes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax.models.blocks import BasicBlock
from tdpose_jax.models.hrnet import HRNet, upsample_nearest
from tests.models.tiny import TINY_HRNET


def parameters(model, size_hw=(64, 64)):
    x = jax.ShapeDtypeStruct((1, *size_hw, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x)["params"]


@pytest.mark.parametrize("width,millions", [(48, 63.6), (32, 28.5)])
def test_published_parameter_counts(width, millions):
    """Sun et al., CVPR 2019, table 1."""
    leaves = jax.tree.leaves(parameters(HRNet(width=width)))
    count = sum(np.prod(leaf.shape) for leaf in leaves)
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_stage_features_have_stride_four():
    model = HRNet(**TINY_HRNET)
    x = jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    features, maps = jax.eval_shape(model.apply, variables, x)
    assert [f.shape for f in features] == [(2, 24, 16, c) for c in (16, 4, 4, 4)]
    assert maps.shape == (2, 24, 16, 17)


def test_no_head_without_keypoints():
    assert "final_layer" not in parameters(HRNet(**TINY_HRNET, num_keypoints=0))


def test_rematerialisation_changes_nothing():
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    plain, remat = HRNet(**TINY_HRNET), HRNet(**TINY_HRNET, remat=True)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    variables = plain.lazy_init(jax.random.key(0), shape)
    a, b = jax.jit(lambda v: (plain.apply(v, x)[1], remat.apply(v, x)[1]))(variables)
    np.testing.assert_array_equal(a, b)


def test_rematerialisation_saves_memory_for_the_backward_pass():
    """What the forward pass leaves behind; gradients of a block are the same."""

    def saved_bytes(remat):
        model = HRNet(**TINY_HRNET, remat=remat)
        shape = jax.ShapeDtypeStruct((16, 64, 64, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), shape)

        def forward(variables):
            x = jnp.zeros(shape.shape)
            (_, maps), _ = model.apply(variables, x, True, mutable=["batch_stats"])
            return maps

        saved = jax.eval_shape(lambda v: jax.vjp(forward, v)[1], variables)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))

    assert saved_bytes(True) < 0.4 * saved_bytes(False)

    x = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)
    plain, remat = BasicBlock(4), nn.remat(BasicBlock, static_argnums=(2,))(4)
    variables = plain.init(jax.random.key(0), x, False)
    gradients = [
        jax.grad(lambda v, m=m: jnp.square(m.apply(v, x, False)).sum())(variables)
        for m in (plain, remat)
    ]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


def test_upsampling_repeats_pixels():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert upsample_nearest(x, 2)[0, :, :, 0].tolist() == expected
