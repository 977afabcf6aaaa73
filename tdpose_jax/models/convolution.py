"""The one place where a convolution is carried out."""

import jax


def conv2d(x, kernel, stride: int = 1, dilation: int = 1):
    """NHWC, HWIO convolution padded by `dilation * (k - 1) / 2` on every side.

    On CPU a 1x1 convolution is a matrix product: XLA's CPU convolution is 2 times
    slower there forwards and 10 times for the weight gradient.
    """
    k = kernel.shape[0]
    if k == 1 and stride == 1 and jax.default_backend() == "cpu":
        return jax.numpy.einsum("nhwc,cd->nhwd", x, kernel[0, 0])
    pad = dilation * (k - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
