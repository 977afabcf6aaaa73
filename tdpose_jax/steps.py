"""The two pure step functions. `parallel.py` maps them over devices."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tdpose_jax import heatmaps as hm
from tdpose_jax import losses
from tdpose_jax.models.tdmi import TDMI
from tdpose_jax.shapes import (
    HEATMAP_STRIDE,
    IMAGENET_MEAN_RGB,
    IMAGENET_STD_RGB,
    PoseBatch,
)
from tdpose_jax.train_state import TrainState


def normalize_frames(frames):
    """uint8 RGB [..., 3] -> float32, ImageNet mean 0 and standard deviation 1."""
    x = frames.astype(jnp.float32) / 255.0
    return (x - IMAGENET_MEAN_RGB) / IMAGENET_STD_RGB


def forward(model: TDMI, variables: dict, batch: PoseBatch, **kwargs) -> Any:
    """`model.apply` on a batch's frames, or on stage features it brings along."""
    if batch.stage_features is None:
        return model.apply(variables, normalize_frames(batch.frames), **kwargs)
    features = tuple(f.astype(model.dtype) for f in batch.stage_features)
    return model.apply(variables, features, None, method="decode_window", **kwargs)


def make_objective(
    model: TDMI, auxiliary: losses.AuxiliaryNets | None, loss_config, axis_name
) -> Callable:
    """Builds objective(params, auxiliary_params, state, batch), to be differentiated.

    It returns the loss of `losses.total_loss` and (terms, predicted heatmaps, weights of
    the joints [B, K], updates of the BatchNorm statistics). `state` lends what is not
    differentiated.
    """

    def objective(params, auxiliary_params, state: TrainState, batch: PoseBatch):
        targets, weight = hm.encode_heatmaps(
            batch.keypoints_xy_crop,
            batch.keypoint_weight,
            heatmap_size_hw(batch),
            loss_config.heatmap_sigma,
            loss_config.heatmap_encoder,
        )
        variables = {
            "params": {**params, **state.frozen_params},
            "batch_stats": state.batch_stats,
        }
        (maps, out), updates = forward(
            model, variables, batch, train=True, mutable=["batch_stats"]
        )
        loss, terms = losses.total_loss(
            maps,
            out,
            auxiliary,
            auxiliary_params,
            targets,
            weight,
            mi_estimator=loss_config.mi_estimator,
            mi_weight=loss_config.mi_weight,
            sufficiency_weight=loss_config.sufficiency_weight,
            softmax_temperature=loss_config.softmax_temperature,
            axis_name=axis_name,
        )
        return loss, (terms, maps, weight, updates)

    return objective


def heatmap_size_hw(batch: PoseBatch) -> tuple[int, int]:
    """(height, width) of the heatmaps of a batch's crops."""
    h, w = batch.frames.shape[2:4]
    return h // HEATMAP_STRIDE, w // HEATMAP_STRIDE


def make_train_step(
    model: TDMI,
    auxiliary: losses.AuxiliaryNets | None,
    optimizer: optax.GradientTransformation,
    auxiliary_optimizer: optax.GradientTransformation,
    loss_config,
    axis_name: str | None,
) -> Callable[[TrainState, PoseBatch], tuple[TrainState, dict]]:
    """Builds step(state, batch) -> (state, metrics).

    Metrics are float32 scalars, averaged over devices: the terms of the loss, gradient
    norms, and `pck`, the share of annotated joints within a tenth of the heatmap's
    longer side of their target.
    """
    objective = make_objective(model, auxiliary, loss_config, axis_name)

    def pmean(tree):
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    def psum(tree):
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def train_step(state: TrainState, batch: PoseBatch):
        (_, (terms, maps, weight, updates)), grads = jax.value_and_grad(
            objective, argnums=(0, 1), has_aux=True
        )(state.params, state.auxiliary_params, state, batch)
        grads, auxiliary_grads = pmean(grads)

        steps, opt_state = optimizer.update(grads, state.opt_state, state.params)
        auxiliary_steps, auxiliary_opt_state = auxiliary_optimizer.update(
            auxiliary_grads, state.auxiliary_opt_state, state.auxiliary_params
        )
        predicted_xy, _ = hm.decode_heatmaps(maps)
        hits, annotated = psum(
            losses.accumulated_pck(
                predicted_xy,
                batch.keypoints_xy_crop / HEATMAP_STRIDE,
                weight,
                max(heatmap_size_hw(batch)) / 10,
            )
        )
        metrics = pmean(terms)
        metrics["pck"] = hits / jnp.maximum(annotated, 1)
        metrics["gradient_norm"] = optax.global_norm(grads)
        if jax.tree.leaves(auxiliary_grads):
            metrics["gradient_norm_auxiliary"] = optax.global_norm(auxiliary_grads)
        new_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, steps),
            batch_stats=pmean(updates["batch_stats"]) if updates else {},
            opt_state=opt_state,
            auxiliary_params=optax.apply_updates(
                state.auxiliary_params, auxiliary_steps
            ),
            auxiliary_opt_state=auxiliary_opt_state,
        )
        return new_state, metrics

    return train_step


def make_gradient_norms(
    model: TDMI, auxiliary: losses.AuxiliaryNets | None, loss_config, axis_name
) -> Callable[[TrainState, PoseBatch], dict]:
    """Builds norms(state, batch) -> {"gradient_norm_<term>": float32 scalar}.

    One backward pass per term of `losses.TERMS` that the config has: the global norm
    of its gradient with respect to all that is trained, before its weight. The MI
    estimate counts as it is used, above zero.
    """
    objective = make_objective(model, auxiliary, loss_config, axis_name)

    def norms(state: TrainState, batch: PoseBatch) -> dict:
        def used_terms(params, auxiliary_params):
            _, (terms, *_) = objective(params, auxiliary_params, state, batch)
            used = {name: terms[name] for name in losses.TERMS if name in terms}
            if "mi_useful_noisy" in used:
                used["mi_useful_noisy"] = jnp.maximum(used["mi_useful_noisy"], 0.0)
            return used

        terms, pull_back = jax.vjp(used_terms, state.params, state.auxiliary_params)
        result = {}
        for name in terms:
            grads = pull_back({n: jnp.float32(n == name) for n in terms})
            if axis_name is not None:
                grads = jax.lax.pmean(grads, axis_name)
            result[f"gradient_norm_{name}"] = optax.global_norm(grads)
        return result

    return norms


def locate_joints(maps, crop_to_image, decoder: str) -> dict:
    """Heatmaps [B, h, w, K] -> `keypoints_xy_image` [B, K, 2], `keypoint_score` [B, K].

    Args:
      crop_to_image: [B, 2, 3].
    """
    xy_heatmap, score = hm.decode_heatmaps(maps, decoder)
    xy_crop = hm.heatmap_to_crop(xy_heatmap)
    xy_image = jnp.einsum("bij,bkj->bki", crop_to_image[..., :2], xy_crop)
    return {
        "keypoints_xy_image": xy_image + crop_to_image[:, None, :, 2],
        "keypoint_score": score,
    }


def make_predict_step(
    model: TDMI,
    decoder: str,
    flip_permutation: Sequence[int] | None = None,
    with_intermediates: bool = False,
) -> Callable[[dict, PoseBatch], dict]:
    """Builds step(variables, batch) -> predictions.

    Args:
      flip_permutation: joint permutation of the mirror image; given, predictions are
        averaged with those of the mirrored clip.
      with_intermediates: also return heatmaps and the small intermediates of pictures.

    Predictions: `keypoints_xy_image` [B, K, 2], `keypoint_score` [B, K].
    """

    def predict_step(variables: dict, batch: PoseBatch) -> dict:
        maps, out = forward(model, variables, batch, train=False)
        if flip_permutation is not None:
            frames = batch.frames[..., ::-1, :]
            mirrored_batch = dataclasses.replace(batch, frames=frames)
            mirrored, _ = forward(model, variables, mirrored_batch, train=False)
            maps = 0.5 * (maps + hm.flip_heatmaps(mirrored, flip_permutation))
        result = locate_joints(maps, batch.crop_to_image, decoder)
        if with_intermediates:
            keep = ("motion", "motion_useful", "motion_noisy")
            result["heatmaps"] = maps
            for name in keep:
                if name in out:
                    result[name] = jnp.abs(out[name].astype(jnp.float32)).mean(-1)
            for name in ("useful_gate", "noisy_gate"):
                if name in out:
                    result[name] = out[name].astype(jnp.float32)[:, 0, 0]
        return result

    return predict_step
