"""Annotated video on disk -> shards -> batches; the only part that knows TensorFlow."""

import logging
import os

# TensorFlow only decodes pictures here: it need not talk about itself,
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# nor import Keras, and with it pandas and matplotlib: 0.8 s for nothing.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# Nobody has to install what it then misses.
logging.getLogger("tensorflow").addFilter(
    lambda record: "tf_keras" not in str(record.msg)
)


def keep_tensorflow_off_accelerators() -> None:
    """Leaves all of their memory to JAX. Call before anything runs on them."""
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it would warn that there is no other Keras
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
