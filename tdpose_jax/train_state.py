"""What a training run carries from step to step."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tdpose_jax.losses import AuxiliaryNets
from tdpose_jax.models.tdmi import TDMI


class TrainState(flax.struct.PyTreeNode):
    """All of it is saved in a checkpoint.

    Attributes:
      step: number of updates made.
      params: trained parameters of the model.
      frozen_params: parameters no gradient is computed for (a frozen backbone), with
        the same top-level names; `all_params` joins the two.
      batch_stats: BatchNorm statistics.
      auxiliary_params: q of vCLUB and the auxiliary heads; {} without them.
    """

    step: jax.Array
    params: Any
    frozen_params: Any
    batch_stats: Any
    auxiliary_params: Any
    opt_state: Any
    auxiliary_opt_state: Any

    @property
    def all_params(self) -> dict:
        """Trained and frozen parameters together, as the model takes them."""
        return {**self.params, **self.frozen_params}

    @property
    def variables(self) -> dict:
        """What `model.apply` takes: parameters and BatchNorm statistics."""
        return {"params": self.all_params, "batch_stats": self.batch_stats}


def dummy_intermediates(model: TDMI) -> dict:
    """Arrays of the right channel counts, to initialise `AuxiliaryNets` from."""
    channels = model.channels
    keyframe = jax.eval_shape(
        lambda: model.backbone.init_with_output(
            jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False
        )[0][0][3]
    ).shape[-1]
    sizes = {
        "motion": channels,
        "motion_useful": channels,
        "aggregated": channels,
        "keyframe_feature": keyframe,
    }
    maps = {name: jnp.zeros((1, 1, 1, size)) for name, size in sizes.items()}
    return {**maps, "pooled_useful": jnp.zeros((1, channels))}


def init_state(
    model: TDMI,
    auxiliary: AuxiliaryNets | None,
    optimizer: optax.GradientTransformation,
    auxiliary_optimizer: optax.GradientTransformation,
    num_frames: int,
    seed: int,
    backbone_variables: dict | None = None,
) -> TrainState:
    """Initial parameters and optimiser state, on the host.

    Args:
      backbone_variables: {"params", "batch_stats"} of a pretrained backbone.

    Raises:
      ValueError: naming the first tensor of `backbone_variables` that does not fit.
    """
    key, auxiliary_key = jax.random.split(jax.random.key(seed))
    # Sides do not matter to the parameters; the smallest crop makes the trace short.
    clip = jax.ShapeDtypeStruct((1, num_frames, 64, 64, 3), jnp.float32)
    variables = model.lazy_init(key, clip)
    params = dict(variables["params"])
    batch_stats = dict(variables["batch_stats"]) if "batch_stats" in variables else {}
    del variables
    if backbone_variables is not None:
        params["backbone"] = fit_tree(
            params["backbone"], backbone_variables["params"], "backbone"
        )
        if "backbone" in batch_stats:
            batch_stats["backbone"] = fit_tree(
                batch_stats["backbone"], backbone_variables["batch_stats"], "backbone"
            )
    frozen = {"backbone": params.pop("backbone")} if model.freeze_backbone else {}
    auxiliary_params = {}
    if auxiliary is not None:
        # Lazily, too: run one by one, its operations take a second to compile.
        shapes = jax.eval_shape(lambda: dummy_intermediates(model))
        auxiliary_params = auxiliary.lazy_init(auxiliary_key, shapes)["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen_params=frozen,
        batch_stats=batch_stats,
        auxiliary_params=auxiliary_params,
        opt_state=jax.jit(optimizer.init)(params),
        auxiliary_opt_state=jax.jit(auxiliary_optimizer.init)(auxiliary_params),
    )


def fit_tree(target: Any, source: Any, where: str) -> Any:
    """`source` with `target`'s structure and shapes checked leaf by leaf.

    Raises:
      ValueError: naming the first missing, left-over or wrongly shaped tensor.
    """
    target_flat = flax.traverse_util.flatten_dict(target, sep="/")
    source_flat = flax.traverse_util.flatten_dict(source, sep="/")
    for name, value in target_flat.items():
        if name not in source_flat:
            raise ValueError(
                f"{where}: tensor {name} is missing; these weights belong to another "
                f"architecture (they have {len(source_flat)} tensors, "
                f"{len(target_flat)} are needed)"
            )
        if np.shape(source_flat[name]) != np.shape(value):
            raise ValueError(
                f"{where}: tensor {name} has shape {np.shape(source_flat[name])}, the "
                f"model needs {np.shape(value)}; check model.hrnet and model.backbone"
            )
    extra = sorted(set(source_flat) - set(target_flat))
    if extra:
        raise ValueError(
            f"{where}: {len(extra)} tensors have no place in the model, the first is "
            f"{extra[0]}; these weights belong to another architecture"
        )
    cast = {k: jnp.asarray(source_flat[k], v.dtype) for k, v in target_flat.items()}
    return flax.traverse_util.unflatten_dict(cast, sep="/")
