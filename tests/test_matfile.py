"""Our MATLAB reader against scipy's on sound files, and its errors on damaged ones."""

import numpy as np
import pytest
import scipy.io

from tdpose_jax.annotations import AnnotationError
from tdpose_jax.matfile import load_mat
from tests.real_data import REAL, needs_real


@pytest.mark.parametrize("compressed", [False, True])
def test_every_class_that_labels_use(tmp_path, compressed):
    structs = np.zeros((1, 2), dtype=[("a", object), ("name", object)])
    structs[0, 0] = (np.arange(6.0).reshape(2, 3), "first.jpg")
    structs[0, 1] = (np.zeros((0, 0)), "")
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = np.array([[7]], np.int16), "x"
    path = tmp_path / "a.mat"
    scipy.io.savemat(
        path,
        {"s": structs, "one": {"x": 1.5}, "cells": cells, "u": np.uint8([[1, 2]])},
        do_compression=compressed,
    )
    found = load_mat(path)
    assert [s["name"] for s in found["s"]] == ["first.jpg", ""]
    assert found["s"][0]["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["s"][1]["a"].size == 0
    assert found["one"]["x"].tolist() == [[1.5]]
    assert found["cells"][0].tolist() == [[7]] and found["cells"][1] == "x"
    assert found["u"].tolist() == [[1, 2]]


@needs_real
def test_real_jhmdb_files_equal_scipys(tmp_path):
    paths = sorted((REAL / "jhmdb/joint_positions").glob("*/*/joint_positions.mat"))
    assert len(paths) == 95
    for path in paths[::8]:
        ours, theirs = load_mat(path), scipy.io.loadmat(path)
        for key in ("pos_img", "pos_world", "scale"):
            np.testing.assert_array_equal(ours[key], theirs[key])


def test_damaged_files_raise_the_projects_error(tmp_path):
    good = tmp_path / "good.mat"
    scipy.io.savemat(good, {"x": [{"y": np.arange(5.0)}] * 3}, do_compression=False)
    data = good.read_bytes()
    bad = tmp_path / "bad.mat"
    for cut in range(0, len(data), 7):
        bad.write_bytes(data[:cut])
        if cut == 128:  # a header alone is a file without variables
            continue
        with pytest.raises(AnnotationError, match="bad.mat: is not a readable MATLAB"):
            load_mat(bad)
    with pytest.raises(AnnotationError, match="cannot be read"):
        load_mat(tmp_path / "none.mat")


def test_bomb_of_nested_or_uncountable_elements(tmp_path):
    good = tmp_path / "good.mat"
    scipy.io.savemat(
        good, {"x": np.array([[1.0, 2.0, "a"]], object)}, do_compression=False
    )
    data = bytearray(good.read_bytes())
    at = data.index(np.array([1, 3], "<i4").tobytes())
    data[at : at + 8] = np.array([2**31 - 1, 2**31 - 1], "<i4").tobytes()
    good.write_bytes(bytes(data))
    with pytest.raises(AnnotationError, match="more elements than the file can hold"):
        load_mat(good)
    nested = 1.0
    for _ in range(40):
        nested = {"a": nested}
    scipy.io.savemat(good, {"x": nested})
    with pytest.raises(AnnotationError, match="nested too deeply"):
        load_mat(good)
