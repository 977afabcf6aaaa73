"""Mutual information of samples from their nearest neighbours; numpy and scipy only.

Kraskov, Stoegbauer, Grassberger, "Estimating mutual information", Phys. Rev. E 69
(2004), algorithm 1 ("KSG"). It fits no network and knows nothing of `vclub`, which is
why it is here: what both say of a trained model is not an artefact of one of them.

It needs few dimensions: with n samples it cannot exceed about log(n) nats, and it falls
short of strong dependence in more than a handful of dimensions. So high-dimensional
features are reduced to their leading components first, which by the data-processing
inequality can only lose information: I(f(x); g(z)) <= I(x; z).
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist
from scipy.special import digamma
from scipy.stats import norm, rankdata


def leading_components(
    x: Float[np.ndarray, "N C"], count: int
) -> tuple[Float[np.ndarray, "N c"], float]:
    """The first `count` principal components, each of unit variance.

    Returns:
      components, fewer than `count` if the samples span fewer dimensions, and the share
      of the variance of the standardised channels that they hold. Constant channels
      (a gate that is shut) hold none.
    """
    x = np.asarray(x, np.float64)
    size = x.std(0)
    alive = size > 1e-6 * max(size.max(), 1e-30)
    x = (x[:, alive] - x[:, alive].mean(0)) / size[alive]
    left, strength, _ = np.linalg.svd(x, full_matrices=False)
    count = min(count, int((strength > 1e-6 * strength.max(initial=0.0)).sum()))
    share = float(np.square(strength[:count]).sum() / np.square(strength).sum())
    return left[:, :count] * np.sqrt(len(x)), share


def normal_scores(x: Float[np.ndarray, "N c"]) -> Float[np.ndarray, "N c"]:
    """Each column by its ranks, as quantiles of a standard normal.

    Information does not change under it; one person who moves ten times as much as the
    others no longer decides an estimate.
    """
    return norm.ppf(rankdata(x, axis=0) / (len(x) + 1))


def ksg(
    x: Float[np.ndarray, "N D"], z: Float[np.ndarray, "N E"], neighbours: int = 4
) -> float:
    """I(x; z) in nats; may come out slightly negative where there is none.

    Args:
      neighbours: k; more lowers the variance and raises the bias.

    Raises:
      ValueError: if there are not more samples than `neighbours`.
    """
    n = len(x)
    if n <= neighbours:
        raise ValueError(f"ksg: {n} samples do not have {neighbours} neighbours each")
    distance_x, distance_z = _distances(x), _distances(z)
    joint = np.maximum(distance_x, distance_z)
    radius = np.partition(joint, neighbours - 1, axis=1)[:, neighbours - 1, None]
    near_x = (distance_x < radius).sum(1)
    near_z = (distance_z < radius).sum(1)
    local = digamma(near_x + 1) + digamma(near_z + 1)
    return float(digamma(neighbours) + digamma(n) - local.mean())


def _distances(x) -> np.ndarray:
    """Maximum norm between all samples; a sample is not its own neighbour."""
    distance = cdist(x, x, "chebyshev")
    np.fill_diagonal(distance, np.inf)
    return distance


def ksg_of_shifted(
    x: Float[np.ndarray, "N D"],
    z: Float[np.ndarray, "N E"],
    neighbours: int = 4,
    repeats: int = 10,
    seed: int = 0,
) -> tuple[float, float]:
    """(mean, standard deviation) of `ksg` with z moved along the samples, in a circle.

    What the estimator says of these samples where there is no information. Samples must
    be in the order of people and time: frames of a video resemble each other, so the
    frame before is a near neighbour in x and in z alike and unrelated features of it
    look dependent. Moving keeps that resemblance, shuffling would not. An estimate
    within two standard deviations of this mean has shown nothing.
    """
    n = len(x)
    shifts = np.random.default_rng(seed).integers(n // 10, n - n // 10, repeats)
    values = [ksg(x, np.roll(z, shift, axis=0), neighbours) for shift in shifts]
    return float(np.mean(values)), float(np.std(values, ddof=1))
