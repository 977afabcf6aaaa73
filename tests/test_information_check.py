"""The second opinion on mutual information, on Gaussians whose information is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tdpose_jax import information_check as check
from tdpose_jax import mutual_information as mi
from tdpose_jax import nearest_neighbour_information as neighbours
from tdpose_jax.models.disentangle import ChannelGate
from tdpose_jax.mutual_information import gaussian_mutual_information


def correlated(rho, count, dim, seed=0):
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, count, dim))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("dim,relative", [(1, 0.06), (3, 0.2)])
def test_ksg_is_the_information_of_gaussians(dim, relative):
    """Within 0.06 nats, or the bias that strong dependence in 6 dimensions has."""
    estimates = []
    for rho in (0.0, 0.4, 0.6, 0.8, 0.9):
        truth = gaussian_mutual_information(rho, dim)
        estimates.append(neighbours.ksg(*correlated(rho, 1000, dim)))
        assert estimates[-1] == pytest.approx(truth, rel=relative, abs=0.06)
    assert estimates == sorted(estimates)


def test_ksg_sees_what_is_not_linear():
    """A noisy circle: no correlation, all the more information."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 800)
    x, z = np.cos(angle)[:, None], np.sin(angle)[:, None]
    z = z + 0.05 * rng.standard_normal(z.shape)
    assert abs(np.corrcoef(x[:, 0], z[:, 0])[0, 1]) < 0.1
    assert neighbours.ksg(x, z) > 1.0


def test_ksg_hardly_changes_when_one_side_is_bent():
    """Information does not; the estimator's metric does, a little."""
    x, z = correlated(0.8, 1000, 2)
    bent = neighbours.ksg(2 * x + 1, np.sinh(z))
    assert bent == pytest.approx(neighbours.ksg(x, z), rel=0.1)


def test_unrelated_features_of_the_same_videos_look_related_and_are_found_out():
    """Frames of one video resemble each other: the estimate is high, and so is what it
    gives once the features are moved to other videos."""
    rng = np.random.default_rng(0)
    video = np.repeat(np.arange(25), 20)
    x, z = (
        rng.standard_normal((25, 2))[video] + 0.1 * rng.standard_normal((500, 2))
        for _ in range(2)
    )
    assert neighbours.ksg(x, z) > 1.5
    mean, spread = neighbours.ksg_of_shifted(x, z)
    assert abs(neighbours.ksg(x, z) - mean) < 4 * spread
    x, z = correlated(0.9, 500, 2)
    mean, spread = neighbours.ksg_of_shifted(x, z)
    assert abs(mean) < 0.1 and neighbours.ksg(x, z) > mean + 10 * spread


def test_too_few_samples_are_named():
    with pytest.raises(ValueError, match="4 samples do not have 4 neighbours"):
        neighbours.ksg(*correlated(0.5, 4, 1))


def test_leading_components_by_hand():
    """Two equal channels and a constant one: one direction holds everything."""
    t = np.arange(6.0)
    parts, share = neighbours.leading_components(
        np.stack([t, 3 * t, np.ones(6)], axis=1), 2
    )
    assert parts.shape == (6, 1) and share == pytest.approx(1.0)
    expected = (t - 2.5) / t.std()
    np.testing.assert_allclose(np.abs(parts[:, 0]), np.abs(expected), atol=1e-9)


def test_normal_scores_by_hand():
    """Ranks 2, 1, 3 of 3: quantiles 1/2, 1/4, 3/4, however far out the largest is."""
    scores = neighbours.normal_scores(np.array([[2.0], [1.0], [1e6]]))
    np.testing.assert_allclose(scores[:, 0], [0.0, -0.67449, 0.67449], atol=1e-5)


def test_one_outlier_does_not_decide_an_estimate():
    rng = np.random.default_rng(0)
    shared, own = rng.standard_normal((2, 400, 4))
    useful, noisy = shared.copy(), shared + own
    before = check.check_information(useful, noisy)
    useful[7] *= 50
    after = check.check_information(useful, noisy)
    for name in ("ksg", "infonce"):
        assert after[name] == pytest.approx(before[name], abs=0.3), name


def test_bounds_on_people_q_has_not_seen():
    """InfoNCE from below; vCLUB from above, within 30 % of the bound of an exact q."""
    lower, upper = [], []
    for rho in (0.0, 0.6, 0.9):
        bounds = check.cross_fitted_bounds(*correlated(rho, 500, 3))
        lower.append(bounds["infonce"])
        upper.append(bounds["vclub"])
        truth, exact = gaussian_mutual_information(rho, 3), 3 * rho**2 / (1 - rho**2)
        assert upper[-1] == pytest.approx(exact, rel=0.3, abs=0.15)
        assert lower[-1] - 0.05 <= truth <= upper[-1] + 0.05
        assert lower[-1] > 0.9 * truth - 0.4
    assert lower == sorted(lower) and upper == sorted(upper)


def test_infonce_by_hand():
    """Two samples that q tells apart completely: log 2; a q that knows nothing: 0."""
    z = jnp.array([[-9.0], [9.0]])
    flat = jnp.zeros((2, 1))
    assert float(check.infonce(z, flat, z)) == pytest.approx(np.log(2))
    assert float(check.infonce(flat, flat, z)) == pytest.approx(0, abs=1e-5)
    # One standard deviation apart: a likelihood ratio of exp(1/2), both ways.
    mean = jnp.array([[0.0], [1.0]])
    expected = np.log(2) - np.log(1 + np.exp(-0.5))
    assert float(check.infonce(mean, flat, mean)) == pytest.approx(expected)


def test_all_estimates_fall_when_what_is_shared_is_taken_out():
    rng = np.random.default_rng(0)
    shared, own_useful, own_noisy = rng.standard_normal((3, 400, 8))
    useful = shared + own_useful
    before = check.check_information(useful, shared + 0.5 * own_noisy)
    after = check.check_information(useful, 0.2 * shared + own_noisy)
    assert before["components"] == 3 and before["num_samples"] == 400
    for name in ("ksg", "infonce", "vclub"):
        assert after[name] < 0.5 * before[name], name
    assert before["ksg"] > before["ksg_unrelated"] + 3 * before["ksg_unrelated_std"]


@pytest.mark.slow
def test_sharing_nothing_is_had_by_shutting_noisy_gates():
    """What the MI term does when nothing else is trained (docs/ablations.md).

    Gates on fixed pooled motion, q fitted beside them as in training. Both estimates
    fall on people that were not trained on, because most noisy gates shut: nothing else
    reads the noisy part, so nothing keeps it.
    """
    channels = 16
    rng = np.random.default_rng(0)
    sources = rng.standard_normal((2500, 6)) @ rng.standard_normal((6, channels))
    noise = 0.3 * rng.standard_normal(sources.shape)
    motion = jnp.float32(0.3 * np.log1p(np.exp(0.7 * sources + noise)))
    gate = ChannelGate(reduction=4)
    q = mi.GaussianConditional(channels, hidden=64)
    optimizer, q_optimizer = optax.adam(1e-2), optax.adam(1e-3)

    def parts(params, x):
        gates = [gate.apply(p, x[:, None, None])[:, 0, 0] for p in params]
        return gates, [mi.standardise(g * x) for g in gates]

    def loss(params, q_params, x):
        _, (useful, noisy) = parts(params, x)
        stopped = jax.lax.stop_gradient
        log_q = mi.log_likelihood(*q.apply(q_params, stopped(useful)), stopped(noisy))
        bound = mi.vclub(*q.apply(stopped(q_params), useful), noisy)
        return jnp.maximum(bound, 0.0) - log_q.mean()

    def step(carry, key):
        params, q_params, state, q_state = carry
        x = motion[jax.random.randint(key, (64,), 0, 2000)]
        grads, q_grads = jax.grad(loss, (0, 1))(params, q_params, x)
        updates, state = optimizer.update(grads, state)
        q_updates, q_state = q_optimizer.update(q_grads, q_state)
        params = optax.apply_updates(params, updates)
        return (params, optax.apply_updates(q_params, q_updates), state, q_state), None

    keys = jax.random.split(jax.random.key(0), 3)
    params = [gate.init(key, motion[:1, None, None]) for key in keys[:2]]
    q_params = q.init(keys[2], motion[:1])
    start = (params, q_params, optimizer.init(params), q_optimizer.init(q_params))
    (trained, *_), _ = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(
        start, jax.random.split(jax.random.key(1), 1500)
    )
    found = {}
    for name, one in (("before", params), ("after", trained)):
        gates, features = parts(one, motion[2000:])
        found[name] = check.check_information(*map(np.asarray, features))
    assert found["before"]["ksg"] > 3.0
    for name in ("ksg", "infonce", "vclub"):
        assert found["after"][name] < 0.4 * found["before"][name], found
    shut = np.asarray(gates[1].mean(0)) < 0.05
    assert shut.mean() > 0.5, gates[1].mean(0)
