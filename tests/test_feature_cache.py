"""Cached features train and evaluate like computed ones; heads travel without them."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.input_pipeline import TrainIterator, make_eval_iterator
from tdpose_jax import feature_cache, setup_run, steps, train
from tdpose_jax.feature_cache import CachedEvalIterator, CachedTrainIterator
from tdpose_jax.interop import head_file
from tdpose_jax.interop.weights_file import save_backbone
from tests import stress, tiny_config


def iterators(config):
    return (
        TrainIterator(config.data, config.seed, config.train.batch_size, 0, 1),
        make_eval_iterator(config.data, "val", config.eval.batch_size, 0, 1),
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a finished cache of half an epoch."""
    folder = tmp_path_factory.mktemp("cache")
    config = tiny_config.get_config().unlock()
    config.data.root = str(stress.make_data(folder / "data"))
    config.data.feature_cache = str(folder / "features")
    config.data.feature_cache_epochs = 0.5
    config.train.num_steps = 3
    feature_cache.write_cache(config, *iterators(config))
    return config.lock()


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run folder that was trained from the cache, and its results."""
    workdir = tmp_path_factory.mktemp("run")
    results = train.run_training(
        config,
        workdir,
        CachedTrainIterator(config, config.train.batch_size, 0, 1),
        CachedEvalIterator(config, config.eval.batch_size, 0, 1),
    )
    return workdir, results


def test_cached_features_predict_what_frames_predict(config):
    """float16 rounds a feature by at most 5e-4 of itself."""
    cached = CachedEvalIterator(config, config.eval.batch_size, 0, 1)
    _, computed = iterators(config)
    assert len(cached) == len(computed)
    assert cached.num_examples == computed.num_examples
    model = setup_run.make_parts(config, axis_name=None).model
    variables = setup_run.initial_variables(config)
    predict = jax.jit(steps.make_predict_step(model, "subpixel", None, True))
    for a, b in zip(cached, computed, strict=True):
        real = b.example_is_real
        np.testing.assert_array_equal(a.example_is_real, real)
        for name in ("frames", "sample_id", "crop_to_image", "keypoint_weight"):
            np.testing.assert_array_equal(a[name][real], b[name][real])
        ours, theirs = predict(variables, a), predict(variables, b)
        scale = np.abs(theirs["heatmaps"]).max()
        np.testing.assert_allclose(
            ours["heatmaps"][real], theirs["heatmaps"][real], atol=2e-3 * scale
        )


def test_an_epoch_visits_every_cached_example_once(config):
    size = 4
    iterator = CachedTrainIterator(config, size, 0, 1)
    count = iterator.examples_per_epoch
    assert count == round(0.5 * iterators(config)[0].examples_per_epoch)
    steps_ = iterator.steps_per_epoch
    epochs = [
        [bytes(row) for _ in range(steps_) for row in next(iterator).sample_id]
        for _ in range(2)
    ]
    assert len(set(epochs[0])) == steps_ * size
    assert epochs[0] != epochs[1]
    # Resumed in the middle, and split over two processes: the same rows.
    state = iterator.state() | {"step": 1}
    halves = [CachedTrainIterator(config, size // 2, i, 2) for i in range(2)]
    for half in halves:
        half.restore(state)
    rows = [bytes(row) for half in halves for row in next(half).sample_id]
    assert rows == epochs[0][size : 2 * size]
    with pytest.raises(ValueError, match="global_batch_size"):
        CachedTrainIterator(config, size // 2, 0, 1).restore(state)


def test_evaluation_over_three_processes_covers_everyone_once(config):
    everyone = CachedEvalIterator(config, 4, 0, 1)
    ids = [
        bytes(row)
        for i in range(3)
        for batch in CachedEvalIterator(config, 4, i, 3)
        for row in batch.sample_id[batch.example_is_real]
    ]
    assert len(ids) == len(set(ids)) == everyone.num_examples


def test_a_head_scores_what_its_run_scored(config, run, tmp_path, capsys):
    workdir, results = run
    head = tmp_path / "heads" / "tiny.safetensors"
    head_file.main([str(workdir), f"--output={head}"])
    assert "MB" in capsys.readouterr().out
    config = config.copy_and_resolve_references().unlock()
    config.eval.head = str(head)
    again = train.run_evaluation(
        config,
        tmp_path / "eval",
        CachedEvalIterator(config, config.eval.batch_size, 0, 1),
    )
    assert again == results
    config.model.channels = 4
    with pytest.raises(ValueError, match=r"tiny.safetensors does not fit.*has shape"):
        train.run_evaluation(config, tmp_path / "other", [])
    config.eval.head = str(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="eval.head: .*nothing.safetensors"):
        train.run_evaluation(config, tmp_path / "none", [])


def test_a_trained_backbone_makes_no_head(run, tmp_path):
    workdir, _ = run
    path = workdir / "config.json"
    saved = path.read_text()
    path.write_text(json.dumps(json.loads(saved) | {"model.freeze_backbone": False}))
    with pytest.raises(ValueError, match="trained its backbone too"):
        head_file.save_head(tmp_path / "h.safetensors", workdir)
    path.write_text(saved)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"data.feature_cache": "nowhere"}, "'nowhere' holds no finished.*mode=cache"),
        ({"data.rotation_deg": 1.0}, "data.rotation_deg: 45.0 there, 1.0 here"),
        ({"data.rotation_deg": 1.0}, "Remove it and make it again.*mode=cache"),
        ({"model.dtype": "bfloat16"}, "model.dtype: float32 there, bfloat16 here"),
        ({"data.root": "nowhere"}, "data.root='nowhere' holds no manifest.json"),
        ({"model.freeze_backbone": False}, "needs model.freeze_backbone=True"),
        ({"eval.flip_test": True}, "needs eval.flip_test=False"),
        ({"train.batch_size": 4096}, "fewer than train.batch_size=4096"),
    ],
)
def test_errors(config, change, message):
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        CachedTrainIterator(config, config.train.batch_size, 0, 1)


def test_a_data_set_built_anew_needs_another_cache(config, tmp_path):
    """Wherever it lies: the manifest has its shards' checksums."""
    config = config.copy_and_resolve_references().unlock()
    manifest = (Path(config.data.root) / "manifest.json").read_text()
    config.data.root = str(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest)
    assert len(CachedEvalIterator(config, 4, 0, 1))
    (tmp_path / "manifest.json").write_text(manifest.replace("sha256", "sha-256"))
    with pytest.raises(
        ValueError, match=r"data.root/manifest.json: \w+ there, \w+ her"
    ):
        CachedEvalIterator(config, 4, 0, 1)


def test_weights_are_known_by_their_values(config, run, tmp_path):
    """A run's checkpoint and the folder of an import, changed in place."""
    config = config.copy_and_resolve_references().unlock()

    def identity(folder):
        config.model.backbone_weights = str(folder)
        return feature_cache.describe_source(config)["model.backbone_weights"]

    workdir, _ = run
    config.model.backbone_weights = str(workdir)
    values = setup_run.load_backbone_variables(config)
    save_backbone(tmp_path / "weights", values, {"arch": "hrnet_w4"})
    assert identity(workdir) == identity(tmp_path / "weights")
    shutil.rmtree(tmp_path / "weights")
    values["params"] = jax.tree.map(lambda x: 1.001 * x, values["params"])
    save_backbone(tmp_path / "weights", values, {"arch": "hrnet_w4"})
    assert identity(workdir) != identity(tmp_path / "weights")
    with pytest.raises(
        ValueError, match=r"model.backbone_weights: 'random' of seed 0 "
    ):
        CachedEvalIterator(config, 4, 0, 1)


def test_a_finished_cache_is_not_overwritten(config):
    with pytest.raises(ValueError, match="holds a feature cache already"):
        feature_cache.write_cache(config, *iterators(config))
