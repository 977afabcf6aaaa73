"""Training in bfloat16, the default on accelerators: dozens of steps of every term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax import setup_run, steps
from tdpose_jax.interop.export_torch import QUICK_COMPILE
from tdpose_jax.train_state import init_state
from tests import tiny_config
from tests.models.tiny import PatchBackbone
from tests.test_configs import batch_shapes

STEPS = 30


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=("head", "whole")
)
def test_every_term_stays_finite_and_the_loss_falls(whole):
    """`head`: what is trained on a frozen backbone; `whole`: HRNet trains as well."""
    config = tiny_config.get_config()
    config.model.freeze_backbone = not whole
    config.model.dtype = "bfloat16"
    if not whole:
        config.model.difference_stages = (4,)
    config.loss.mi_weight = 1e-3  # enough for every term to matter beside 0.01
    config.train.num_steps = STEPS
    config.optim.learning_rate = 2e-2
    parts = setup_run.make_parts(config, axis_name=None)
    optimizers = parts.optimizer, parts.auxiliary_optimizer
    model = parts.model
    if not whole:
        model = model.clone(backbone=PatchBackbone(dtype=jnp.bfloat16))
    state = init_state(model, parts.auxiliary, *optimizers, 3, 0)
    assert model.dtype == jnp.bfloat16
    # Parameters, statistics and loss stay float32.
    float_leaves = jax.tree.leaves((state.params, state.batch_stats))
    assert {leaf.dtype for leaf in float_leaves} == {jnp.dtype("float32")}

    # Every joint is a white square on black.
    arrays = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), batch_shapes(config, 4))
    corners = np.random.default_rng(0).integers(8, 48, (4, 2))
    frames = np.zeros_like(arrays.frames)
    for i, (x, y) in enumerate(corners):
        frames[i, :, y : y + 8, x : x + 8] = 255
    xy = np.repeat(corners[:, None] + 3.5, 17, axis=1).astype(np.float32)
    batch = arrays.replace(frames=frames, keypoints_xy_crop=xy)
    step = jax.jit(
        steps.make_train_step(model, parts.auxiliary, *optimizers, config.loss, None),
        donate_argnums=0,
        compiler_options=QUICK_COMPILE,
    )
    history = []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        history.append({name: float(value) for name, value in metrics.items()})
    for name in history[0]:
        assert np.isfinite([m[name] for m in history]).all(), name
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert {"mi_useful_noisy", "mi_lost_motion", "q_nll"} <= history[0].keys()
    assert metrics["heatmap"].dtype == jnp.float32
    for name in ("heatmap", "loss_model"):
        first, last = (
            np.mean([m[name] for m in part]) for part in (history[:3], history[-3:])
        )
        assert last < 0.7 * first, (name, first, last)
