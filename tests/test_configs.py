"""Every config and row: builds, is locked, and its train step type-checks in shape."""

import importlib
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import jhmdb_tinypose_sweep
from tdpose_jax import setup_run, steps
from tdpose_jax.run_folder import flatten_config, unflatten_config
from tdpose_jax.shapes import SAMPLE_ID_BYTES, PoseBatch
from tdpose_jax.train_state import dummy_intermediates, init_state

ROWS = [
    ("posetrack17", None),
    ("posetrack18", None),
    ("posetrack21", None),
    ("hieve", None),
    ("jhmdb", None),
    ("demo", "backbone"),
    ("demo", "single_frame"),
    ("demo", "tdmi"),
    ("notebook", "tdmi"),
]


def get_config(name, row):
    module = importlib.import_module(f"configs.{name}")
    return module.get_config(row) if row else module.get_config()


def batch_shapes(config, size):
    t = 2 * config.data.window_delta + 1
    k = config.model.num_keypoints
    h, w = config.data.crop_size_hw

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct((size, *shape), dtype)

    return PoseBatch(
        frames=array(jnp.uint8, t, h, w, 3),
        keypoints_xy_crop=array(jnp.float32, k, 2),
        keypoint_weight=array(jnp.float32, k),
        crop_to_image=array(jnp.float32, 2, 3),
        frame_is_real=array(jnp.bool_, t),
        box_score=array(jnp.float32),
        example_is_real=array(jnp.bool_),
        sample_id=array(jnp.uint8, SAMPLE_ID_BYTES),
    )


@pytest.mark.parametrize("name,row", ROWS, ids=lambda v: v or "-")
def test_forward_and_backward_at_full_size(name, row):
    """Shapes only: nothing of this size is allocated."""
    config = get_config(name, row)
    parts = setup_run.make_parts(config, 100.0, axis_name=None)
    t = 2 * config.data.window_delta + 1
    state = jax.eval_shape(
        lambda: init_state(
            parts.model,
            parts.auxiliary,
            parts.optimizer,
            parts.auxiliary_optimizer,
            num_frames=t,
            seed=0,
        )
    )
    step = steps.make_train_step(
        parts.model,
        parts.auxiliary,
        parts.optimizer,
        parts.auxiliary_optimizer,
        config.loss,
        None,
    )
    new_state, metrics = jax.eval_shape(step, state, batch_shapes(config, 2))
    assert jax.tree.map(lambda x: x.shape, new_state) == jax.tree.map(
        lambda x: x.shape, state
    )
    assert metrics["loss_model"].shape == ()


def test_the_paper_config_is_the_paper():
    config = get_config("posetrack17", None)
    assert config.model.hrnet.width == 48 and config.model.freeze_backbone
    assert tuple(config.data.crop_size_hw) == (384, 288)
    assert config.data.window_delta == 2
    model = setup_run.make_parts(config, axis_name=None).model
    frames = jax.ShapeDtypeStruct((1, 5, 384, 288, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), frames)["params"]
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(params["backbone"]))
    assert count / 1e6 == pytest.approx(63.6, abs=0.05)
    assert dummy_intermediates(model)["keyframe_feature"].shape[-1] == 48


def test_configs_are_locked():
    config = get_config("demo", "tdmi")
    with pytest.raises(AttributeError, match="windw_delta"):
        config.data.windw_delta = 3


def test_an_unknown_model_field_is_named():
    config = get_config("demo", "tdmi").unlock()
    config.model.offset_group = 3
    with pytest.raises(TypeError, match="offset_group"):
        setup_run.make_parts(config)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"model.backbone": "resnet"}, "'resnet'; choose one of .'hrnet', 'tinypose'"),
        ({"model.dtype": "float16"}, "'float16'; choose auto, float32, bfloat16"),
        ({"model.num_keypoints": 15}, "num_keypoints=15, .*'posetrack' has 17 joints"),
        ({"data.skeleton": "mpii"}, "unknown skeleton 'mpii'; choose one of posetrack"),
        ({"data.crop_size_hw": (130, 96)}, "multiples of 32"),
        ({"optim.schedule": "poly"}, "'poly'; choose one of .'step', 'cosine'"),
        ({"model.backbone_only": True}, "leaves nothing to train"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_contradictions_are_named(change, message):
    config = get_config("demo", "tdmi")
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        setup_run.make_parts(config)


def test_demo_rows_list_the_choices():
    with pytest.raises(ValueError, match="tdmi, single_frame, backbone"):
        get_config("demo", "full")


@pytest.mark.parametrize("variant", jhmdb_tinypose_sweep.VARIANTS)
def test_a_variant_of_the_real_rows_changes_what_it_says(variant):
    # As config.json holds them: tuples are lists.
    changes = json.loads(json.dumps(jhmdb_tinypose_sweep.VARIANTS[variant]))
    base = flatten_config(get_config("jhmdb_tinypose", "tdmi"))
    config = get_config("jhmdb_tinypose_sweep", f"tdmi-{variant}")
    assert all(base[field] != value for field, value in changes.items())
    assert flatten_config(config) == base | changes
    setup_run.make_parts(config)


def test_real_rows_and_variants_list_the_choices():
    plain = get_config("jhmdb_tinypose_sweep", "tde")
    assert plain.to_dict() == get_config("jhmdb_tinypose", "tde").to_dict()
    with pytest.raises(
        ValueError, match="no variant 'rate'; choose one of groups8, .*"
    ):
        get_config("jhmdb_tinypose_sweep", "tdmi-rate")
    with pytest.raises(ValueError, match="choose one of single_frame, tde, "):
        get_config("jhmdb_tinypose_sweep", "full-long")


def test_a_frozen_backbone_needs_weights():
    config = get_config("posetrack17", None)
    with pytest.raises(ValueError, match="import_weights.*a run folder.*'random'"):
        setup_run.load_backbone_variables(config)
    config.model.backbone_weights = "nowhere"
    with pytest.raises(FileNotFoundError, match="model.backbone_weights: nowhere"):
        setup_run.load_backbone_variables(config)


def test_configs_survive_json():
    flat = flatten_config(get_config("posetrack17", None))
    assert json.loads(json.dumps(flat)) == flat
    config = get_config("posetrack17", None)
    assert unflatten_config(flat).to_dict() == config.to_dict()
    assert isinstance(config, ml_collections.ConfigDict)
