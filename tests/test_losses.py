"""The objective: numbers one can do in one's head, and which term reaches what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax import losses
from tdpose_jax import mutual_information as mi

B, H, W, K, C = 6, 8, 8, 3, 4
WEIGHTS = dict(mi_weight=1.0, sufficiency_weight=1.0, softmax_temperature=0.05)


def test_heatmap_loss_by_hand():
    """Error 1 on one of two joints, the other unannotated: the mean halves."""
    predicted, target = jnp.ones((1, 2, 2, 2)), jnp.zeros((1, 2, 2, 2))
    loss = losses.heatmap_loss(predicted, target, jnp.array([[1.0, 0.0]]))
    assert float(loss) == pytest.approx(0.5)


def intermediates(seed=0):
    rng = np.random.default_rng(seed)

    def maps():
        return jnp.asarray(rng.standard_normal((B, H, W, C)), jnp.float32)

    motion = maps()
    return {
        "motion": motion,
        "motion_useful": 0.5 * motion + maps(),
        "motion_noisy": 0.5 * motion + maps(),
        "keyframe_feature": maps(),
        "aggregated": maps(),
    }


@pytest.fixture(scope="module")
def setting():
    auxiliary = losses.AuxiliaryNets(num_keypoints=K, channels=C, mi_hidden=8)
    out = intermediates()
    pooled = {"pooled_useful": jnp.zeros((1, C))}
    params = auxiliary.init(jax.random.key(0), {**out, **pooled})["params"]
    rng = np.random.default_rng(1)
    # Heads start at zero, where every sufficiency term is zero whatever it is made of.
    params = jax.tree.map(
        lambda p: p + 0.3 * rng.standard_normal(p.shape, np.float32), params
    )
    targets = jnp.asarray(rng.uniform(0, 1, (B, H, W, K)), jnp.float32)
    return auxiliary, params, out, targets, jnp.ones((B, K))


def total(setting, out=None, params=None, **fields):
    auxiliary, own_params, own_out, targets, weight = setting
    fields = {"mi_estimator": "vclub"} | WEIGHTS | fields
    return losses.total_loss(
        targets * 0.5,
        own_out if out is None else out,
        auxiliary,
        own_params if params is None else params,
        targets,
        weight,
        **fields,
    )


def test_the_two_games_do_not_mix(setting):
    """Features get no gradient from fitting q; q gets none from the bound."""
    _, params, out, _, _ = setting

    def part(name):
        return lambda out, params: total(setting, out, params)[1][name]

    feature_grad = jax.grad(part("loss_auxiliary"))(out, params)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(feature_grad))
    q_grad = jax.grad(part("loss_model"), argnums=1)(out, params)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(q_grad))
    assert any(
        np.asarray(g).any()
        for g in jax.tree.leaves(jax.grad(part("loss_model"))(out, params))
    )


def test_sufficiency_teacher_gets_no_gradient():
    maps = jnp.asarray(np.random.default_rng(0).standard_normal((2, B, H, W, K)))
    weight = jnp.ones((B, K))
    grad = jax.grad(lambda t: losses.sufficiency_loss(t, maps[1], weight, 1.0))(maps[0])
    assert not np.asarray(grad).any()
    grad = jax.grad(lambda s: losses.sufficiency_loss(maps[0], s, weight, 1.0))(maps[1])
    assert np.asarray(grad).any()


def test_sufficiency_is_zero_for_an_equal_student_and_grows_with_what_is_lost():
    rng = np.random.default_rng(0)
    teacher = jnp.asarray(rng.uniform(0, 1, (B, H, W, K)), jnp.float32)
    weight = jnp.ones((B, K))
    values = [
        float(losses.sufficiency_loss(teacher, keep * teacher, weight, 0.05))
        for keep in (1.0, 0.7, 0.3, 0.0)
    ]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values)


def test_unannotated_joints_do_not_enter_sufficiency():
    rng = np.random.default_rng(0)
    teacher, student = jnp.asarray(rng.uniform(0, 1, (2, B, H, W, K)))
    weight = jnp.ones((B, K)).at[:, 1].set(0)
    before = losses.sufficiency_loss(teacher, student, weight, 0.05)
    student = student.at[..., 1].set(rng.uniform(0, 9, (B, H, W)))
    after = losses.sufficiency_loss(teacher, student, weight, 0.05)
    assert float(before) == pytest.approx(float(after))


def test_a_negative_estimate_is_not_rewarded(setting, monkeypatch):
    """The term is the estimate above zero, and zero below it."""
    monkeypatch.setattr(mi, "vclub", lambda *a, **k: jnp.float32(-50.0))
    loss, terms = total(setting, sufficiency_weight=0.0)
    assert float(terms["mi_useful_noisy"]) == -50
    assert float(terms["loss_model"]) == pytest.approx(float(terms["heatmap"]))


def test_weights_scale_their_terms(setting):
    _, terms = total(setting, mi_weight=0.5, sufficiency_weight=2.0)
    lost = float(terms["mi_lost_motion"]) + float(terms["mi_lost_keyframe"])
    mi_term = max(float(terms["mi_useful_noisy"]), 0.0)
    expected = float(terms["heatmap"]) + 0.5 * (mi_term + 2.0 * lost)
    assert float(terms["loss_model"]) == pytest.approx(expected, rel=1e-5)


def test_without_weight_the_sufficiency_terms_reach_no_feature(setting):
    """Row rdm_mi: both are measured, neither is trained on."""

    def model_loss(out, weight):
        loss, terms = total(setting, out, sufficiency_weight=weight)
        return terms["loss_model"], terms

    features = ("aggregated", "keyframe_feature")  # reached by these terms alone
    grads, terms = jax.grad(model_loss, has_aux=True)(setting[2], 0.0)
    assert float(terms["mi_lost_keyframe"]) > 0 and float(terms["mi_lost_motion"]) > 0
    assert not any(np.asarray(grads[name]).any() for name in features)
    grads, _ = jax.grad(model_loss, has_aux=True)(setting[2], 1.0)
    assert np.asarray(grads["aggregated"]).any()


def test_none_is_the_heatmap_loss_alone(setting):
    loss, terms = total(setting, mi_estimator="none")
    assert set(terms) == {"heatmap", "loss_model"}
    assert float(loss) == float(terms["heatmap"])


def test_heatmap_kl_surrogate_is_bounded_and_separates_maps(setting):
    out = setting[2]
    same = mi.heatmap_kl_overlap(out["motion"], out["motion"], 0.05)
    apart = mi.heatmap_kl_overlap(out["motion"], out["aggregated"], 0.05)
    assert float(same) == pytest.approx(1.0, abs=1e-5)
    assert 0 <= float(apart) < 0.5
    _, terms = total(setting, mi_estimator="heatmap_kl")
    assert 0 <= float(terms["mi_useful_noisy"]) <= 1


def test_bad_choices_are_named(setting):
    with pytest.raises(ValueError, match="'mine'; choose one of .'vclub'"):
        total(setting, mi_estimator="mine")
    out = {k: v for k, v in setting[2].items() if k != "motion_noisy"}
    with pytest.raises(ValueError, match="needs model.disentangle=True"):
        total(setting, out=out)
