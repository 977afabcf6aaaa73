"""TDMI on HiEve (14 joints), split by video from its 19 training videos.

    python -m data_pipelines.build --dataset=hieve --source=HIEVE --output=data/hieve
    python main.py --config=configs/hieve.py --workdir=runs/hieve \
        --config.model.backbone_weights=weights/hrnet_w48

HiEve is scored on its own server; here PCK of the person's box stands in for it.
"""

from configs import default


def get_config():
    """The paper's model and our reading of its recipe, on HiEve's 14 joints."""
    config = default.get_config()
    config.data.root = "data/hieve"
    config.data.skeleton = "hieve"
    config.model.num_keypoints = 14
    config.eval.metric = "pck"
    return config
