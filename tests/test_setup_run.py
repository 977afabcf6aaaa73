"""What a config says that cannot be: told before anything is trained."""

import pytest

from tdpose_jax import setup_run
from tests import tiny_config


@pytest.mark.parametrize(
    "change,message",
    [
        ({"eval.metric": "ap"}, r"eval.metric='ap'; choose one of \('poseval', "),
        ({"eval.decoder": "dark"}, r"eval.decoder='dark'; .*'subpixel', 'quarter'"),
        ({"eval.checkpoint": "bets"}, r"eval.checkpoint='bets'; .*'latest', 'best'"),
        ({"eval.backend": "tpu"}, r"eval.backend='tpu'; choose one of .*'onnxruntime'"),
        (
            {"eval.metric": "pck", "data.eval_split": "val_detections"},
            r"'pck' with data.eval_split='val_detections': .*choose 'val', or another",
        ),
    ],
)
def test_evaluations_that_do_not_exist(change, message):
    config = tiny_config.get_config().unlock()
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        setup_run.check_config(config)
