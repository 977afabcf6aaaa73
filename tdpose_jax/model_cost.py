"""How large a model is and what one keyframe costs; nothing is computed."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from tdpose_jax import setup_run


def model_cost(config: ml_collections.ConfigDict) -> tuple[float, float]:
    """(millions of trained parameters, GFLOPs of one keyframe's heatmaps).

    Parameters are those of the model that get a gradient: neither a frozen backbone nor
    the auxiliary networks of the loss. FLOPs are XLA's count, before optimisation, of a
    batch of one clip, every frame through the backbone; a multiplication and an
    addition count as two, where papers on HRNet count one.
    """
    model = setup_run.make_parts(config, axis_name=None).model
    h, w = config.data.crop_size_hw
    clip = jax.ShapeDtypeStruct(
        (1, 2 * config.data.window_delta + 1, h, w, 3), jnp.float32
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), clip)
    trained = dict(variables["params"])
    if config.model.freeze_backbone:
        del trained["backbone"]
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(trained))
    forward = jax.jit(lambda variables, clip: model.apply(variables, clip)[0])
    flops = forward.lower(variables, clip).cost_analysis()["flops"]
    return float(count) / 1e6, float(flops) / 1e9
