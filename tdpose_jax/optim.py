"""Learning-rate schedules and optimisers, from the `optim` section of a config."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

SCHEDULES = ("step", "cosine")


def make_schedule(
    *,
    learning_rate: float,
    reference_batch: int,
    schedule: str,
    decay_epochs: Sequence[float],
    decay_factor: float,
    warmup_steps: int,
    batch_size: int,
    steps_per_epoch: float,
    num_steps: int,
) -> optax.Schedule:
    """The learning rate at each step; linear in the global batch.

    Raises:
      ValueError: for an unknown schedule.
    """
    peak = learning_rate * batch_size / reference_batch
    if schedule == "step":
        boundaries = {round(e * steps_per_epoch): decay_factor for e in decay_epochs}
        decay = optax.piecewise_constant_schedule(peak, boundaries)
    elif schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, max(num_steps - warmup_steps, 1))
    else:
        raise ValueError(f"optim.schedule={schedule!r}; choose one of {SCHEDULES}")
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    if schedule == "step":  # epochs are counted from the start of training
        return lambda step: jnp.minimum(warmup(step), decay(step))
    return optax.join_schedules([warmup, decay], [warmup_steps])


def make_optimizer(
    schedule: optax.ScalarOrSchedule, weight_decay: float = 0.0, max_norm: float = 0.0
) -> optax.GradientTransformation:
    """Adam; AdamW if there is weight decay; clipped by global norm if asked."""
    adam = (
        optax.adamw(schedule, weight_decay=weight_decay)
        if weight_decay
        else optax.adam(schedule)
    )
    return optax.chain(optax.clip_by_global_norm(max_norm), adam) if max_norm else adam
