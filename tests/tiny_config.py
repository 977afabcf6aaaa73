"""The smallest config that has every part of a run: for main.py in tests and stress.

All kinds of state take part: trained and frozen parameters, BatchNorm statistics, the
auxiliary networks, both optimisers; augmentation makes every draw.
"""

from configs import default, small


def get_config():
    config = default.get_config()
    small.shrink(config)
    config.data.window_delta = 1
    config.data.crop_size_hw = (64, 64)
    config.model.backbone_weights = "random"
    config.model.hrnet.width = 4
    config.model.hrnet.stem_width = 4
    config.model.hrnet.stage1_blocks = 1
    config.model.hrnet.branch_blocks = 1
    config.model.channels = 8
    config.model.offset_groups = 2
    config.model.difference_stages = (1, 4)
    config.model.difference_blocks = (1, 1, 1, 1)
    config.model.aggregate_blocks = 1
    config.model.silent_motion = False  # untrained motion matters, too
    config.loss.mi_hidden = 8
    config.loss.mi_weight = 0.1  # enough for every term to matter
    config.optim.warmup_steps = 0
    config.train.batch_size = 8
    config.train.num_steps = 20
    config.train.log_every_steps = 1
    config.train.save_every_steps = 5
    config.eval.batch_size = 8
    config.eval.num_pictures = 0
    return config
