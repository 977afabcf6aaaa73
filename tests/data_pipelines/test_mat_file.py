"""Our reader of MATLAB arrays against scipy's, on whole files."""

import numpy as np
import pytest
import scipy.io

from data_pipelines.mat_file import MatError, read_array
from tests.real_data import REAL, needs_real


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1", "i8"])
def test_whole_files(tmp_path, compressed, dtype):
    array = np.arange(2 * 15 * 3).reshape(2, 15, 3).astype(dtype)
    content = {"other": np.ones(4), "text": "x", "pos_img": array, "s": {"a": 1}}
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, content, do_compression=compressed)
    data = path.read_bytes()
    np.testing.assert_array_equal(read_array(data, "pos_img"), array)
    assert read_array(data, "text") is None and read_array(data, "absent") is None
    scipy.io.savemat(path, {"pos_img": array[:1, :1, :1]}, do_compression=compressed)
    assert read_array(path.read_bytes(), "pos_img").shape == (1, 1, 1)


def test_damage(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"pos_img": np.ones((2, 15, 3))})
    data = path.read_bytes()
    with pytest.raises(MatError, match="no MATLAB 5 header"):
        read_array(data[:100], "pos_img")
    with pytest.raises(MatError, match="beyond the file's end"):
        read_array(data[:-8], "pos_img")
    scipy.io.savemat(path, {"pos_img": np.ones((2, 15, 3))}, do_compression=True)
    data = path.read_bytes()
    with pytest.raises(MatError, match="compressed data is damaged"):
        read_array(data[:150] + b"\xff\xff\xff" + data[153:], "pos_img")


@needs_real
def test_real_files():
    for path in sorted(REAL.glob("jhmdb/joint_positions/*/*/*.mat")):
        expected = scipy.io.loadmat(path)["pos_img"]
        np.testing.assert_array_equal(
            read_array(path.read_bytes(), "pos_img"), expected
        )
