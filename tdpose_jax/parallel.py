"""The outer map of both steps, in one place: `jax.pmap` over `AXIS`.

Moving the project to `jax.jit` + `jax.shard_map` is a change of this file alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def _local_sharding() -> NamedSharding:
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return NamedSharding(mesh, PartitionSpec(AXIS))


def parallel_train_step(step: Callable) -> Callable:
    """step(state, batch) -> (state, metrics), state donated."""
    return jax.pmap(step, axis_name=AXIS, donate_argnums=(0,))


def parallel_predict_step(step: Callable) -> Callable:
    """step(variables or state, batch) -> arrays; nothing is donated."""
    return jax.pmap(step, axis_name=AXIS)


def replicate(tree: Any) -> Any:
    """One copy per local device, [n_local, ...].

    Placed with the sharding that pmap returns: `flax.jax_utils.replicate` places it
    otherwise, and the second step compiles again.
    """
    n = jax.local_device_count()
    sharding = _local_sharding()

    def copy(x):
        # Never an alias of host memory, nor one buffer for several devices: the step
        # donates these buffers, and would write into them.
        x = np.asarray(x)
        return jax.device_put(np.stack([x] * n), sharding, may_alias=False)

    return jax.tree.map(copy, tree)


def unreplicate(tree: Any) -> Any:
    """The first device's copy, as numpy arrays on the host."""
    # A copy: a view would be of a buffer that the next step donates.
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0].copy(), tree)


def shard(batch: Any) -> Any:
    """[n_local * b, ...] host arrays -> [n_local, b, ...] on the devices.

    Raises:
      ValueError: if the batch does not divide by the number of local devices.
    """
    n = jax.local_device_count()
    sharding = _local_sharding()

    def split(x):
        x = np.asarray(x)
        if x.shape[0] % n:
            raise ValueError(
                f"a batch of {x.shape[0]} examples does not divide over {n} local "
                "devices; change train.batch_size or eval.batch_size"
            )
        return jax.device_put(x.reshape(n, x.shape[0] // n, *x.shape[1:]), sharding)

    return jax.tree.map(split, batch)


def per_process_batch(batch_size: int, field: str) -> int:
    """Examples each process contributes to a global batch of `batch_size`.

    Raises:
      ValueError: if it does not divide over all devices.
    """
    devices = jax.device_count()
    if batch_size % devices:
        raise ValueError(
            f"config.{field}={batch_size} is not a multiple of the {devices} devices"
        )
    return batch_size // jax.process_count()
