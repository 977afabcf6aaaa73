"""Gradient norms of single terms, on a model whose gradients one can do in one's head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tdpose_jax import heatmaps as hm
from tdpose_jax import losses, steps
from tdpose_jax.models.tdmi import TDMI
from tdpose_jax.train_state import TrainState
from tests.test_configs import batch_shapes, get_config

B, H, W, K, C = 6, 4, 4, 17, 3


class ToyModel(TDMI):
    """In TDMI's place: one parameter for each term that reaches the model."""

    def apply(self, variables, frames, **_):
        params = variables["params"]
        rng = np.random.default_rng(0)
        names = ("motion", "motion_useful", "motion_noisy", "keyframe_feature")
        out = {
            name: jnp.asarray(rng.standard_normal((B, H, W, C)), jnp.float32)
            for name in (*names, "aggregated")
        }
        pattern = jnp.asarray(rng.standard_normal((B, H, W, C)), jnp.float32)
        out["motion_noisy"] += params["mixing"] * out["motion_useful"]
        out["aggregated"] += params["detail"] * pattern
        maps = params["level"] * jnp.ones((B, H, W, K))
        return (maps, out), {"batch_stats": {}}


@pytest.fixture(scope="module")
def setting():
    config = get_config("demo", "tdmi").unlock()
    config.data.crop_size_hw = (4 * H, 4 * W)
    rng = np.random.default_rng(1)

    def array(spec):
        if spec.dtype == jnp.float32:
            return jnp.asarray(rng.uniform(0, 4 * H, spec.shape), jnp.float32)
        return jnp.zeros(spec.shape, spec.dtype)

    batch = jax.tree.map(array, batch_shapes(config, B))
    batch = batch.replace(keypoint_weight=jnp.ones((B, K)))
    auxiliary = losses.AuxiliaryNets(num_keypoints=K, channels=C, mi_hidden=4)
    maps = {
        name: jnp.zeros((1, 1, 1, C))
        for name in ("motion", "motion_useful", "keyframe_feature", "aggregated")
    }
    auxiliary_params = auxiliary.init(
        jax.random.key(0), {**maps, "pooled_useful": jnp.zeros((1, C))}
    )["params"]
    auxiliary_params = jax.tree.map(
        lambda p: p + 0.3 * rng.standard_normal(p.shape, np.float32), auxiliary_params
    )
    # A q that knows that noisy motion repeats useful motion: the estimate is positive.
    q = jax.tree.map(jnp.zeros_like, auxiliary_params["q"])
    q["mean_linear"]["kernel"] = 0.5 * jnp.eye(C)
    auxiliary_params["q"] = q
    optimizer = optax.sgd(1.0)
    params = {name: jnp.float32(0.5) for name in ("level", "mixing", "detail")}
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        frozen_params={},
        batch_stats={},
        auxiliary_params=auxiliary_params,
        opt_state=optimizer.init(params),
        auxiliary_opt_state=optimizer.init(auxiliary_params),
    )
    return config, auxiliary, optimizer, state, batch


def norms(setting, **loss_fields):
    config, auxiliary, _, state, batch = setting
    loss = config.loss.copy_and_resolve_references()
    loss.update(loss_fields)
    step = steps.make_gradient_norms(
        ToyModel(backbone=nn.Dense(1)), auxiliary, loss, None
    )
    return {k: float(v) for k, v in jax.jit(step)(state, batch).items()}


@pytest.fixture(scope="module")
def found(setting):
    return norms(setting)


def test_every_term_has_its_norm(found):
    assert set(found) == {f"gradient_norm_{name}" for name in losses.TERMS}
    positive = {name for name, value in found.items() if value > 0}
    # The toy's motion does not depend on a parameter.
    assert set(found) - positive == {"gradient_norm_mi_lost_motion"}


def test_the_heatmap_term_by_hand(setting, found):
    """d/d level of mean((level - target)^2) is 2 (level - mean target)."""
    config, _, _, state, batch = setting
    targets, weight = hm.encode_heatmaps(
        batch.keypoints_xy_crop,
        batch.keypoint_weight,
        (H, W),
        config.loss.heatmap_sigma,
        config.loss.heatmap_encoder,
    )
    error = (state.params["level"] - targets) * weight[:, None, None]
    expected = abs(2 * float(error.mean()))
    assert found["gradient_norm_heatmap"] == pytest.approx(expected, rel=1e-5)


def test_norms_are_before_the_weights_and_the_step_applies_them(setting, found):
    """The step's gradient of `mixing` is alpha times the MI term's norm, and so on."""
    config, auxiliary, optimizer, state, batch = setting
    config = config.copy_and_resolve_references()
    config.loss.mi_weight, config.loss.sufficiency_weight = 0.5, 3.0
    step = steps.make_train_step(
        ToyModel(backbone=nn.Dense(1)),
        auxiliary,
        optimizer,
        optimizer,
        config.loss,
        None,
    )
    new_state, metrics = jax.jit(step)(state, batch)
    moved = jax.tree.map(lambda a, b: abs(float(a - b)), state.params, new_state.params)
    assert float(metrics["mi_useful_noisy"]) > 0
    assert moved["level"] == pytest.approx(found["gradient_norm_heatmap"], rel=1e-4)
    assert moved["mixing"] == pytest.approx(
        0.5 * found["gradient_norm_mi_useful_noisy"], rel=1e-4
    )
    assert moved["detail"] == pytest.approx(
        1.5 * found["gradient_norm_mi_lost_keyframe"], rel=1e-4
    )
    auxiliary_norm = np.hypot(
        found["gradient_norm_q_nll"], found["gradient_norm_auxiliary_heads"]
    )
    assert auxiliary_norm == pytest.approx(float(metrics["gradient_norm_auxiliary"]))


def test_an_estimate_below_zero_pulls_at_nothing(setting, monkeypatch):
    def below_zero(mean, log_variance, z, axis_name=None):
        return -100.0 - jnp.square(z).sum()

    monkeypatch.setattr(losses.mi, "vclub", below_zero)
    assert norms(setting)["gradient_norm_mi_useful_noisy"] == 0


def test_a_row_without_mi_has_the_heatmap_term_alone(setting):
    assert set(norms(setting, mi_estimator="none")) == {"gradient_norm_heatmap"}
