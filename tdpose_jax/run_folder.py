"""A run's folder: config.json, environment.txt, metrics.jsonl, results.json."""

import contextlib
import hashlib
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Fields that may differ between a run and its continuation: they change what is logged
# or saved, not what is computed.
FREE_FIELDS = (
    "train.log_every_steps",
    "train.log_gradient_norms",
    "train.eval_every_steps",
    "train.save_every_steps",
    "train.keep_checkpoints",
    "train.profile_steps",
    "train.compilation_cache",
    "train.num_steps",
    "train.num_epochs",
    "data.root",
    "data.max_corrupt_records",
    "model.backbone_weights",
    # How a finished network is run.
    "eval.backend",
    "eval.share_tolerance",
)
# Fields that `--mode=eval` may change besides, and all of `eval`: a trained network can
# be evaluated in any way, on any split. A feature cache has features of one way only.
EVALUATION_FIELDS = (
    "data.eval_split",
    "data.box_score_threshold",
    "data.feature_cache",
    "data.feature_cache_epochs",
)


class RunFolderError(ValueError):
    """The run folder cannot be used. The message says why and what to do."""


def flatten_config(config, prefix: str = "") -> dict:
    """{"model.channels": 48, ...}; tuples as lists, as JSON has them."""
    flat = {}
    for name, value in dict(config).items():
        if isinstance(value, ml_collections.ConfigDict | dict):
            flat |= flatten_config(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def unflatten_config(flat: dict) -> ml_collections.ConfigDict:
    """Inverse of `flatten_config`; lists become tuples again."""
    config = ml_collections.ConfigDict()
    for name, value in flat.items():
        *sections, field = name.split(".")
        node = config
        for section in sections:
            if section not in node:
                node[section] = ml_collections.ConfigDict()
            node = node[section]
        node[field] = tuple(value) if isinstance(value, list) else value
    return config


def open_run_folder(
    workdir: Path,
    config: ml_collections.ConfigDict,
    num_steps: int | None = None,
    reached: int | None = None,
) -> None:
    """Makes the folder, or checks that it belongs to the same config.

    Args:
      num_steps: how long the run is to be trained. None: it is only evaluated; then more
        fields may differ, and what the folder says of the run is kept.
      reached: step of its newest checkpoint, if it has one.

    Raises:
      RunFolderError: if it cannot be written, or holds a run of another config; the
        message lists the differences; or one that was trained for longer; or if
        processes were given different configs.
    """
    evaluates = num_steps is None
    flat = flatten_config(config)
    digest = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).digest()
    digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    different = np.flatnonzero((digests != digests.reshape(-1, 32)[0]).any(-1))
    if different.size:
        raise RunFolderError(
            f"process {different[0]} was started with another config than process 0; "
            "give all of them the same command line and the same code"
        )
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            saved = json.loads(path.read_text())
            differences = [
                f"{name}: {saved[name] if name in saved else '(absent)'} there, "
                f"{flat[name] if name in flat else '(absent)'} here"
                for name in sorted(saved.keys() | flat.keys())
                if name not in FREE_FIELDS
                and not (evaluates and _is_evaluation_field(name))
                and (name not in saved or name not in flat or saved[name] != flat[name])
            ]
            if differences:
                raise RunFolderError(
                    f"{workdir} holds a run of another config; use another --workdir, "
                    "or change back: " + "; ".join(differences)
                )
            if num_steps is not None and reached is not None:
                _check_length(workdir, saved, flat, num_steps, reached)
        if jax.process_index() == 0 and not (evaluates and path.exists()):
            write_json(path, flat)
            (workdir / "environment.txt").write_text(describe_environment())
    except OSError as error:
        raise RunFolderError(
            f"cannot write to the run folder {workdir}: {error.strerror}"
        ) from error


def _is_evaluation_field(name: str) -> bool:
    return name.startswith("eval.") or name in EVALUATION_FIELDS


def _check_length(
    workdir: Path, saved: dict, flat: dict, num_steps: int, reached: int
) -> None:
    """Refuses a run that went on for longer already; warns where lengths do not mix."""
    if reached > num_steps:
        raise RunFolderError(
            f"{workdir} is at step {reached} already, and train.num_steps or "
            f"train.num_epochs asks for {num_steps}; ask for at least {reached}, or "
            "evaluate it as it is with --mode=eval"
        )
    before, now = _length(saved), _length(flat)
    if before != now and flat["optim.schedule"] != "step":
        log.warning(
            "%s was trained to step %d as a run of %s, now it is one of %s: with "
            "optim.schedule=%r the learning rate jumps there, and the result is not that "
            "of a run of %s from the start",
            *(workdir, reached, before, now, flat["optim.schedule"], now),
        )


def _length(flat: dict) -> str:
    steps = flat["train.num_steps"]
    return f"{steps} steps" if steps else f"{flat['train.num_epochs']} epochs"


def evaluation_changes(workdir: Path, config: ml_collections.ConfigDict) -> dict:
    """The fields in which an evaluation differs from the run's own, with their values."""
    path = workdir / "config.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    return {
        name: value
        for name, value in flatten_config(config).items()
        if name in saved and _is_evaluation_field(name) and value != saved[name]
    }


def check_shared(workdir: Path, step: int) -> None:
    """Call on all processes with the step at which each of them found the run.

    Raises:
      RunFolderError: if they differ, which they do where the folder is not shared.
    """
    steps = multihost_utils.process_allgather(np.int32(step)).reshape(-1).tolist()
    if len(set(steps)) > 1:
        raise RunFolderError(
            f"the processes found the run at steps {steps}: {workdir} must be the same "
            "folder, on a shared disk, for all of them"
        )


def describe_environment() -> str:
    """Commit, versions and devices, one a line."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    lines = [
        f"commit {commit}",
        f"python {platform.python_version()}",
        *(f"{name} {metadata.version(name)}" for name in PACKAGES),
        f"devices {jax.device_count()} x {jax.devices()[0].device_kind}",
        f"processes {jax.process_count()}",
        f"machine {platform.machine()}, {os.cpu_count()} cores",
    ]
    return "\n".join(lines) + "\n"


def write_json(path: Path, content) -> None:
    """Atomic: the file is whole or absent. NaN becomes null."""
    _replace_text(path, json.dumps(_null_nan(content), indent=1) + "\n")


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _null_nan(value):
    if isinstance(value, dict):
        return {k: _null_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_null_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value


class MetricLog:
    """Scalars to `metrics.jsonl` and, where TensorFlow is installed, TensorBoard.

    Args:
      active: False on all processes but one; then nothing is written.
      step: where the run starts or goes on. Lines of later steps, from steps that were
        made and then lost, are removed: the file shows every step once.
    """

    def __init__(self, workdir: Path, active: bool, step: int):
        self._path = workdir / "metrics.jsonl"
        self._writer = None
        if not active:
            self._path = None
            return
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        with self._explained():
            text = "".join(json.dumps(line) + "\n" for line in kept)
            _replace_text(self._path, text)
            self._file = self._path.open("a")
        try:
            from clu import metric_writers
        except ImportError:  # no TensorFlow: the model trains without it
            return
        self._writer = metric_writers.AsyncMultiWriter(
            [metric_writers.SummaryWriter(str(workdir / "tensorboard"))]
        )

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Raises: RunFolderError: if the disk refuses."""
        if self._path is None:
            return
        with self._explained():
            self._file.write(json.dumps({"step": step, **_null_nan(scalars)}) + "\n")
            self._file.flush()
        if self._writer is not None:
            self._writer.write_scalars(step, scalars)

    def close(self) -> None:
        """Waits until everything is written."""
        if self._path is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"cannot write {self._path}: {error.strerror}. Checkpoints saved before "
                "are whole; run the same command again when this is mended"
            ) from error


def read_metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl, without one that was cut short by a kill."""
    path = workdir / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def evaluated_steps(workdir: Path) -> set[int]:
    """Steps whose evaluation was finished, its checkpoint kept if it was the best."""
    return {m["step"] for m in read_metrics(workdir) if "eval_score" in m}
