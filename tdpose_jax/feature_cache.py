"""Stage features of a frozen backbone, computed once and trained on many times.

    python main.py --mode=cache --config=CONFIG --workdir=runs/any \\
        --config.data.feature_cache=FOLDER

writes the examples of `data.feature_cache_epochs` augmented epochs of the training
split, and of the evaluation split, with their features. Training with the same
`data.feature_cache` then reads those in a new order each epoch: the augmentations are a
fixed set, which is what is given up for leaving the backbone out of every step.

A folder holds `train/` and `eval/`, one `.npy` per field of `PoseBatch`, features as
float16, and `cache.json`, written last, which says what they were computed from.
"""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np

from tdpose_jax import parallel, setup_run
from tdpose_jax.interop.weights_file import flatten, sha256
from tdpose_jax.models.factory import resolve_dtype
from tdpose_jax.progress import format_seconds
from tdpose_jax.run_folder import flatten_config, write_json
from tdpose_jax.shapes import PoseBatch
from tdpose_jax.steps import normalize_frames

log = logging.getLogger(__name__)
# Of the `data` section: what does not change the cached examples. The data set is told
# by its manifest, which has the shards' checksums, wherever it lies.
_FREE_FIELDS = (
    "root",
    "feature_cache",
    "max_corrupt_records",
    "shuffle_segment_shards",
)


class FeatureCacheError(ValueError):
    """The cache is missing, unfinished, or was made from something else."""


def describe_source(config: ml_collections.ConfigDict) -> dict:
    """What the cached arrays depend on: data, augmentation, backbone, its weights.

    Raises:
      FeatureCacheError: if `data.root` holds no built data set.
      FileNotFoundError: if the weights do not exist.
    """
    data = flatten_config(config.data)
    source = {f"data.{k}": v for k, v in data.items() if k not in _FREE_FIELDS}
    manifest = Path(config.data.root) / "manifest.json"
    if not manifest.is_file():
        raise FeatureCacheError(
            f"data.root={config.data.root!r} holds no manifest.json, which says whether "
            "a feature cache is of this data set; build it with data_pipelines.build"
        )
    source["data.root/manifest.json"] = sha256(manifest)
    source["seed"] = config.seed
    source["model.dtype"] = np.dtype(resolve_dtype(config.model.dtype)).name
    source["model.backbone"] = config.model.backbone
    if config.model.backbone == "hrnet":
        source |= flatten_config(config.model.hrnet, "model.hrnet.")
    source["model.backbone_weights"] = _weights_identity(config)
    return source


def _weights_identity(config: ml_collections.ConfigDict) -> str:
    """Of the values, whether they come from a file, an import or a run's checkpoint."""
    variables = setup_run.load_backbone_variables(config, required=False)
    if variables is None:
        return f"{config.model.backbone_weights!r} of seed {config.seed}"
    digest = hashlib.sha256()
    for name, value in sorted(flatten(variables).items()):
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value))
    return digest.hexdigest()


def check_usable(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a config whose features cannot be computed beforehand."""
    for section, field, wanted in (
        ("model", "freeze_backbone", True),
        ("model", "backbone_only", False),
        ("eval", "flip_test", False),
    ):
        if config[section][field] != wanted:
            raise ValueError(
                f"data.feature_cache={config.data.feature_cache!r} holds a frozen "
                f"backbone's features of unmirrored clips: it needs "
                f"{section}.{field}={wanted}"
            )


def write_cache(
    config: ml_collections.ConfigDict, train_iterator, eval_iterator
) -> None:
    """Computes and writes both splits. One process, any number of devices.

    Raises:
      ValueError: if the config's features cannot be cached, or no folder is named.
      FeatureCacheError: if the folder holds a finished cache already.
    """
    check_usable(config)
    folder = Path(config.data.feature_cache)
    if not config.data.feature_cache:
        raise ValueError("data.feature_cache is empty: name the folder to write")
    if (folder / "cache.json").exists():
        raise FeatureCacheError(f"{folder} holds a feature cache already; remove it")
    source = describe_source(config)
    model = setup_run.make_parts(config).model
    variables = setup_run.initial_variables(config, True)
    encode = jax.pmap(
        lambda variables, frames: model.apply(
            variables, normalize_frames(frames), method="encode_clips"
        )[0]
    )
    variables = parallel.replicate(variables)

    def features(batch):
        found = encode(variables, parallel.shard(batch.frames))
        return [np.asarray(f).reshape(-1, *f.shape[2:]) for f in found]

    epochs = config.data.feature_cache_epochs
    count = round(epochs * train_iterator.examples_per_epoch)
    _write_split(folder / "train", train_iterator, features, count)
    _write_split(folder / "eval", eval_iterator, features, eval_iterator.num_examples)
    write_json(folder / "cache.json", source)


def _write_split(folder: Path, batches, features, count: int) -> None:
    """The first `count` examples of `batches` that are not padding."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.memmap] = {}
    done, began = 0, time.perf_counter()
    for batch in batches:
        keep = np.flatnonzero(batch.example_is_real)[: count - done]
        rows = {name: value for name, value in batch.items() if value is not None}
        for stage, value in enumerate(features(batch), start=1):
            largest = float(np.abs(value[keep]).max(initial=0.0))
            if not largest < np.finfo(np.float16).max:
                raise FeatureCacheError(
                    f"stage {stage} features reach {largest:g}, which float16 cannot "
                    "hold; train without data.feature_cache"
                )
            rows[f"stage{stage}"] = value.astype(np.float16)
        for name, value in rows.items():
            if name not in arrays:
                arrays[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy",
                    "w+",
                    value.dtype,
                    (count, *value.shape[1:]),
                )
            arrays[name][done : done + len(keep)] = value[keep]
        before, done = done, done + len(keep)
        if done == count or 10 * done // count > 10 * before // count:
            left = (count - done) * (time.perf_counter() - began) / done
            log.info(
                "%s: %d/%d examples, %s left", folder, done, count, format_seconds(left)
            )
        if done == count:
            break
    for array in arrays.values():
        array.flush()


class _CachedSplit:
    """Rows of a cached split as `PoseBatch`es."""

    def __init__(self, config: ml_collections.ConfigDict, split: str):
        folder = Path(config.data.feature_cache)
        if not (folder / "cache.json").is_file():
            raise FeatureCacheError(
                f"data.feature_cache={str(folder)!r} holds no finished feature cache; "
                "make it with main.py --mode=cache and the same config, or leave the "
                "field empty to compute features in every step"
            )
        check_usable(config)
        made_from = json.loads((folder / "cache.json").read_text())
        wanted = describe_source(config)
        differences = [
            f"{k}: {made_from.get(k)} there, {wanted.get(k)} here"
            for k in sorted(made_from.keys() | wanted.keys())
            if made_from.get(k) != wanted.get(k) and k != "seed"
        ]
        if differences:
            raise FeatureCacheError(
                f"data.feature_cache={str(folder)!r} was made from another config: "
                + "; ".join(differences)
                + ". Remove it and make it again with main.py --mode=cache and this "
                "config, or name another folder"
            )
        self._arrays = {
            path.stem: np.load(path, mmap_mode="r")
            for path in sorted((folder / split).glob("*.npy"))
        }
        self._stages = sorted(n for n in self._arrays if n.startswith("stage"))

    def __len__(self) -> int:
        return len(self._arrays["sample_id"])

    def batch(self, rows: np.ndarray, num_padding: int = 0) -> PoseBatch:
        """The rows, then `num_padding` copies of the last that are not real."""
        index = np.concatenate([rows, np.repeat(rows[-1:], num_padding)])
        fields = {name: array[index] for name, array in self._arrays.items()}
        fields["example_is_real"][len(rows) :] = False
        fields["stage_features"] = tuple(fields.pop(name) for name in self._stages)
        return PoseBatch(**fields)


class CachedTrainIterator:
    """Endless batches of cached examples, each epoch in an order of its own.

    Has the interface of `data_pipelines.input_pipeline.TrainIterator`. Batch i of a
    seed is the same on any number of processes.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        batch_size_per_process: int,
        process_index: int,
        process_count: int,
    ):
        self._split = _CachedSplit(config, "train")
        self._seed = config.seed
        self._global_size = batch_size_per_process * process_count
        first = process_index * batch_size_per_process
        self._rows = slice(first, first + batch_size_per_process)
        self.examples_per_epoch = len(self._split)
        self.steps_per_epoch = self.examples_per_epoch // self._global_size
        if not self.steps_per_epoch:
            raise FeatureCacheError(
                f"{config.data.feature_cache} holds {len(self._split)} training "
                f"examples, fewer than train.batch_size={self._global_size}"
            )
        self.step = 0

    def state(self) -> dict[str, int]:
        """What a checkpoint must hold for `restore`; JSON."""
        return {
            "step": self.step,
            "seed": self._seed,
            "global_batch_size": self._global_size,
            "cached_examples": self.examples_per_epoch,
        }

    def restore(self, state: dict[str, int]) -> None:
        """Raises ValueError if the order of the data would not continue."""
        mine = self.state() | {"step": state["step"]}
        if mine != state:
            raise ValueError(
                f"the input iterator was saved as {state}, this run has {mine}: the "
                "order of the data cannot continue"
            )
        self.step = state["step"]

    def __iter__(self) -> "CachedTrainIterator":
        return self

    def __next__(self) -> PoseBatch:
        epoch, place = divmod(self.step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._split))
        first = place * self._global_size
        rows = order[first : first + self._global_size][self._rows]
        self.step += 1
        return self._split.batch(rows)


class CachedEvalIterator:
    """The cached evaluation split once, in order, the last batch padded."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        batch_size_per_process: int,
        process_index: int,
        process_count: int,
    ):
        self._split = _CachedSplit(config, "eval")
        self.num_examples = len(self._split)
        part = -(-self.num_examples // process_count)
        everything = np.arange(self.num_examples)
        self._mine = everything[process_index * part : (process_index + 1) * part]
        self._size = batch_size_per_process
        self._num_batches = -(-part // self._size)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[PoseBatch]:
        for i in range(len(self)):
            rows = self._mine[i * self._size : (i + 1) * self._size]
            if not len(rows):  # a process without people still takes part
                batch = self._split.batch(np.arange(1), self._size - 1)
                nobody = np.zeros(self._size, bool)
                yield dataclasses.replace(batch, example_is_real=nobody)
                continue
            yield self._split.batch(rows, self._size - len(rows))
