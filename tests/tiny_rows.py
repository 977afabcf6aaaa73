"""Two rows of the smallest config that has every part of a run, for the runner's test."""

from tests import tiny_config


def get_config(row):
    config = tiny_config.get_config()
    config.train.num_steps = 3
    if row == "single_frame":
        config.model.difference_stages = ()
        config.loss.mi_estimator = "none"
    return config
