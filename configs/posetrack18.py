"""TDMI on PoseTrack18: the recipe of `posetrack17.py`, other data.

    python -m data_pipelines.build --dataset=posetrack18 --source=POSETRACK18 \\
        --output=data/posetrack18
    python main.py --config=configs/posetrack18.py --workdir=runs/posetrack18 \\
        --config.model.backbone_weights=weights/hrnet_w48
"""

from configs import posetrack17


def get_config():
    """The paper's model and our reading of its recipe, on PoseTrack18."""
    config = posetrack17.get_config()
    config.data.root = "data/posetrack18"
    # DCPose decays by 0.99 on PoseTrack18, which is nearly constant [group].
    config.optim.decay_factor = 0.99
    return config
