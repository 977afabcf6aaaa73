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
from tdpose_jax.skeleton import JHMDB
from tests.real_data import REAL, needs_real
from tests.test_end_to_end import build, few_jhmdb_clips, run

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


@needs_real
@pytest.mark.slow  # 35 s of one core, most of it compiling
def test_the_head_evaluates_clips_by_the_documented_command(tmp_path):
    """docs/jhmdb_tinypose.md, on the shortest of the clips that no row was trained on."""
    source = few_jhmdb_clips(tmp_path / "clips", (("throw", 1),))
    root = build("jhmdb", source, tmp_path / "built")
    run(
        "main.py",
        "--config=configs/jhmdb_tinypose.py:tdmi",
        "--mode=eval",
        f"--config.data.root={root}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.model.backbone_weights={REAL / 'weights/tinypose_256x192.npz'}",
        f"--config.eval.head={FOLDER / 'tdmi.safetensors'}",
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    # Of the 357 labelled joints of these 24 frames, those that the run's own evaluation
    # found, with features cached as float16: a joint at the threshold may differ.
    joints = {JHMDB.joints[j] for j in JHMDB.evaluated}
    for threshold, found in (("PCK@0.2", 322), ("PCK@0.1", 310), ("PCK@0.05", 273)):
        assert set(results[threshold]) == {"total", *joints}
        assert results[threshold]["total"] == pytest.approx(100 * found / 357, abs=0.6)
    assert results["num_persons"] == 24
