"""HRNet-W48 and TDMI (W48, window_delta 2) at 384x288, float32, on CPU.

    python -m benchmarks.forward [--rounds=7]

The peer is the exported PyTorch module with the same weights: eval mode, inference_mode,
channels_last, two threads. Outputs are compared before anything is timed.
"""

from benchmarks import common, peers


def main() -> None:
    flags = common.parse_rounds(__doc__, 7)
    common.pin_cores()
    import jax
    import torch

    rows = []
    for name, backbone_only, frames, batches in (
        ("hrnet_w48_forward", True, 1, (1, 4)),
        ("tdmi_w48_keyframe_forward", False, 5, (1,)),
    ):
        config = peers.w48_config(backbone_only=backbone_only)
        pair = peers.make_pair(config, common.CORES)
        variables = jax.device_put(pair.variables)
        run = jax.jit(lambda v, x, net=pair.model: net.apply(v, x, train=False)[0])
        for batch in batches:
            clips = peers.random_clips(batch, frames, config.data.crop_size_hw)
            theirs = peers.to_channels_last(clips)

            def ours(clips=clips, run=run, variables=variables):
                return jax.block_until_ready(run(variables, clips))

            def peer(theirs=theirs, net=pair.net):
                with torch.inference_mode():
                    return net(theirs)

            difference = peers.check_equal(ours(), peer().permute(0, 2, 3, 1), name)
            watch = common.alternate({"ours": ours, "peer": peer}, flags.rounds)
            rows.append(
                common.row_of_times(
                    f"{name}_b{batch}" if len(batches) > 1 else name,
                    watch,
                    1.0,
                    peer_is="PyTorch module, channels_last, 2 threads",
                    input=list(clips.shape),
                    output_difference=difference,
                )
            )
    common.report("Forward pass, float32, CPU", rows)


if __name__ == "__main__":
    main()
