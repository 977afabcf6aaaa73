"""The heads in checkpoints/ are what their config describes, without the backbone."""

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from tdpose_jax import setup_run
from tdpose_jax.interop.head_file import load_head

FOLDER = Path(__file__).parents[1] / "checkpoints" / "jhmdb_tinypose"


@pytest.mark.parametrize("row", ["single_frame", "tdmi"])
def test_head_fits_its_config(row):
    path = FOLDER / f"{row}.safetensors"
    assert path.stat().st_size <= 3e6
    with safe_open(str(path), "np") as file:
        assert not [name for name in file.keys() if "backbone" in name]
        trained_as = json.loads(file.metadata()["config"])
    config = importlib.import_module("configs.jhmdb_tinypose").get_config(row)
    assert trained_as["optim.learning_rate"] == config.optim.learning_rate
    config.model.backbone_weights = "random"
    before = setup_run.initial_variables(config)
    after, step = load_head(path, before)
    assert step == config.train.num_steps
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), before, after)
    assert all(jax.tree.leaves(same["params"].pop("backbone")))
    assert not any(jax.tree.leaves(same["params"]))
