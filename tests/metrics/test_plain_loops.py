"""AP and keypoint HOTA against plain loops that follow the protocols' text."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tdpose_jax.metrics.hota import keypoint_hota
from tdpose_jax.metrics.matching import make_pairs
from tdpose_jax.metrics.person_tables import concatenate, pack
from tdpose_jax.metrics.protocols import RULES, score
from tests.metrics.random_sets import random_set


def packed(truth, guess, protocol):
    rules = RULES[protocol]
    return concatenate([pack(t, p, rules) for t, p in zip(truth, guess, strict=True)])


def distances(data, g, p):
    """[J] head-normalised, inf where either joint is missing."""
    truth, guess = data.ground_truth, data.predictions
    d = np.linalg.norm(truth.xy[g] - guess.xy[p], axis=1) / truth.reference_size[g]
    return np.where(truth.present[g] & guess.present[p], d, np.inf)


def plain_ap(data):
    """[J] percent, from the description of poseval's matching and AP."""
    truth, guess = data.ground_truth, data.predictions
    found = [[] for _ in data.joints]
    for f in range(data.num_frames):
        gs, ps = np.flatnonzero(truth.frame == f), np.flatnonzero(guess.frame == f)
        pck = np.zeros((len(ps), len(gs)))
        near = np.zeros((len(ps), len(gs), len(data.joints)), bool)
        for a, p in enumerate(ps):
            for b, g in enumerate(gs):
                near[a, b] = distances(data, g, p) <= 0.5
                if truth.present[g].any():
                    pck[a, b] = near[a, b].sum() / truth.present[g].sum()
        of_prediction = {}
        if len(gs) and len(ps):
            for a in range(len(ps)):
                best = pck[a].argmax()
                pck[a, np.arange(len(gs)) != best] = 0
            for b in range(len(gs)):
                if pck[:, b].max() > 0:
                    of_prediction[pck[:, b].argmax()] = b
        for a, p in enumerate(ps):
            for j in np.flatnonzero(guess.present[p]):
                hit = a in of_prediction and near[a, of_prediction[a], j]
                found[j].append((guess.scores[p, j], hit))
    out = []
    for j, entries in enumerate(found):
        hits = np.array([hit for _, hit in sorted(entries, reverse=True)])
        recall = np.cumsum(hits) / truth.present[:, j].sum()
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        area, last = 0.0, 0.0
        for i in range(len(hits)):
            area += (recall[i] - last) * precision[i:].max()
            last = recall[i]
        out.append(100 * area)
    return out


def plain_hota(data):
    """{measure: total}, from the description of the PoseTrack21 kit, quirk included."""
    truth, guess = data.ground_truth, data.predictions
    alphas = np.arange(0.05, 0.99, 0.05)
    num_joints = len(data.joints)
    shape = (data.num_sequences, num_joints, len(alphas))
    tp, fn, fp, ass, frag, loc = (np.zeros(shape) for _ in range(6))
    for s in range(data.num_sequences):
        frames = np.flatnonzero(data.sequence_of_frame == s)
        all_g = np.isin(truth.frame, frames)
        all_p = np.isin(guess.frame, frames)
        for j in range(num_joints):
            matches = []
            for f in frames:
                gs = np.flatnonzero((truth.frame == f) & truth.present[:, j])
                ps = np.flatnonzero((guess.frame == f) & guess.present[:, j])
                if not (truth.frame == f).any():
                    fp[s, j] += guess.present[all_p, j].sum()
                    continue
                if not (guess.frame == f).any():
                    fn[s, j] += truth.present[all_g, j].sum()
                    continue
                sim = np.zeros((len(gs), len(ps)))
                for a, g in enumerate(gs):
                    for b, p in enumerate(ps):
                        sim[a, b] = max(0, 1 - distances(data, g, p)[j] / 0.5001)
                hits = np.zeros(len(alphas))
                for a, b in zip(*linear_sum_assignment(-sim), strict=True):
                    ids = truth.track[gs[a]], guess.track[ps[b]]
                    matches.append((*ids, sim[a, b]))
                    hits += sim[a, b] >= alphas - 1e-15
                tp[s, j] += hits
                fn[s, j] += len(gs) - hits
                fp[s, j] += len(ps) - hits
            for k, alpha in enumerate(alphas):
                met, fragments, last, located = {}, [], {}, 0.0
                for g, p, sim in matches:
                    if sim < alpha - 1e-15:
                        continue
                    located += sim
                    met[g, p] = met.get((g, p), 0) + 1
                    if last.get(g, (None,))[0] != p:
                        last[g] = p, len(fragments)
                        fragments.append([(g, p), 0])
                    fragments[last[g][1]][1] += 1
                count = max(1, tp[s, j, k])

                def union(pair, met=met, j=j):
                    g, p = pair
                    n_g = truth.present[truth.track == g, j].sum()
                    n_p = guess.present[guess.track == p, j].sum()
                    return max(1, n_g + n_p - met[pair])

                ass[s, j, k] = sum(m * m / union(q) for q, m in met.items()) / count
                frag[s, j, k] = sum(m * m / union(q) for q, m in fragments) / count
                loc[s, j, k] = located / tp[s, j, k] if tp[s, j, k] else 1.0
    weight = tp.sum(axis=1)
    hits, missed, wrong = (x.sum(axis=(0, 1)) for x in (tp, fn, fp))

    def mean(values):
        return (values.mean(axis=1) * weight).sum(axis=0) / np.maximum(1, hits)

    det = hits / np.maximum(1, hits + missed + wrong)
    return {
        "DetA": 100 * det.mean(),
        "AssA": 100 * mean(ass).mean(),
        "FragA": 100 * mean(frag).mean(),
        "LocA": 100 * mean(loc).mean(),
        "HOTA": 100 * np.sqrt(det * mean(ass)).mean(),
        "FA-HOTA": 100 * np.sqrt(det * np.sqrt(mean(ass) * mean(frag))).mean(),
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ap_of_crowded_sets(seed):
    truth, guess = random_set(seed)
    data = packed(truth, guess, "poseval")
    ours = score(truth, guess)["AP"]
    assert list(ours.values())[:-1] == pytest.approx(plain_ap(data), abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_hota_of_crowded_sets(seed):
    truth, guess = random_set(seed, num_sequences=2, num_frames=8, num_persons=4)
    data = packed(truth, guess, "posetrack21")
    ours = keypoint_hota(data, make_pairs(data))
    for name, total in plain_hota(data).items():
        assert ours[name][-1] == pytest.approx(total, abs=1e-9), name
    assert ours["FragA"][-1] != pytest.approx(ours["AssA"][-1])
