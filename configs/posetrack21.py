"""TDMI on PoseTrack21: the recipe of `posetrack17.py`, other data.

    python -m data_pipelines.build --dataset=posetrack21 --source=POSETRACK21 \\
        --output=data/posetrack21
    python main.py --config=configs/posetrack21.py --workdir=runs/posetrack21 \\
        --config.model.backbone_weights=weights/hrnet_w48
"""

from configs import posetrack17


def get_config():
    """The paper's model and our reading of its recipe, on PoseTrack21."""
    config = posetrack17.get_config()
    config.data.root = "data/posetrack21"
    config.eval.metric = "posetrack21"
    return config
