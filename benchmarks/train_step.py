"""Training steps at 384x288, float32, on CPU: W48 unfrozen, and TDMI on a frozen W48.

    python -m benchmarks.train_step [--rounds=3]

Ours is `steps.make_train_step` under jit with donated state: normalisation, targets,
forward, objective, backward, Adam, training accuracy. The peer is the exported PyTorch
module with the same objective and Adam (`torch_training`), channels_last, two threads.
As in main.py freed buffers stay with the process, the peer's, too.
The losses of the first step are compared before anything is timed.
"""

import numpy as np

from benchmarks import common, peers
from tdpose_jax import host_memory

# Of the loss of the first step, between frameworks.
MAX_LOSS_DIFFERENCE = 1e-3


def main() -> None:
    flags = common.parse_rounds(__doc__, 3)
    common.pin_cores()
    host_memory.keep_freed_memory()
    rows = [
        measure("hrnet_w48_train_step", flags.rounds, 4, backbone_only=True,
                freeze_backbone=False),
        measure("tdmi_frozen_w48_train_step", flags.rounds, 2),
    ]  # fmt: skip
    common.report("Training step, float32, CPU", rows)


def measure(name: str, rounds: int, batch: int, **model) -> common.Row:
    import jax

    config = peers.w48_config(**model)
    if config.model.backbone_only:
        config.loss.mi_estimator = "none"
        config.data.window_delta = 0
    pair = peers.make_pair(config, common.CORES)
    state, step = start(config, pair)
    # Copied before our first step donates the state.
    peer = make_peer(config, pair, jax.tree.map(np.array, state.auxiliary_params))
    examples = peers.random_batch(config, batch)
    state, metrics = step(state, examples)
    theirs = peers.torch_batch(config, examples)
    loss = float(metrics["loss_model"])
    if "loss_auxiliary" in metrics:
        loss += float(metrics["loss_auxiliary"])
    peer_loss = peer.step(*theirs)
    difference = abs(loss - peer_loss) / abs(peer_loss)
    assert difference < MAX_LOSS_DIFFERENCE, f"{name}: losses {loss}, {peer_loss}"

    def ours():
        nonlocal state
        state, metrics = step(state, examples)
        jax.block_until_ready((state, metrics))

    watch = common.alternate({"ours": ours, "peer": lambda: peer.step(*theirs)}, rounds)
    return common.row_of_times(
        name,
        watch,
        1.0,
        peer_is="PyTorch module, channels_last, 2 threads, same loss and Adam",
        frames=list(examples.frames.shape),
        first_loss=[loss, peer_loss],
    )


def start(config, pair: peers.Pair):
    """TrainState from the pair's weights, and the jitted step."""
    import jax
    import jax.numpy as jnp

    from tdpose_jax import setup_run, steps
    from tdpose_jax.train_state import TrainState, dummy_intermediates

    parts = setup_run.make_parts(config, axis_name=None)
    # A copy: the step donates its state, and the peer reads these weights too.
    params = jax.tree.map(jnp.array, pair.variables["params"])
    frozen = {"backbone": params.pop("backbone")} if parts.model.freeze_backbone else {}
    auxiliary_params = {}
    if parts.auxiliary is not None:
        auxiliary_params = parts.auxiliary.init(
            jax.random.key(1), dummy_intermediates(parts.model)
        )["params"]
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen_params=frozen,
        batch_stats=jax.tree.map(jnp.array, pair.variables["batch_stats"]),
        auxiliary_params=auxiliary_params,
        opt_state=parts.optimizer.init(params),
        auxiliary_opt_state=parts.auxiliary_optimizer.init(auxiliary_params),
    )
    step = steps.make_train_step(
        parts.model,
        parts.auxiliary,
        parts.optimizer,
        parts.auxiliary_optimizer,
        config.loss,
        None,
    )
    return state, jax.jit(step, donate_argnums=0)


def make_peer(config, pair: peers.Pair, auxiliary_params: dict):
    import flax

    from benchmarks.torch_training import TorchTraining

    return TorchTraining(
        pair.net,
        config.model.freeze_backbone,
        flax.traverse_util.flatten_dict(auxiliary_params, sep="."),
        config.loss,
        (config.optim.learning_rate, config.optim.mi_learning_rate),
    )


if __name__ == "__main__":
    main()
