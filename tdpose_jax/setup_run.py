"""From a config to the objects of a run: model, objective, optimisers, weights."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import ml_collections
import optax

from tdpose_jax import evaluate, heatmaps, optim, parallel
from tdpose_jax.backends import BACKENDS
from tdpose_jax.checkpoint import FOLDERS, load_variables
from tdpose_jax.interop.weights_file import load_backbone
from tdpose_jax.losses import AuxiliaryNets
from tdpose_jax.models.factory import make_model
from tdpose_jax.models.tdmi import TDMI
from tdpose_jax.skeleton import Skeleton, get_skeleton
from tdpose_jax.train_state import init_state

RANDOM = "random"


@dataclasses.dataclass
class Parts:
    """What training and evaluation need, built from one config."""

    model: TDMI
    auxiliary: AuxiliaryNets | None
    optimizer: optax.GradientTransformation
    auxiliary_optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    skeleton: Skeleton
    num_steps: int


def check_config(config: ml_collections.ConfigDict) -> Skeleton:
    """Catches what would otherwise fail late, naming field, value and choices.

    Raises:
      ValueError: for fields that contradict each other.
    """
    skeleton = get_skeleton(config.data.skeleton)
    if config.model.num_keypoints != skeleton.num_keypoints:
        raise ValueError(
            f"model.num_keypoints={config.model.num_keypoints}, but "
            f"data.skeleton={skeleton.name!r} has {skeleton.num_keypoints} joints"
        )
    if config.model.backbone == "hrnet" and any(
        side % 32 for side in config.data.crop_size_hw
    ):
        raise ValueError(
            f"data.crop_size_hw={tuple(config.data.crop_size_hw)}: HRNet needs "
            "multiples of 32"
        )
    if config.model.backbone_only and config.model.freeze_backbone:
        raise ValueError(
            "model.backbone_only=True with model.freeze_backbone=True leaves nothing "
            "to train; set model.freeze_backbone=False"
        )
    _check_evaluation(config)
    return skeleton


def _check_evaluation(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for ways to evaluate that do not exist or go together."""
    for field, choices in (
        ("backend", BACKENDS),
        ("metric", evaluate.METRICS),
        ("decoder", heatmaps.DECODERS),
        ("checkpoint", tuple(FOLDERS)),
    ):
        if config.eval[field] not in choices:
            raise ValueError(
                f"eval.{field}={config.eval[field]!r}; choose one of {choices}"
            )
    if config.eval.metric == "pck" and config.data.eval_split.endswith("_detections"):
        raise ValueError(
            f"eval.metric='pck' with data.eval_split={config.data.eval_split!r}: PCK "
            "compares annotated people, and a detection is of nobody known; choose "
            f"{config.data.eval_split.removesuffix('_detections')!r}, or another metric "
            f"of {evaluate.METRICS}"
        )
    shares_crops = config.eval.share_tolerance >= 0
    if shares_crops and (
        config.model.backbone_only
        or not (config.model.difference_stages or config.model.spatio_temporal)
    ):
        raise ValueError(
            f"eval.share_tolerance={config.eval.share_tolerance}: a single-frame "
            "network has no windows that could share crops; set it to -1.0"
        )
    if config.data.feature_cache and (shares_crops or config.eval.backend != "jax"):
        raise ValueError(
            "data.feature_cache holds features of the jax backend and of every "
            "window's own crop; set eval.backend='jax' and eval.share_tolerance=-1.0"
        )


def make_parts(
    config: ml_collections.ConfigDict,
    steps_per_epoch: float = 1.0,
    axis_name: str | None = parallel.AXIS,
) -> Parts:
    """Builds everything that has no state.

    Args:
      axis_name: None where the steps are jitted rather than pmapped (notebooks).
    """
    skeleton = check_config(config)
    optim_fields = dict(config.optim)
    mi_learning_rate = optim_fields.pop("mi_learning_rate")
    weight_decay = optim_fields.pop("weight_decay")
    max_norm = optim_fields.pop("max_grad_norm")
    num_steps = config.train.num_steps or round(
        config.train.num_epochs * steps_per_epoch
    )
    schedule = optim.make_schedule(
        **optim_fields,
        batch_size=config.train.batch_size,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
    )
    auxiliary = None
    if config.loss.mi_estimator != "none":
        auxiliary = AuxiliaryNets(
            num_keypoints=config.model.num_keypoints,
            channels=config.model.channels,
            mi_hidden=config.loss.mi_hidden,
        )
    return Parts(
        model=make_model(config.model, axis_name, config.train.remat_backbone),
        auxiliary=auxiliary,
        optimizer=optim.make_optimizer(schedule, weight_decay, max_norm),
        auxiliary_optimizer=optim.make_optimizer(mi_learning_rate),
        schedule=schedule,
        skeleton=skeleton,
        num_steps=num_steps,
    )


def load_backbone_variables(
    config: ml_collections.ConfigDict, required: bool = True
) -> dict[str, Any] | None:
    """The weights `model.backbone_weights` names: an import, an `.npz`, or a run.

    Args:
      required: a frozen backbone without weights is an error, as it is to training.

    Raises:
      ValueError: if a frozen backbone has no weights.
      FileNotFoundError: if the path does not exist.
    """
    source = config.model.backbone_weights
    if source in ("", RANDOM):
        if required and source == "" and config.model.freeze_backbone:
            raise ValueError(
                "model.freeze_backbone=True needs model.backbone_weights: a folder "
                "that `python -m tdpose_jax.interop.import_weights` wrote, a run "
                "folder, or TinyPose's .npz. To train the backbone too, set "
                "model.freeze_backbone=False; 'random' freezes a random one"
            )
        return None
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"model.backbone_weights: {path} does not exist")
    if any((path / folder).is_dir() for folder in FOLDERS.values()):
        variables, _ = load_variables(path)
        return {
            "params": variables["params"]["backbone"],
            "batch_stats": variables["batch_stats"].get("backbone", {}),
        }
    return load_backbone(path)


def initial_variables(
    config: ml_collections.ConfigDict, required: bool = False
) -> dict[str, Any]:
    """{"params", "batch_stats"} at step 0, with the backbone's weights if named.

    Args:
      required: see `load_backbone_variables`.
    """
    return _variables(config, load_backbone_variables(config, required))


def variable_shapes(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """As `initial_variables`, but shapes only; needs no weights."""
    return jax.eval_shape(lambda: _variables(config, None))


def _variables(config, backbone_variables):
    parts = make_parts(config)
    return init_state(
        parts.model,
        None,
        parts.optimizer,
        parts.auxiliary_optimizer,
        num_frames=2 * config.data.window_delta + 1,
        seed=config.seed,
        backbone_variables=backbone_variables,
    ).variables


def enable_compilation_cache() -> None:
    """Keeps compiled steps in $XDG_CACHE_HOME/tdpose, so that a second start is short."""
    import os

    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tdpose" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
