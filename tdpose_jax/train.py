"""The training loop and the evaluation of a run, in the order in which they happen."""

import logging
import time
from pathlib import Path

import jax
import ml_collections
import numpy as np

from tdpose_jax import evaluate, parallel, predictors, setup_run, steps
from tdpose_jax.checkpoint import (
    FOLDERS,
    CheckpointError,
    Checkpoints,
    latest_step,
    load_variables,
)
from tdpose_jax.interop.head_file import load_head
from tdpose_jax.preemption import Preempted, PreemptionNotice
from tdpose_jax.progress import Profiler, Progress, format_seconds
from tdpose_jax.run_folder import (
    MetricLog,
    check_shared,
    evaluated_steps,
    evaluation_changes,
    open_run_folder,
)
from tdpose_jax.tables import print_results
from tdpose_jax.train_state import init_state

log = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """The loss is not finite; names the step and the terms."""


def run_training(
    config: ml_collections.ConfigDict, workdir: Path, train_iterator, eval_iterator
) -> dict:
    """Trains, or resumes, and evaluates at the end.

    Args:
      train_iterator: endless PoseBatches with `steps_per_epoch`, `state`, `restore`.
      eval_iterator: finite PoseBatches, can be iterated again.

    Returns:
      The final results (see `evaluate.score_predictions`).

    Raises:
      NonFiniteLossError: the last good checkpoint stays, the batch is in `workdir`.
      Preempted: after SIGTERM, when everything is saved.
      CheckpointError, RunFolderError: the folder or the disk is at fault.
    """
    with PreemptionNotice() as notice:
        return _train(config, workdir, train_iterator, eval_iterator, notice)


def _train(config, workdir, train_iterator, eval_iterator, notice) -> dict:
    # --- Folder, model, objective, optimisers ---------------------------------------
    parts = setup_run.make_parts(config, train_iterator.steps_per_epoch)
    open_run_folder(workdir, config, parts.num_steps, latest_step(workdir))
    step_fn = parallel.parallel_train_step(
        steps.make_train_step(
            parts.model,
            parts.auxiliary,
            parts.optimizer,
            parts.auxiliary_optimizer,
            config.loss,
            parallel.AXIS,
        )
    )

    term_norms = None
    if config.train.log_gradient_norms:
        term_norms = parallel.parallel_predict_step(
            steps.make_gradient_norms(
                parts.model, parts.auxiliary, config.loss, parallel.AXIS
            )
        )

    # --- State: (1) resume this run, else (2) start, from backbone weights if given ---
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)

    def initial_state(backbone_variables=None):
        return init_state(
            parts.model,
            parts.auxiliary,
            parts.optimizer,
            parts.auxiliary_optimizer,
            num_frames=2 * config.data.window_delta + 1,
            seed=config.seed,
            backbone_variables=backbone_variables,
        )

    if checkpoints.latest_step is not None:
        # Shapes suffice, and are had sooner than values.
        host_state, input_state = checkpoints.restore(jax.eval_shape(initial_state))
        train_iterator.restore(input_state)
        log.info("resumed at step %d", int(host_state.step))
    else:
        host_state = initial_state(setup_run.load_backbone_variables(config))
    _log_size(host_state)
    step = int(host_state.step)
    check_shared(workdir, step)
    # Of later steps, made and then lost with their checkpoint, nothing is left to keep.
    already_evaluated = {s for s in evaluated_steps(workdir) if s <= step}
    metric_log = MetricLog(workdir, jax.process_index() == 0, step)

    def evaluates_at(step):
        every = config.train.eval_every_steps
        return step == parts.num_steps or (every and step and step % every == 0)

    def evaluate_and_keep(saved) -> dict:
        results = evaluate_state(
            config, workdir, saved.variables, step, parts, eval_iterator, notice
        )
        score = evaluate.headline(results)
        checkpoints.save_if_best(saved, train_iterator.state(), score)
        if step not in already_evaluated:
            metric_log.write(step, {"eval_score": score})
        return results

    results = None
    is_last = step == parts.num_steps
    if evaluates_at(step) and (is_last or step not in already_evaluated):
        # The run ended while it evaluated, or it is complete and asked for again.
        results = evaluate_and_keep(host_state)
    state = parallel.replicate(host_state)
    del host_state

    # --- Loop -----------------------------------------------------------------------
    progress = Progress(config.train.batch_size, parts.num_steps)
    profiler = Profiler(workdir / "tensorboard", config.train.profile_steps)
    pending, interval = None, []

    def read_pending():
        """The metrics of the last step made; raises if they are not finite."""
        nonlocal pending
        if pending is not None:
            try:
                interval.append(_finite_metrics(*pending, workdir))
            except NonFiniteLossError:
                try:
                    checkpoints.wait()  # the last good one may still be under way
                except CheckpointError as error:
                    log.error("%s", error)
                raise
        pending = None

    while step < parts.num_steps:
        profiler.before_step()
        with progress.timed("input"):
            batch = next(train_iterator)
        with progress.timed("device"):
            state, metrics = step_fn(state, parallel.shard(batch))
            step += 1
            # Read the previous step's metrics while the device works on this one.
            read_pending()
        pending = (step, metrics, batch)
        progress.step_done()

        stops = notice.reached(step)
        is_last = step == parts.num_steps
        logs = is_last or step % config.train.log_every_steps == 0
        saves = stops or evaluates_at(step) or step % config.train.save_every_steps == 0
        if logs or saves:  # never save a state whose loss was not finite
            with progress.timed("device"):
                read_pending()
        if saves:
            with progress.timed("save"):
                saved = parallel.unreplicate(state)
                checkpoints.save(saved, train_iterator.state())
        if logs:
            scalars = {k: np.mean([m[k] for m in interval]) for k in interval[0]}
            scalars["learning_rate"] = float(parts.schedule(step))
            if term_norms is not None:  # of this batch, after its update
                with progress.paused():
                    norms = term_norms(state, parallel.shard(batch))
                    scalars |= parallel.unreplicate(norms)
            scalars |= progress.scalars()
            metric_log.write(step, {k: float(v) for k, v in scalars.items()})
            log.info(progress.line(step, scalars))
            interval.clear()
        if stops and not is_last:
            checkpoints.wait()
            profiler.close()
            raise Preempted(step, workdir)
        if evaluates_at(step):
            checkpoints.wait()  # what the evaluation may be killed in is on disk
            with progress.paused():
                results = evaluate_and_keep(saved)

    # --- End ------------------------------------------------------------------------
    profiler.close()
    checkpoints.close()
    metric_log.close()
    return results


def run_evaluation(
    config: ml_collections.ConfigDict, workdir: Path, eval_iterator
) -> dict:
    """Evaluates `eval.head`, or a run's checkpoint, or what was never trained.

    A backbone-only network is thus evaluated straight from imported weights.

    Raises:
      CheckpointError: if there is a run and its checkpoint is missing, damaged or of
        another model.
    """
    open_run_folder(workdir, config)
    parts = setup_run.make_parts(config)
    if config.eval.head:
        variables, step = load_head(
            config.eval.head, setup_run.initial_variables(config, True)
        )
        log.info("evaluating %s, trained for %d steps", config.eval.head, step)
    elif any((workdir / folder).is_dir() for folder in FOLDERS.values()):
        variables, step = load_variables(
            workdir, config.eval.checkpoint, setup_run.variable_shapes(config)
        )
        log.info("evaluating step %d of %s", step, workdir)
    else:
        log.warning("no run in %s; evaluating initial weights", workdir)
        step, variables = 0, setup_run.initial_variables(config)
    return evaluate_state(config, workdir, variables, step, parts, eval_iterator)


def evaluate_state(
    config: ml_collections.ConfigDict,
    workdir: Path,
    variables: dict,
    step: int,
    parts: setup_run.Parts,
    eval_iterator,
    notice: PreemptionNotice | None = None,
) -> dict:
    """Scores host variables, writes results.json, predictions and pictures.

    Args:
      eval_iterator: of `PoseBatch`es, or of keyframes with `eval.share_tolerance`.

    Raises:
      Preempted: between batches, if `notice` says so; the caller has saved the state.
    """
    shares_crops = config.eval.share_tolerance >= 0
    total = len(eval_iterator)
    began = time.perf_counter()

    def progress(done):
        if notice is not None and notice.received:
            raise Preempted(step, workdir)
        if done == total or done % max(1, total // 5) == 0:
            speed = done / (time.perf_counter() - began)
            log.info(
                "evaluated %d/%d %s, %s left",
                done,
                total,
                "keyframes" if shares_crops else "batches",
                format_seconds((total - done) / speed),
            )

    if shares_crops:
        collector = predictors.predict_keyframes(
            config,
            predictors.configured_backend(config, parts.model, variables),
            parts.skeleton,
            eval_iterator,
            progress,
        )
    else:
        collector = evaluate.predict_split(
            predictors.make_predictor(config, parts.model, variables, parts.skeleton),
            eval_iterator,
            progress,
            evaluate.PictureTaker(
                workdir / "pictures",
                config.eval.num_pictures,
                config.loss.heatmap_sigma,
                config.loss.heatmap_encoder,
                parts.skeleton,
            ),
        )
    # Detections are scored against the same annotations as annotated boxes.
    split = config.data.eval_split.removesuffix("_detections")
    results = evaluate.score_predictions(
        collector,
        Path(config.data.root) / "ground_truth" / split,
        parts.skeleton,
        config.eval.metric,
        workdir,
    )
    results |= {"step": step, "seed": config.seed}
    changes = evaluation_changes(workdir, config)
    if changes:  # config.json tells how the run was to be evaluated
        results["evaluated_with"] = changes
    evaluate.save_results(results, workdir / "results.json")
    if jax.process_index() == 0:
        print_results({workdir.name: results})
    return results


def _finite_metrics(step: int, metrics, batch, workdir: Path) -> dict:
    """One step's metrics as floats.

    Raises:
      NonFiniteLossError: if any is not finite; the batch is dumped for inspection.
    """
    values = {k: float(v) for k, v in parallel.unreplicate(metrics).items()}
    bad = [k for k, v in values.items() if not np.isfinite(v)]
    if bad:
        path = workdir / f"bad_batch_step{step}_process{jax.process_index()}.npz"
        raise NonFiniteLossError(
            f"step {step}: {', '.join(bad)} not finite (all terms: {values}). The last "
            f"good checkpoint is kept; {_dump_batch(batch, path)}. A lower "
            "optim.learning_rate or optim.max_grad_norm may help"
        )
    return values


def _dump_batch(batch, path: Path) -> str:
    """Writes the batch; says where it is, or why it is not."""
    arrays = {name: value for name, value in batch.items() if value is not None}
    for stage, value in enumerate(arrays.pop("stage_features", ()), start=1):
        arrays[f"stage{stage}"] = value
    try:
        np.savez_compressed(path, **arrays)
    except OSError as error:
        path.unlink(missing_ok=True)
        return f"the batch could not be written to {path} ({error.strerror})"
    return f"the batch is in {path}"


def _log_size(state) -> None:
    def millions(tree):
        return sum(np.size(x) for x in jax.tree.leaves(tree)) / 1e6

    log.info(
        "%.3f M parameters trained, %.3f M frozen, %.3f M auxiliary",
        millions(state.params),
        millions(state.frozen_params),
        millions(state.auxiliary_params),
    )
