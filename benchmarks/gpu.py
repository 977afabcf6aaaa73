"""Train step and inference on a GPU in bfloat16, against PyTorch AMP with torch.compile.

    python -m benchmarks.gpu [--rounds=10] [--batch=16]

TDMI on a frozen W48 and W48 unfrozen, 384x288, T = 5. The peer is the exported module:
autocast to bfloat16, channels_last, torch.compile, the same objective and Adam. Model
FLOPs utilisation is that of XLA's own count of the compiled step over `--peak_tflops`.
`--profile=DIR` also writes a TensorBoard profile of three steps. Without a GPU, or with a
PyTorch that sees none, it says so and ends. UNTESTED: written on a machine without one.
"""

import argparse

import numpy as np

from benchmarks import common, peers, train_step

TARGET = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16, help="clips per step")
    parser.add_argument("--peak_tflops", type=float, default=989.0, help="H100: 989")
    parser.add_argument("--profile", help="folder for a TensorBoard profile")
    flags = parser.parse_args()
    import jax

    if jax.default_backend() != "gpu":
        common.skip("GPU", f"jax's default backend is {jax.default_backend()!r}")
        return
    import torch

    if not torch.cuda.is_available():
        common.skip("GPU", "this PyTorch sees no CUDA device to be the peer")
        return
    rows = []
    for name, model in (
        ("tdmi_frozen_w48", {}),
        ("hrnet_w48", {"backbone_only": True, "freeze_backbone": False}),
    ):
        rows += measure(name, flags, model)
    common.report(f"{torch.cuda.get_device_name()}, bfloat16", rows)


def measure(name: str, flags, model: dict) -> list[common.Row]:
    import jax
    import torch

    from tdpose_jax.models.factory import make_model
    from tdpose_jax.steps import normalize_frames

    config = peers.w48_config(**model)
    if config.model.backbone_only:
        config.loss.mi_estimator = "none"
        config.data.window_delta = 0
    config.model.dtype = "bfloat16"
    pair = peers.make_pair(config, common.CORES)
    pair.net.to("cuda", memory_format=torch.channels_last)
    batch = peers.random_batch(config, flags.batch)
    theirs = [tensor.cuda() for tensor in peers.torch_batch(config, batch)]
    batch = jax.device_put(batch)
    details = dict(
        device=torch.cuda.get_device_name(),
        frames=list(batch.frames.shape),
        peer_is="PyTorch AMP bfloat16, channels_last, torch.compile",
    )

    # --- Inference ------------------------------------------------------------------
    network = make_model(config.model)
    variables = jax.device_put(pair.variables)
    run = jax.jit(lambda v, x: network.apply(v, normalize_frames(x), train=False)[0])
    compiled = torch.compile(pair.net)

    def torch_inference():
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            compiled(normalised)
        torch.cuda.synchronize()

    normalised = peers.to_channels_last(np.asarray(normalize_frames(batch.frames)))
    normalised = normalised.cuda()
    watch = common.alternate(
        {
            "ours": lambda: jax.block_until_ready(run(variables, batch.frames)),
            "peer": torch_inference,
        },
        flags.rounds,
        warmup=3,
    )
    rows = [common.row_of_times(f"gpu_{name}_inference", watch, TARGET, **details)]

    # --- Training -------------------------------------------------------------------
    state, step = train_step.start(config, pair)
    peer = train_step.make_peer(
        config, pair, jax.tree.map(np.array, state.auxiliary_params)
    )
    for key, value in peer.auxiliary.items():
        peer.auxiliary[key] = torch.nn.Parameter(value.detach().cuda())
    if peer.auxiliary:
        peer.optimizers[1] = torch.optim.Adam(
            peer.auxiliary.values(), config.optim.mi_learning_rate
        )
    loss = torch.compile(peer.loss)

    def torch_training():
        frames, targets, weight = theirs
        with torch.autocast("cuda", torch.bfloat16):
            value = loss(train_normalize(frames), targets, weight)
        for optimizer in peer.optimizers:
            optimizer.zero_grad(set_to_none=True)
        value.backward()
        for optimizer in peer.optimizers:
            optimizer.step()
        torch.cuda.synchronize()

    def train_normalize(frames):
        from tdpose_jax.interop.torch_template.tdmi_torch import normalize

        return normalize(frames.float() / 255)

    compiled_step = step.lower(state, batch).compile()
    flops = compiled_step.cost_analysis()["flops"]

    def ours():
        nonlocal state
        state, metrics = compiled_step(state, batch)
        jax.block_until_ready((state, metrics))

    watch = common.alternate(
        {"ours": ours, "peer": torch_training}, flags.rounds, warmup=3
    )
    if flags.profile:
        with jax.profiler.trace(flags.profile):
            for _ in range(3):
                ours()
    seconds = watch.median("ours")
    memory = jax.local_devices()[0].memory_stats() or {}
    rows.append(
        common.row_of_times(
            f"gpu_{name}_train_step",
            watch,
            TARGET,
            **details,
            flops_per_step=flops,
            model_flops_utilisation=flops / seconds / (1e12 * flags.peak_tflops),
            peak_bytes=memory["peak_bytes_in_use"] if memory else None,
        )
    )
    return rows


if __name__ == "__main__":
    main()
