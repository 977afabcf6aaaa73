"""What makes a config fit a laptop: the same architecture, fewer and narrower layers."""


def shrink(config):
    """HRNet-W16 with one module per stage, at 128 x 96, trained quickly."""
    config.data.crop_size_hw = (128, 96)
    config.model.hrnet.width = 16
    config.model.hrnet.stem_width = 16
    config.model.hrnet.stage1_blocks = 1
    config.model.hrnet.stage_modules = (1, 1, 1)
    config.model.hrnet.branch_blocks = 1
    config.model.channels = 16
    config.model.offset_groups = 4
    config.model.difference_blocks = (1, 1, 1, 1)
    config.model.aggregate_blocks = 2
    # A tap spacing of 3 would reach over a third of a 32 x 24 map.
    config.model.deform_dilation = 1
    config.loss.heatmap_sigma = 1.5
    config.loss.heatmap_encoder = "subpixel"
    config.eval.decoder = "subpixel"
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 50
