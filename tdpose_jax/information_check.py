"""How much useful and noisy motion share, by two estimators that share nothing.

vCLUB with a q fitted here, whatever the run was trained with, and KSG, which fits
nothing. Both see the same few leading components of the pooled features; see
`nearest_neighbour_information` for why. A claim that training lowered I(M_u; M_n) needs
both to fall.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from tdpose_jax import mutual_information as mi
from tdpose_jax import nearest_neighbour_information as neighbours

COMPONENTS = 3


@functools.partial(jax.jit, static_argnames=("hidden", "steps", "learning_rate"))
def _fit(x, z, hidden, steps, learning_rate):
    net = mi.GaussianConditional(z.shape[1], hidden)
    # Decay, since a few hundred samples are all there is.
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(learning_rate, steps), weight_decay=1e-2
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


def cross_fitted_vclub(
    x: Float[np.ndarray, "N D"],
    z: Float[np.ndarray, "N E"],
    hidden: int = 16,
    steps: int = 500,
    learning_rate: float = 1e-2,
) -> float:
    """vCLUB in nats, of each half of the samples with q fitted on the other half.

    Samples in the order of people and time: the halves then are different people.
    """
    half = len(x) // 2
    parts = [(x[:half], z[:half]), (x[half : 2 * half], z[half : 2 * half])]
    net = mi.GaussianConditional(z.shape[1], hidden)
    bounds = []
    for fitted, measured in (parts, parts[::-1]):
        params = _fit(*map(jnp.float32, fitted), hidden, steps, learning_rate)
        x_part, z_part = map(jnp.float32, measured)
        bounds.append(float(mi.vclub(*net.apply(params, x_part), z_part)))
    return float(np.mean(bounds))


def check_information(
    useful: Float[np.ndarray, "N C"], noisy: Float[np.ndarray, "N C"]
) -> dict[str, float]:
    """Both estimates of I(pooled M_u; pooled M_n), nats, over samples in time order.

    Returns:
      `ksg`, `ksg_unrelated` and its `ksg_unrelated_std` (see `ksg_of_shifted`),
      `vclub`, and what they were measured on: `num_samples`, `components` of each, and
      the share of each one's variance that those hold.
    """
    x, share_x = neighbours.leading_components(useful, COMPONENTS)
    z, share_z = neighbours.leading_components(noisy, COMPONENTS)
    unrelated, spread = neighbours.ksg_of_shifted(x, z)
    return {
        "ksg": neighbours.ksg(x, z),
        "ksg_unrelated": unrelated,
        "ksg_unrelated_std": spread,
        "vclub": cross_fitted_vclub(x, z),
        "num_samples": len(x),
        "components": min(x.shape[1], z.shape[1]),
        "variance_share_useful": share_x,
        "variance_share_noisy": share_z,
    }
