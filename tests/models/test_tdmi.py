"""What the paper claims about the model, as tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax.models.temporal_difference import adjacent_differences
from tests.models.tiny import clip, init, tiny_tdmi


@pytest.fixture(scope="module")
def full():
    model = tiny_tdmi()
    variables = init(model)
    return model, variables, jax.jit(model.apply)


def test_output_shapes_and_named_stages(full):
    model, variables, apply = full
    maps, out = apply(variables, clip())
    assert maps.shape == (2, 16, 16, 17)
    assert out["stage1"].shape == (2, 5, 16, 16, 16)  # 4 * stem_width
    assert out["difference_2"].shape == (2, 16, 16, 4 * 4)
    assert out["sampling_offsets_3"].shape == (2, 16, 16, 2, 9, 2)
    for name in ("motion", "motion_useful", "motion_noisy", "aggregated"):
        assert out[name].shape == (2, 16, 16, 8)
    assert out["useful_gate"].shape == (2, 1, 1, 8)
    assert out["backbone_heatmaps"].shape == (2, 16, 16, 17)


def test_identical_frames_have_exactly_zero_differences(full):
    model, variables, apply = full
    still = np.repeat(clip()[:, :1], 5, axis=1)
    _, out = apply(variables, still)
    for stage in range(1, 5):
        assert not np.asarray(out[f"difference_{stage}"]).any()


def test_differences_are_of_neighbours_in_time_order():
    features = jnp.arange(5.0).reshape(1, 5, 1, 1, 1) ** 2
    assert adjacent_differences(features).ravel().tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("frame", [0, 1, 3, 4])
def test_every_supporting_frame_matters(full, frame):
    model, variables, apply = full
    frames = clip()
    changed = frames.copy()
    changed[:, frame] = clip(seed=1)[:, frame]
    assert np.abs(apply(variables, changed)[0] - apply(variables, frames)[0]).max() > 0


def test_silent_motion_starts_from_the_single_frame_row():
    """At first only the keyframe matters; the next step already hears the motion."""
    model = tiny_tdmi(
        silent_motion=True, spatio_temporal=True, spatio_temporal_blocks=1
    )
    shape = jax.ShapeDtypeStruct((1, 5, 64, 64, 3), jnp.float32)
    variables = model.lazy_init(jax.random.key(0), shape)
    frames, changed = clip(), clip(seed=1)
    changed[:, 2] = frames[:, 2]

    def loss(params, frames):
        maps, _ = model.apply({**variables, "params": params}, frames)
        return (maps**2).sum(), maps

    grad = jax.jit(jax.grad(loss, has_aux=True))
    gradient, maps = grad(variables["params"], frames)
    _, maps_changed = grad(variables["params"], changed)
    np.testing.assert_array_equal(maps, maps_changed)
    for layer in ("conv1", "downsample.0"):
        to_inputs = np.abs(gradient["aggregate.0"][layer]["kernel"]).sum((0, 1, 3))
        assert (to_inputs[:16] > 0).any() and (to_inputs[16:] > 0).any()
        kernel = variables["params"]["aggregate.0"][layer]["kernel"]
        assert not kernel[:, :, :16].any() and kernel[:, :, 16:].all()


def test_with_as_many_channels_it_starts_with_the_single_frame_rows_shortcut():
    """The keyframe's feature has 4 channels here; 48 and 48 in the paper's network."""
    shape = jax.ShapeDtypeStruct((1, 5, 64, 64, 3), jnp.float32)
    full, single = (
        tiny_tdmi(channels=4, silent_motion=True, **fields)
        for fields in ({}, {"difference_stages": (), "disentangle": False})
    )
    variables = full.lazy_init(jax.random.key(0), shape)
    params = variables["params"]
    first = dict(params["aggregate.0"])
    first["conv1"] = {"kernel": first["conv1"]["kernel"][:, :, 4:]}
    del first["downsample.0"], first["downsample.1"]
    kept = {k: params[k] for k in ("backbone", "pose_head")} | {"aggregate.0": first}
    stats = dict(variables["batch_stats"])
    frames = clip()
    maps, out = full.apply(variables, frames)
    alone, _ = single.apply({"params": kept, "batch_stats": stats}, frames)
    assert out["motion_useful"].any() and maps.any()
    # BatchNorm's epsilon is what is left between the two.
    np.testing.assert_allclose(maps, alone, atol=1e-4 * np.abs(alone).max())


def test_the_order_of_supporting_frames_matters(full):
    model, variables, apply = full
    frames = clip()
    permuted = frames[:, [1, 0, 2, 3, 4]]
    assert np.abs(apply(variables, permuted)[0] - apply(variables, frames)[0]).max() > 0


def test_the_keyframe_is_the_middle_one(full):
    """backbone_heatmaps come from the middle frame alone."""
    model, variables, apply = full
    frames = clip()
    changed = clip(seed=1)
    changed[:, 2] = frames[:, 2]
    a = apply(variables, frames)[1]["backbone_heatmaps"]
    b = apply(variables, changed)[1]["backbone_heatmaps"]
    np.testing.assert_array_equal(a, b)


def test_single_frame_row_ignores_supporting_frames():
    model = tiny_tdmi(difference_stages=())
    variables = init(model)
    frames, changed = clip(), clip(seed=1)
    changed[:, 2] = frames[:, 2]
    np.testing.assert_array_equal(
        model.apply(variables, frames)[0], model.apply(variables, changed)[0]
    )


def test_a_batch_row_does_not_depend_on_the_others(full):
    model, variables, apply = full
    frames = clip()
    both, alone = apply(variables, frames)[0], apply(variables, frames[1:])[0]
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)


def test_gates_split_motion(full):
    model, variables, apply = full
    _, out = apply(variables, clip())
    for part, gate in [("useful", "useful_gate"), ("noisy", "noisy_gate")]:
        expected = out[gate] * out["motion"]
        np.testing.assert_array_equal(out[f"motion_{part}"], expected)
        assert 0 < float(out[gate].min()) < float(out[gate].max()) < 1


def test_window_features_can_be_shared(full):
    """encode_frames + decode_window is the whole model: windows may share frames."""
    model, variables, apply = full
    frames = clip(batch=1)
    features, maps = model.apply(variables, frames[0], method="encode_frames")
    window = [f[None] for f in features]
    shared, _ = model.apply(variables, window, maps[None], method="decode_window")
    np.testing.assert_allclose(shared, apply(variables, frames)[0], atol=1e-5)


@pytest.fixture(scope="module")
def gradients():
    """Gradient of the heatmap loss alone, in train mode, backbone included."""
    model = tiny_tdmi()
    variables = init(model)

    def loss(params):
        (maps, _), updates = model.apply(
            {**variables, "params": params}, clip(), True, mutable=["batch_stats"]
        )
        return jnp.square(maps).mean(), updates["batch_stats"]

    grads, updates = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    return grads, updates, variables


def test_frozen_backbone_gets_no_gradient_and_keeps_its_statistics(gradients):
    grads, updates, variables = gradients
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads["backbone"]))
    before = variables["batch_stats"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, updates["backbone"], before)
    moved = jax.tree.map(
        lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()),
        updates["temporal_difference"],
        variables["batch_stats"]["temporal_difference"],
    )
    assert all(jax.tree.leaves(moved)), "the rest is in train mode"


def test_heatmap_loss_reaches_no_parameter_of_the_noisy_branch(gradients):
    grads, _, _ = gradients
    noisy = jax.tree.leaves(grads["disentangle"]["noisy"])
    useful = jax.tree.leaves(grads["disentangle"]["useful"])
    assert not any(np.asarray(g).any() for g in noisy)
    assert all(np.asarray(g).any() for g in useful)


def test_every_other_parameter_is_trained(gradients):
    grads, _, _ = gradients
    silent = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(grads)
        if not np.asarray(g).any()
    ]
    expected = ("['backbone']", "['disentangle']['noisy']")
    assert [s for s in silent if not s.startswith(expected)] == []


def test_wrong_sizes_are_named():
    model = tiny_tdmi()
    frames = jax.ShapeDtypeStruct((1, 5, 64, 48, 3), jnp.float32)
    with pytest.raises(ValueError, match="multiples of 32, got height 64, width 48"):
        jax.eval_shape(model.init, jax.random.key(0), frames)
    model = tiny_tdmi(offset_groups=3)
    frames = jax.ShapeDtypeStruct((1, 5, 64, 64, 3), jnp.float32)
    with pytest.raises(ValueError, match="channels=8 is not a multiple of .*groups=3"):
        jax.eval_shape(model.init, jax.random.key(0), frames)
