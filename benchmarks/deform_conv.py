"""Modulated deformable convolution, forward and backward, on CPU.

    python -m benchmarks.deform_conv [--rounds=7]

[4, 96, 72, 48] (NHWC), 3x3, 12 groups, dilation 3, float32; gradients of input, offsets,
modulation and kernel. The peer is `torchvision.ops.deform_conv2d` where torchvision can
be imported, else the plain PyTorch form of the exported module; two threads.
"""

import numpy as np

from benchmarks import common, peers

BATCH, HEIGHT, WIDTH, CHANNELS, GROUPS, DILATION = 4, 96, 72, 48, 12, 3


def main() -> None:
    flags = common.parse_rounds(__doc__, 7)
    common.pin_cores()
    import jax
    import jax.numpy as jnp
    import torch

    from tdpose_jax.interop.torch_template import tdmi_torch
    from tdpose_jax.models.deform_conv import modulated_deform_conv

    torch.set_num_threads(common.CORES)
    rng = np.random.default_rng(0)
    grid = (BATCH, HEIGHT, WIDTH)
    x = rng.standard_normal((*grid, CHANNELS), np.float32)
    offsets = 2 * rng.standard_normal((*grid, GROUPS, 9, 2), np.float32)
    modulation = rng.random((*grid, GROUPS, 9), np.float32)
    kernel = rng.standard_normal((3, 3, CHANNELS, CHANNELS), np.float32) / 20
    cotangent = rng.standard_normal((*grid, CHANNELS), np.float32)
    arrays = [jnp.asarray(a) for a in (x, offsets, modulation, kernel)]

    @jax.jit
    def forward(*arrays):
        return modulated_deform_conv(*arrays, DILATION)

    @jax.jit
    def gradients(*arrays):
        y, pull = jax.vjp(lambda *a: modulated_deform_conv(*a, DILATION), *arrays)
        return y, pull(cotangent)

    def to_torch(array, shape=None):
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return (tensor if shape is None else tensor.reshape(shape)).requires_grad_()

    theirs = [
        to_torch(x.transpose(0, 3, 1, 2)),
        to_torch(offsets.transpose(0, 3, 4, 5, 1, 2), (BATCH, -1, HEIGHT, WIDTH)),
        to_torch(modulation.transpose(0, 3, 4, 1, 2), (BATCH, -1, HEIGHT, WIDTH)),
        to_torch(kernel.transpose(3, 2, 0, 1)),
    ]
    their_cotangent = torch.from_numpy(cotangent).permute(0, 3, 1, 2).contiguous()

    def peer_forward():
        with torch.inference_mode():
            return tdmi_torch.deform_conv2d(*theirs, DILATION)

    def peer_gradients():
        y = tdmi_torch.deform_conv2d(*theirs, DILATION)
        return torch.autograd.grad(y, theirs, their_cotangent)

    peers.check_equal(
        np.asarray(forward(*arrays)), peer_forward().permute(0, 2, 3, 1), "forward"
    )
    _, ours = gradients(*arrays)
    peers.check_equal(
        np.asarray(ours[0]), peer_gradients()[0].permute(0, 2, 3, 1), "input gradient"
    )
    peers.check_equal(
        np.asarray(ours[3]), peer_gradients()[3].permute(2, 3, 1, 0), "kernel gradient"
    )
    has_torchvision = tdmi_torch._torchvision_deform_conv2d is not None
    details = dict(
        input=list(x.shape),
        groups=GROUPS,
        peer_is="torchvision" if has_torchvision else "plain PyTorch (grid_sample)",
    )
    pairs = {
        "deform_conv_forward": (lambda: forward(*arrays), peer_forward),
        "deform_conv_forward_backward": (lambda: gradients(*arrays), peer_gradients),
    }
    rows = []
    for name, (run, peer) in pairs.items():
        contenders = {
            "ours": lambda run=run: jax.block_until_ready(run()),
            "peer": peer,
        }
        watch = common.alternate(contenders, flags.rounds)
        rows.append(common.row_of_times(name, watch, 1.0, **details))
    common.report("Modulated deformable convolution, CPU", rows)


if __name__ == "__main__":
    main()
