"""main.py with plain gradient descent, for comparing layouts of devices.

Adam divides by the gradient's size: where a gradient is zero but for rounding, its
update is the sign of that rounding, and two correct layouts part after one step. Under
gradient descent a rounding error stays a rounding error.
"""

import sys
from pathlib import Path

import optax
from absl import app

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import main  # noqa: E402
from tdpose_jax import optim  # noqa: E402

LEARNING_RATE = 1e-3


def gradient_descent(*_args, **_kwargs):
    return optax.sgd(LEARNING_RATE)


if __name__ == "__main__":
    optim.make_optimizer = gradient_descent
    app.run(main.main)
