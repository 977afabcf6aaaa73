r"""The objective: the heatmaps' error, and the mutual information terms.

$$ L = L_H + \alpha L_{MI}, \qquad
L_{MI} = I(M_u; M_n) + \beta \left[ I(y; M \mid M_u) + I(y; F_t \mid \tilde F) \right] $$

with motion $M$, its useful and noisy parts $M_u$ and $M_n$, the keyframe's feature $F_t$
and the enhanced one $\tilde F$; $\alpha$ is `loss.mi_weight`, $\beta$
`loss.sufficiency_weight`.

The auxiliary networks (q of vCLUB, and four 1x1 heads that read heatmaps off features)
are fitted on stopped features; the model is trained through stopped auxiliary networks.
One backward pass gives both gradients, and neither game can cheat in the other's.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from tdpose_jax import mutual_information as mi

# (teacher, student): what the student must not lose of the teacher's task information.
SUFFICIENCY_PAIRS = {
    "mi_lost_motion": ("motion", "motion_useful"),
    "mi_lost_keyframe": ("keyframe_feature", "aggregated"),
}

# What is differentiated: the first three kinds with respect to the model, the last two
# with respect to the auxiliary networks.
TERMS = ("heatmap", "mi_useful_noisy", *SUFFICIENCY_PAIRS, "q_nll", "auxiliary_heads")


class AuxiliaryNets(nn.Module):
    """Networks that only the objective needs; they are not part of the model."""

    num_keypoints: int
    channels: int
    mi_hidden: int

    @nn.compact
    def __call__(self, out: dict) -> dict:
        """Heatmaps read off each feature, and q(M_n | M_u)'s mean and log variance.

        Args:
          out: the model's intermediates, or a dict with the names needed.
        """
        result = {}
        for name in sorted({n for pair in SUFFICIENCY_PAIRS.values() for n in pair}):
            # Heads start at zero and see features of unit size: read off raw features
            # (an untrained net's are in the hundreds), a teacher is noise for as long
            # as a short training lasts, and the student is made to follow it.
            head = nn.Dense(
                self.num_keypoints,
                kernel_init=nn.initializers.zeros,
                name=f"head_{name}",
            )
            feature = out[name].astype(jnp.float32)
            size = jnp.square(feature).mean((1, 2, 3), keepdims=True)
            result[name] = head(feature * jax.lax.rsqrt(size + 1e-6))
        q = mi.GaussianConditional(self.channels, self.mi_hidden, name="q")
        result["q"] = q(out["pooled_useful"])
        return result


def heatmap_loss(
    heatmaps: Float[Array, "B h w K"],
    target_heatmaps: Float[Array, "B h w K"],
    keypoint_weight: Float[Array, "B K"],
) -> Float[Array, ""]:
    """Mean squared error over batch, pixels and joints, unannotated joints as zero.

    Joints of weight 0 count in the denominator, as in the HRNet lineage: the loss of a
    batch does not jump with the number of its annotated joints.
    """
    weight = keypoint_weight[:, None, None, :]
    error = (heatmaps.astype(jnp.float32) - target_heatmaps) * weight
    return jnp.square(error).mean()


def pooled_motion(out: dict, axis_name: str | None) -> tuple[Array, Array]:
    """Globally pooled, standardised useful and noisy motion, [B, C] each."""
    return tuple(
        mi.standardise(out[name].astype(jnp.float32).mean((1, 2)), axis_name)
        for name in ("motion_useful", "motion_noisy")
    )


def sufficiency_loss(
    teacher: Float[Array, "B h w K"],
    student: Float[Array, "B h w K"],
    keypoint_weight: Float[Array, "B K"],
    temperature: float,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """I(y; v | z) bounded by KL(p(y|v) || p(y|z)); the teacher is stopped.

    Variational self-distillation (Tian et al., CVPR 2021), over annotated joints. The
    mean over devices is the mean over the annotated joints of the global batch: each
    device divides by the mean number per device, not by its own.
    """
    kl = mi.spatial_kl(stop_gradient(teacher), student, temperature)
    annotated, least = keypoint_weight.sum(), 1.0
    if axis_name is not None:
        annotated = lax.pmean(annotated, axis_name)
        least = 1.0 / lax.psum(1, axis_name)
    return (kl * keypoint_weight).sum() / jnp.maximum(annotated, least)


def total_loss(
    heatmaps: Float[Array, "B h w K"],
    out: dict,
    auxiliary: AuxiliaryNets | None,
    auxiliary_params: dict,
    target_heatmaps: Float[Array, "B h w K"],
    keypoint_weight: Float[Array, "B K"],
    *,
    mi_estimator: str,
    mi_weight: float,
    sufficiency_weight: float,
    softmax_temperature: float,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict]:
    """Scalar to differentiate with respect to model and auxiliary parameters at once.

    Returns:
      (loss, terms): terms are unweighted; `loss_model` is L above, `loss_auxiliary`
      the likelihood of q and the fit of the heads, which reach no model parameter.

    Raises:
      ValueError: for an unknown estimator, or one that needs a part the model lacks.
    """
    if mi_estimator not in mi.ESTIMATORS:
        raise ValueError(
            f"loss.mi_estimator={mi_estimator!r}; choose one of {mi.ESTIMATORS}"
        )
    terms = {"heatmap": heatmap_loss(heatmaps, target_heatmaps, keypoint_weight)}
    if mi_estimator == "none":
        terms["loss_model"] = terms["heatmap"]
        return terms["heatmap"], terms
    if "motion_noisy" not in out:
        raise ValueError(
            f"loss.mi_estimator={mi_estimator!r} needs model.disentangle=True and "
            "model.difference_stages; set loss.mi_estimator='none' for this row"
        )
    pooled_useful, pooled_noisy = pooled_motion(out, axis_name)
    features = {**out, "pooled_useful": pooled_useful}
    needed = {n for pair in SUFFICIENCY_PAIRS.values() for n in pair}
    stopped = {n: stop_gradient(features[n]) for n in needed | {"pooled_useful"}}

    if auxiliary is None:
        raise ValueError(f"loss.mi_estimator={mi_estimator!r} needs AuxiliaryNets")
    fitted = auxiliary.apply({"params": auxiliary_params}, stopped)
    q_mean, q_log_variance = fitted["q"]
    log_q = mi.log_likelihood(q_mean, q_log_variance, stop_gradient(pooled_noisy))
    terms["q_nll"] = -log_q.mean()
    terms["auxiliary_heads"] = sum(
        heatmap_loss(fitted[n], target_heatmaps, keypoint_weight)
        for n in sorted(needed)
    )
    terms["loss_auxiliary"] = terms["q_nll"] + terms["auxiliary_heads"]

    read = auxiliary.apply({"params": stop_gradient(auxiliary_params)}, features)
    if mi_estimator == "vclub":
        q_mean, q_log_variance = read["q"]
        estimate = mi.vclub(q_mean, q_log_variance, pooled_noisy, axis_name)
        terms["mi_useful_noisy"] = estimate
        # Information is not negative: below zero the estimate only says that q is
        # stale, and following it further would reward fooling q without bound.
        mi_term = jnp.maximum(estimate, 0.0)
    else:
        mi_term = mi.heatmap_kl_overlap(
            out["motion_useful"], out["motion_noisy"], softmax_temperature
        )
        terms["mi_useful_noisy"] = mi_term
    lost = 0.0
    for name, (teacher, student) in SUFFICIENCY_PAIRS.items():
        terms[name] = sufficiency_loss(
            read[teacher],
            read[student],
            keypoint_weight,
            softmax_temperature,
            axis_name,
        )
        lost = lost + terms[name]
    penalty = mi_term
    if sufficiency_weight:  # at 0 they are logged, and cost no backward pass
        penalty = penalty + sufficiency_weight * lost
    terms["loss_model"] = terms["heatmap"] + mi_weight * penalty
    return terms["loss_model"] + terms["loss_auxiliary"], terms


def accumulated_pck(
    predicted_xy: Float[Array, "B K 2"],
    target_xy: Float[Array, "B K 2"],
    keypoint_weight: Float[Array, "B K"],
    radius: float,
) -> tuple[Array, Array]:
    """Sums of (joints within `radius`, joints annotated): a training-time accuracy."""
    distance = jnp.linalg.norm(predicted_xy - target_xy, axis=-1)
    annotated = keypoint_weight > 0
    return ((distance <= radius) & annotated).sum(), annotated.sum()
