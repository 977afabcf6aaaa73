"""Annotated video on disk -> shards -> batches; the only part that knows TensorFlow."""

import os

# TensorFlow only decodes pictures here: it need not talk about itself.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def keep_tensorflow_off_accelerators() -> None:
    """Leaves all of their memory to JAX. Call before anything runs on them."""
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
