"""The demo: small networks on the embedded data, as `make demo` runs them.

    python main.py --config=configs/demo.py:backbone     --workdir=runs/demo/backbone
    python main.py --config=configs/demo.py:single_frame --workdir=runs/demo/single_frame
    python main.py --config=configs/demo.py:tdmi         --workdir=runs/demo/tdmi

First a backbone is trained on single frames, as the paper's is on COCO; then both rows
train on top of it, frozen, with the same head, schedule and data.
"""

from configs import default, small

ROWS = ("tdmi", "single_frame", "backbone")


def get_config(row="tdmi"):
    """One of `ROWS`; ValueError, naming them, for another."""
    if row not in ROWS:
        raise ValueError(f"configs/demo.py:{row}: choose one of {', '.join(ROWS)}")
    config = default.get_config()
    small.shrink(config)
    config.data.root = "data/demo"
    # People stand upright in the embedded data, and their left limbs are banded, so that
    # a small network learns the sides quickly; a mirrored crop would contradict that.
    config.data.flip_probability = 0.0
    config.data.rotation_deg = 10.0
    config.data.scale_std = 0.1
    config.data.half_body_probability = 0.0
    # The annotated boxes are 1.3 times the pose already; at 32 x 24 heatmap pixels half
    # a head is only about one of them.
    config.data.box_enlarge = 1.0
    config.train.log_every_steps = 25
    config.optim.learning_rate = 4e-3
    config.train.num_steps = 250
    config.train.batch_size = 16
    config.model.backbone_weights = "runs/demo/backbone"
    if row == "backbone":
        config.model.backbone_only = True
        config.model.backbone_weights = ""
        config.model.freeze_backbone = False
        config.data.window_delta = 0
        config.train.num_steps = 550
        config.train.batch_size = 32
    if row != "tdmi":
        config.loss.mi_estimator = "none"
    if row == "single_frame":
        config.model.difference_stages = ()
        config.data.window_delta = 0
    return config
