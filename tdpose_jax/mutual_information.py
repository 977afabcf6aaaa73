r"""Mutual information between feature vectors: estimators that can be checked.

`vclub` is the variational contrastive log-ratio upper bound of Cheng et al. (ICML
2020). With a conditional model q(z | x) fitted by maximum likelihood,

$$ I_{vCLUB} = E_{p(x, z)} \log q(z \mid x) - E_{p(x) p(z)} \log q(z \mid x) $$

(in nats) is an upper bound of I(x; z) when q is close enough to p(z | x). q is fitted on *stopped*
features and the bound is minimised through a *stopped* q; fitting q on features that
receive q's gradient makes the two games one, and the estimate meaningless.

All functions accept `axis_name`: under pmap, moments are then those of the whole global
batch, so that negatives come from every device.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ESTIMATORS = ("vclub", "heatmap_kl", "none")
# |log variance| of q stays below this: a variance that runs to zero is how an estimate
# diverges, and standardised features need no more than exp(+-6).
MAX_LOG_VARIANCE = 6.0


def _pmean(x, axis_name):
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


class GaussianConditional(nn.Module):
    """q(z | x): a diagonal Gaussian; mean and log variance are small networks of x."""

    dim: int
    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B C"]) -> tuple[Any, Any]:
        """Returns mean and log variance, [B, dim] each, float32."""

        def mlp(name):
            y = nn.relu(nn.Dense(self.hidden, name=f"{name}_hidden")(x))
            return nn.Dense(self.dim, name=f"{name}_out")(y)

        # A linear path beside the network: correlated Gaussians need nothing else.
        mean = mlp("mean") + nn.Dense(self.dim, name="mean_linear")(x)
        log_variance = MAX_LOG_VARIANCE * jnp.tanh(mlp("log_variance"))
        return mean, log_variance


def standardise(
    x: Float[Array, "B C"], axis_name: str | None = None
) -> Float[Array, "B C"]:
    """Zero mean, unit variance per channel over the global batch.

    Mutual information does not change under invertible maps; this one makes sure that
    it cannot be "minimised" by shrinking the features, and keeps q well conditioned.
    """
    x = x.astype(jnp.float32)
    mean = _pmean(x.mean(0), axis_name)
    variance = _pmean(jnp.square(x - mean).mean(0), axis_name)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)


def log_likelihood(mean, log_variance, z) -> Float[Array, " B"]:
    """log q(z | x) up to the constant -d/2 log(2 pi), which cancels in the bound."""
    error = jnp.square(z - mean) * jnp.exp(-log_variance)
    return -0.5 * (error + log_variance).sum(-1)


def vclub(
    mean: Float[Array, "B D"],
    log_variance: Float[Array, "B D"],
    z: Float[Array, "B D"],
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The bound on a batch, nats; negatives are all pairs of the global batch.

    The mean over all pairs (i, j) of log q(z_j | x_i) needs only the first two moments
    of z, so it costs O(B) and one small reduction across devices instead of a gather.
    """
    first = _pmean(z.mean(0), axis_name)
    second = _pmean(jnp.square(z).mean(0), axis_name)
    pair_error = second - 2 * mean * first + jnp.square(mean)
    product = -0.5 * (pair_error * jnp.exp(-log_variance) + log_variance).sum(-1)
    difference = log_likelihood(mean, log_variance, z) - product
    return _pmean(difference.mean(), axis_name)


def spatial_kl(
    teacher: Float[Array, "B h w K"],
    student: Float[Array, "B h w K"],
    temperature: float,
) -> Float[Array, "B K"]:
    """KL(softmax(teacher / t) || softmax(student / t)) over positions, nats."""

    def log_probability(maps):
        b, h, w, k = maps.shape
        flat = maps.astype(jnp.float32).reshape(b, h * w, k)
        return jax.nn.log_softmax(flat / temperature, axis=1)

    log_p, log_q = log_probability(teacher), log_probability(student)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(1)


def heatmap_kl_overlap(
    a: Float[Array, "B h w C"], b: Float[Array, "B h w C"], temperature: float
) -> Float[Array, ""]:
    """The group's surrogate, as a quantity in (0, 1] that falls as maps separate.

    The group's code measures shared information by the KL divergence of spatial
    softmaxes, which is 0 for equal maps. Minimising it would pull useful and noisy
    motion together; exp(-KL) is 1 for equal maps and is what we minimise [ours].
    """
    return jnp.exp(-spatial_kl(a, b, temperature)).mean()


def gaussian_mutual_information(rho: float, dim: int) -> float:
    r"""$-\frac{d}{2} \log(1 - \rho^2)$ nats, for `dim` independent correlated pairs."""
    return float(-0.5 * dim * jnp.log1p(-(rho**2)))
