"""How much useful and noisy motion share, by estimators other than the trained one.

KSG, which fits nothing, and two bounds with a q fitted here, whatever the run was
trained with: InfoNCE from below, vCLUB from above. All see the ranks of the same few
leading components of the pooled features; see `nearest_neighbour_information` for why.
Where one feature nearly determines the other, vCLUB is in the hundreds and says no more
than that; a claim that training lowered I(M_u; M_n) rests on KSG and InfoNCE.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from tdpose_jax import mutual_information as mi
from tdpose_jax import nearest_neighbour_information as neighbours

COMPONENTS = 3
TEMPERATURES = (1.0, 4.0, 16.0, 64.0)


@functools.partial(jax.jit, static_argnames=("hidden", "steps", "learning_rate"))
def _fit(x, z, hidden, steps, learning_rate):
    net = mi.GaussianConditional(z.shape[1], hidden)
    # Decay, since a few hundred samples are all there is.
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(learning_rate, steps), weight_decay=0.1
    )

    def loss(params):
        return -mi.log_likelihood(*net.apply(params, x), z).mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = net.init(jax.random.key(0), x)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params


def infonce(
    mean: Float[Array, "N D"],
    log_variance: Float[Array, "N D"],
    z: Float[Array, "N D"],
) -> Float[Array, ""]:
    """InfoNCE (van den Oord et al., 2018) with log q(z | x) as its critic, nats.

    A lower bound of I(x; z) whatever q is, and never above log N: how well each z tells
    its x among all N. (The other way round, telling z from x, would need log q(z | x) -
    log p(z) as its critic, and p(z) is not known.) A q that is too sure of itself off
    its own samples makes the bound useless, so the best of a few temperatures counts.
    """
    # [N, N]: row i, every z under q( . | x_i).
    scores = jax.vmap(lambda m, v: mi.log_likelihood(m, v, z))(mean, log_variance)

    def bound(temperature):
        critic = scores / temperature
        told = jnp.diagonal(critic) - jax.nn.logsumexp(critic, axis=0)
        return told.mean() + jnp.log(len(z))

    return jnp.max(jnp.stack([bound(t) for t in TEMPERATURES]))


def cross_fitted_bounds(
    x: Float[np.ndarray, "N D"],
    z: Float[np.ndarray, "N E"],
    hidden: int = 16,
    steps: int = 500,
    learning_rate: float = 1e-2,
) -> dict[str, float]:
    """`infonce` and `vclub` in nats, of each half with q fitted on the other half.

    Samples in the order of people and time: the halves then are different people.
    """
    half = len(x) // 2
    parts = [(x[:half], z[:half]), (x[half : 2 * half], z[half : 2 * half])]
    net = mi.GaussianConditional(z.shape[1], hidden)
    bounds = []
    for fitted, measured in (parts, parts[::-1]):
        params = _fit(*map(jnp.float32, fitted), hidden, steps, learning_rate)
        x_part, z_part = map(jnp.float32, measured)
        q = net.apply(params, x_part)
        bounds.append((float(infonce(*q, z_part)), float(mi.vclub(*q, z_part))))
    return dict(
        zip(("infonce", "vclub"), np.mean(bounds, axis=0).tolist(), strict=True)
    )


def check_information(
    useful: Float[np.ndarray, "N C"], noisy: Float[np.ndarray, "N C"]
) -> dict[str, float]:
    """Estimates of I(pooled M_u; pooled M_n), nats, over samples in time order.

    Returns:
      `ksg`, `ksg_unrelated` and its `ksg_unrelated_std` (see `ksg_of_shifted`),
      `infonce`, `vclub`, and what they were measured on: `num_samples`, `components` of
      each, and the share of each one's variance that those hold.
    """
    x, share_x = neighbours.leading_components(useful, COMPONENTS)
    z, share_z = neighbours.leading_components(noisy, COMPONENTS)
    x, z = neighbours.normal_scores(x), neighbours.normal_scores(z)
    unrelated, spread = neighbours.ksg_of_shifted(x, z)
    return {
        "ksg": neighbours.ksg(x, z),
        "ksg_unrelated": unrelated,
        "ksg_unrelated_std": spread,
        **cross_fitted_bounds(x, z),
        "num_samples": len(x),
        "components": min(x.shape[1], z.shape[1]),
        "variance_share_useful": share_x,
        "variance_share_noisy": share_z,
    }
