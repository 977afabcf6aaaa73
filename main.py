"""Trains or evaluates: python main.py --config=configs/posetrack17.py --workdir=runs/a.

This file only reads flags, keeps TensorFlow off the accelerators, logs the devices and
hands over to `tdpose_jax.train`.
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
flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
flags.mark_flags_as_required(["config", "workdir"])

# One-line messages for what a user can mend; everything else keeps its traceback.
USER_ERRORS = (ValueError, FileNotFoundError)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import jax
    import tensorflow as tf

    from data_pipelines.input_pipeline import TrainIterator, make_eval_iterator
    from tdpose_jax import parallel, setup_run, train

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
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
    try:
        setup_run.check_config(config)
        eval_iterator = make_eval_iterator(
            config.data,
            config.data.eval_split,
            parallel.per_process_batch(config.eval.batch_size, "eval.batch_size"),
            jax.process_index(),
            jax.process_count(),
        )
        if FLAGS.mode == "eval":
            train.run_evaluation(config, workdir, eval_iterator)
            return
        train_iterator = TrainIterator(
            config.data,
            config.seed,
            parallel.per_process_batch(config.train.batch_size, "train.batch_size"),
            jax.process_index(),
            jax.process_count(),
        )
        train.run_training(config, workdir, train_iterator, eval_iterator)
    except USER_ERRORS as error:
        if os.environ.get("TDPOSE_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
