"""Does TDMI help on real video? A frozen pretrained backbone, JHMDB, equal heads.

    python -m data_pipelines.build --dataset=jhmdb --source=JHMDB --output=data/jhmdb
    python main.py --config=configs/jhmdb_tinypose.py:tdmi --workdir=runs/jhmdb_tinypose/tdmi \\
        --config.model.backbone_weights=tinypose_256x192.npz

The backbone is PP-TinyPose, trained on COCO and more; its stage features take the place
of HRNet's. All rows share data, augmentation, head, schedule and number of steps.
"""

from configs import default

ROWS = ("single_frame", "tde", "tde_rdm", "tdmi", "tdmi_st")


def get_config(row="tdmi"):
    """The config of one row."""
    if row not in ROWS:
        raise ValueError(
            f"configs/jhmdb_tinypose.py:{row}: choose one of {', '.join(ROWS)}"
        )
    config = default.get_config()
    config.data.root = "data/jhmdb"
    config.data.skeleton = "jhmdb"
    config.data.crop_size_hw = (256, 192)
    # Clips have 15 to 40 frames of one scene each: what varies is made by augmentation.
    config.data.rotation_deg = 20.0
    config.data.scale_std = 0.2
    config.data.half_body_probability = 0.0
    config.model.backbone = "tinypose"
    config.model.backbone_weights = "tinypose_256x192.npz"
    config.model.num_keypoints = 15
    # 0.7 MB of head, trained in minutes on 2 cores; the paper has C = 48 and
    # N = (3, 3, 2, 2).
    config.model.channels = 16
    config.model.difference_blocks = (1, 1, 1, 1)
    config.model.aggregate_blocks = 2
    config.model.offset_groups = 2
    config.model.spatio_temporal_blocks = 1
    config.loss.heatmap_sigma = 2.0
    config.loss.heatmap_encoder = "subpixel"
    config.eval.decoder = "subpixel"
    config.optim.learning_rate = 4e-3
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 30
    config.train.batch_size = 16
    config.train.num_steps = 200
    config.train.log_every_steps = 25
    config.eval.metric = "pck"
    if row == "single_frame":
        config.model.difference_stages = ()
    if row == "tde":
        config.model.disentangle = False
    if row not in ("tdmi", "tdmi_st"):
        config.loss.mi_estimator = "none"
    config.model.spatio_temporal = row == "tdmi_st"
    return config
