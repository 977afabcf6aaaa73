"""One knob changed at a time around configs/jhmdb_tinypose.py: why is TDMI not further?

    python -m tdpose_jax.ablations --config=configs/jhmdb_tinypose_sweep.py \\
        --rows=single_frame,tdmi,tdmi-groups8@single_frame --seeds=0 ...

A row is one of `jhmdb_tinypose.ROWS`, or one of them, a dash, and a variant below.
"""

from configs import jhmdb_tinypose

VARIANTS = {
    "groups8": {"model.offset_groups": 8},
    "last_stage": {"model.difference_stages": (4,)},
    "plain_conv": {"model.deformable": False},
    "mi_tenfold": {"loss.mi_weight": 1e-5},
    "no_sufficiency": {"loss.sufficiency_weight": 0.0},
    "half_rate": {"optim.learning_rate": 2e-3},
    "double_rate": {"optim.learning_rate": 8e-3},
    # As many clips and the same schedule over them; the rate is per 32 clips.
    "batch4": {
        "train.batch_size": 4,
        "train.num_steps": 800,
        "optim.warmup_steps": 120,
    },
    "long": {"train.num_steps": 600},  # 3.4 epochs; the rows have 1.1
    "longest": {"train.num_steps": 2400},
    # Without the loss terms, which cost time and half a point.
    "large": {
        "model.channels": 32,
        "train.num_steps": 600,
        "loss.mi_estimator": "none",
    },
    "span1": {"data.window_delta": 1},
    # The default data set holds two frames to each side.
    "span4": {"data.window_delta": 4, "data.root": "data/jhmdb_span4"},
    # One clip, scored on itself: is there room enough for it?
    "by_heart": {
        "data.root": "data/jhmdb_one",
        "data.eval_split": "train",
        "data.rotation_deg": 0.0,
        "data.scale_std": 0.0,
        "data.flip_probability": 0.0,
        "train.num_steps": 150,
    },
}


def get_config(row="tdmi"):
    """The config of `ROW` or `ROW-VARIANT`."""
    base, dash, variant = row.partition("-")
    config = jhmdb_tinypose.get_config(base)
    if dash and variant not in VARIANTS:
        raise ValueError(
            f"configs/jhmdb_tinypose_sweep.py:{row}: no variant {variant!r}; choose one "
            f"of {', '.join(VARIANTS)}"
        )
    config.update_from_flattened_dict(VARIANTS[variant] if dash else {})
    return config
