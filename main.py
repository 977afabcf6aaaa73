"""Trains or evaluates: python main.py --config=configs/posetrack17.py --workdir=runs/a.

This file only reads flags, joins the other processes if there are any, keeps TensorFlow
off the accelerators, logs the devices and hands over to `tdpose_jax.train`. Exit codes:
0 finished, 1 error, 75 preempted (saved; the same command continues).
"""

import logging
import os
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Config, e.g. configs/posetrack17.py")
flags.DEFINE_string("workdir", None, "Run folder: checkpoints, metrics, results.")
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "cache"],
    "What to do; cache: write the features of a frozen backbone to data.feature_cache.",
)
flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Join other processes: auto if --coordinator is given or SLURM, Open MPI or GKE "
    "started several; on for TPU pods.",
)
flags.DEFINE_string("coordinator", None, "host:port of process 0, if jax cannot know.")
flags.DEFINE_integer("num_processes", None, "Number of processes, likewise.")
flags.DEFINE_integer("process_id", None, "This one's number from 0, likewise.")
flags.DEFINE_integer(
    "heartbeat_seconds", 60, "A process silent for so long counts as dead."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
    """Joins the other processes, runs, and turns errors into exit codes."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    # Says that there is no TPU.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

    import jax

    from tdpose_jax import distributed
    from tdpose_jax.preemption import EXIT_CODE, Preempted
    from tdpose_jax.train import NonFiniteLossError

    # One-line messages for what a user can mend; the rest keeps its traceback.
    user_errors = (ValueError, OSError, NonFiniteLossError)
    if os.environ.get("TDPOSE_TRACEBACK"):
        user_errors = ()
    try:
        distributed.initialize(
            FLAGS.distributed,
            FLAGS.coordinator,
            FLAGS.num_processes,
            FLAGS.process_id,
            FLAGS.heartbeat_seconds,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        run()
    except Preempted as error:
        logging.info("%s", error)
        sys.exit(EXIT_CODE)
    except Exception as error:
        if isinstance(error, user_errors):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            logging.exception("process %d failed", jax.process_index())
        if jax.process_count() > 1:
            distributed.end_after(error, FLAGS.heartbeat_seconds)
        sys.exit(1)


def run():
    """What each process does once all are joined."""
    import jax

    import data_pipelines
    from data_pipelines.input_pipeline import TrainIterator, make_eval_iterator
    from data_pipelines.keyframes import KeyframeIterator
    from tdpose_jax import host_memory, parallel, preemption, setup_run, train
    from tdpose_jax.feature_cache import (
        CachedEvalIterator,
        CachedTrainIterator,
        write_cache,
    )

    data_pipelines.keep_tensorflow_off_accelerators()
    if jax.default_backend() == "cpu":
        host_memory.keep_freed_memory()
    config = FLAGS.config
    if config.train.compilation_cache:
        setup_run.enable_compilation_cache()
    logging.info(
        "process %d of %d, %d devices: %s",
        jax.process_index(),
        jax.process_count(),
        jax.device_count(),
        jax.devices()[0].device_kind,
    )
    workdir = Path(FLAGS.workdir)
    setup_run.check_config(config)
    processes = jax.process_index(), jax.process_count()
    if FLAGS.mode == "cache" and jax.process_count() > 1:
        raise ValueError(
            f"--mode=cache uses all devices of one process, not {jax.process_count()} "
            "processes; start it once, with --distributed=off"
        )
    eval_batch = parallel.per_process_batch(config.eval.batch_size, "eval.batch_size")
    reads_cache = config.data.feature_cache and FLAGS.mode != "cache"
    if reads_cache:
        eval_iterator = CachedEvalIterator(config, eval_batch, *processes)
    elif config.eval.share_tolerance >= 0:
        eval_iterator = KeyframeIterator(
            config.data, config.data.eval_split, *processes
        )
    else:
        eval_iterator = make_eval_iterator(
            config.data, config.data.eval_split, eval_batch, *processes
        )
    if FLAGS.mode == "eval":
        preemption.end_on_sigterm()
        train.run_evaluation(config, workdir, eval_iterator)
        return
    train_batch = parallel.per_process_batch(
        config.train.batch_size, "train.batch_size"
    )
    if reads_cache:
        train_iterator = CachedTrainIterator(config, train_batch, *processes)
    else:
        train_iterator = TrainIterator(
            config.data, config.seed, train_batch, *processes
        )
    if FLAGS.mode == "cache":
        write_cache(config, train_iterator, eval_iterator)
    else:
        train.run_training(config, workdir, train_iterator, eval_iterator)


if __name__ == "__main__":
    app.run(main)
