"""The jaxtyping annotations are checked while tests run (`addopts` in pyproject.toml)."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from tdpose_jax.losses import heatmap_loss
from tdpose_jax.models.temporal_difference import adjacent_differences


def test_a_weight_of_the_wrong_shape_is_refused():
    """(B, 1) broadcasts against (B, K): without the check this runs silently."""
    maps = jnp.zeros((2, 4, 4, 3))
    heatmap_loss(maps, maps, jnp.ones((2, 3)))
    with pytest.raises(TypeCheckError, match="keypoint_weight"):
        heatmap_loss(maps, maps, jnp.ones((2, 1)))


def test_a_missing_time_axis_is_refused():
    with pytest.raises(TypeCheckError, match="features"):
        adjacent_differences(jnp.zeros((2, 4, 4, 3)))
