"""The one place where a convolution is carried out."""

import jax


def conv2d(x, kernel, stride: int = 1, dilation: int = 1):
    """NHWC, HWIO convolution padded by `dilation * (k - 1) / 2` on every side."""
    pad = dilation * (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
