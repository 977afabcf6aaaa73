"""The one place where a convolution is carried out, and where fusion ends on CPU.

TPU and GPU take XLA's convolution. XLA's CPU backend turns the weight gradient into a
convolution whose window is the whole image, after transposing both operands; there we
write it as matrix products instead (`_weight_gradient`).
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.scheduling_groups import xla_metadata_call

# Values of the input that one round of the weight gradient works on: with its output
# gradient they stay in the second-level cache (1 MB of float32).
_CHUNK_VALUES = 2**18


def conv2d(x, kernel, stride: int = 1, dilation: int = 1):
    """NHWC, HWIO convolution padded by `dilation * (k - 1) / 2` on every side."""
    if jax.default_backend() != "cpu":
        return _xla_conv(x, kernel, stride, dilation)
    if kernel.shape[0] == 1 and stride == 1:
        return jnp.einsum("nhwc,cd->nhwd", x, kernel[0, 0])
    return _cpu_conv(x, kernel, stride, dilation)


def keep(x):
    """`x`, computed once whoever reads it: residual sums pass through here.

    XLA's CPU backend fuses element-wise operations into each of their readers. Down a
    chain of residual blocks every block then sums up all blocks before it, forwards and
    backwards: HRNet-W48's last fusion read 255 arrays, and a forward pass took 624 ms of
    processor time instead of 389. A call that is not inlined ends a fusion;
    `optimization_barrier` is gone by then.
    """
    return x if jax.default_backend() != "cpu" else _kept(x)


# Differentiated by hand: the call's own rules fail inside `jax.checkpoint`.
@jax.custom_vjp
def _kept(x):
    return xla_metadata_call(lambda x: x + 0, inlineable="false")(x)


_kept.defvjp(lambda x: (_kept(x), None), lambda _, gradient: (_kept(gradient),))


def _xla_conv(x, kernel, stride, dilation):
    pad = dilation * (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cpu_conv(x, kernel, stride, dilation):
    return _xla_conv(x, kernel, stride, dilation)


def _cpu_conv_forward(x, kernel, stride, dilation):
    return _xla_conv(x, kernel, stride, dilation), (x, kernel)


def _cpu_conv_backward(stride, dilation, saved, gradient):
    x, kernel = saved
    (input_gradient,) = jax.linear_transpose(
        lambda x: _xla_conv(x, kernel, stride, dilation), x
    )(gradient)
    k = kernel.shape[0]
    return input_gradient, _weight_gradient(x, gradient, k, stride, dilation)


_cpu_conv.defvjp(_cpu_conv_forward, _cpu_conv_backward)


def _weight_gradient(x, gradient, k, stride, dilation):
    """[k, k, C, D]: for each tap, shifted input^T @ gradient, over chunks of images."""
    n, h, w, c = x.shape
    _, out_h, out_w, d = gradient.shape
    pad = dilation * (k - 1) // 2
    per_chunk = max(1, min(n, _CHUNK_VALUES // (h * w * c)))
    while n % per_chunk:
        per_chunk -= 1
    chunks = n // per_chunk
    rows = per_chunk * out_h * out_w

    def taps(x_part, gradient_part):
        padded = jnp.pad(x_part, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        flat_gradient = gradient_part.reshape(rows, d)
        products = []
        for row in range(0, k * dilation, dilation):
            for column in range(0, k * dilation, dilation):
                view = padded[
                    :,
                    row : row + stride * (out_h - 1) + 1 : stride,
                    column : column + stride * (out_w - 1) + 1 : stride,
                ]
                products.append(
                    jax.lax.dot_general(
                        view.reshape(rows, c),
                        flat_gradient,
                        (((0,), (0,)), ((), ())),
                        preferred_element_type=jnp.float32,
                    )
                )
        return jnp.stack(products).reshape(k, k, c, d)

    if chunks == 1:
        return taps(x, gradient).astype(gradient.dtype)

    def add(total, part):
        return total + taps(*part), None

    parts = (
        x.reshape(chunks, per_chunk, h, w, c),
        gradient.reshape(chunks, per_chunk, out_h, out_w, d),
    )
    total, _ = jax.lax.scan(add, jnp.zeros((k, k, c, d), jnp.float32), parts)
    return total.astype(gradient.dtype)
