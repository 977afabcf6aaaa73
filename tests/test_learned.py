"""What a run learned: the right numbers reach the pictures and the estimates."""

import jax
import numpy as np
import pytest

from configs import ablations as rows_file
from tdpose_jax import learned, run_folder
from tdpose_jax.interop.export_torch import QUICK_COMPILE
from tdpose_jax.shapes import PoseBatch, encode_sample_ids
from tdpose_jax.skeleton import POSETRACK
from tdpose_jax.steps import normalize_frames
from tdpose_jax.visualize_motion import sampling_points, save_motion_page
from tests.models.tiny import PatchBackbone, init, tiny_tdmi

# In an order that is not that of people and time.
NAMES = ("v/10/0", "v/2/0", "v/2/1", "a/3/0", "v/9/0")


def make_batches(size=3):
    rng = np.random.default_rng(0)
    count = -(-len(NAMES) // size) * size
    ids = [*NAMES, *[""] * (count - len(NAMES))]
    whole = PoseBatch(
        frames=rng.integers(0, 256, (count, 3, 64, 64, 3), np.uint8),
        keypoints_xy_crop=np.zeros((count, 17, 2), np.float32),
        keypoint_weight=np.ones((count, 17), np.float32),
        crop_to_image=np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1)),
        frame_is_real=np.ones((count, 3), bool),
        box_score=np.ones(count, np.float32),
        example_is_real=np.arange(count) < len(NAMES),
        sample_id=encode_sample_ids(ids),
    )
    return [
        PoseBatch(**{k: v[i : i + size] for k, v in whole.items() if v is not None})
        for i in range(0, count, size)
    ]


@pytest.fixture(scope="module")
def examined():
    model = tiny_tdmi(difference_stages=(2, 4)).clone(backbone=PatchBackbone())
    variables = init(model, num_frames=3)
    batches = make_batches()
    found = learned.examine(model, variables, batches, [1, 4])
    frames = np.concatenate([b.frames for b in batches])[: len(NAMES)]
    apply = jax.jit(model.apply, compiler_options=QUICK_COMPILE)
    _, out = apply(variables, normalize_frames(frames))
    return found, out, frames


def test_people_come_in_the_order_of_person_and_time_without_padding(examined):
    found, out, _ = examined
    order = [NAMES.index(n) for n in ("a/3/0", "v/2/0", "v/9/0", "v/10/0", "v/2/1")]
    for name in ("motion_useful", "motion_noisy"):
        expected = np.asarray(out[name]).mean((1, 2))[order]
        np.testing.assert_allclose(found.pooled[name], expected, atol=1e-5)
    expected = np.asarray(out["noisy_gate"])[order, 0, 0]
    np.testing.assert_allclose(found.gates["noisy_gate"], expected, atol=1e-5)


def test_pages_hold_the_clips_that_were_asked_for(examined):
    found, out, frames = examined
    assert list(found.clips) == ["v/2/0", "v/9/0"]
    page = found.clips["v/9/0"]
    np.testing.assert_array_equal(page["frames"], frames[4])
    assert list(page["maps"]) == [
        *("difference 2", "difference 4"),
        *("motion", "motion useful", "motion noisy"),
    ]
    expected = np.abs(out["difference_4"][4]).mean(-1)
    np.testing.assert_allclose(page["maps"]["difference 4"], expected, atol=1e-5)
    offsets, modulation = page["sampling"][2]
    expected = out["sampling_offsets_2"][4]
    np.testing.assert_allclose(offsets, expected, atol=1e-4)
    assert list(page["sampling"]) == [2, 4] and modulation.shape == (16, 16, 2, 9)


def test_sampling_points_by_hand():
    """One offset of 1 down and 2 left at the tap right of the centre."""
    offsets = np.zeros((6, 8, 2, 9, 2))
    offsets[3, 5, 1, 5] = (1.0, -2.0)
    (row, column), taps, moved = sampling_points(np.array([5.2, 2.9]), offsets, 2)
    assert (row, column) == (3, 5)
    assert taps[0].tolist() == [3, 1] and taps[5].tolist() == [7, 3]
    assert moved[0].tolist() == taps.tolist()
    assert moved[1, 5].tolist() == [5, 4]
    (row, column), *_ = sampling_points(np.array([99.0, -4.0]), offsets, 2)
    assert (row, column) == (0, 7)


def test_files_of_a_row_without_a_split(examined, tmp_path):
    """No gates, no estimate; a page all the same, also without deformation."""
    found, *_ = examined
    page = found.clips["v/2/0"] | {"sampling": {}}
    found = learned.Learned(pooled={}, gates={}, clips={"v/2/0": page})
    config = rows_file.get_config("tde_cascade")
    assert learned.write_findings(found, config, tmp_path / "learned", "t") == {}
    names = sorted(path.name for path in (tmp_path / "learned").iterdir())
    assert names == ["information.json", "v_2_0.png"]


def test_pictures_are_written(examined, tmp_path):
    found, *_ = examined
    save_motion_page(
        tmp_path / "page.png",
        **found.clips["v/2/0"],
        deform_dilation=1,
        skeleton=POSETRACK,
        title="t",
    )
    learned.save_gate_picture(
        tmp_path / "gates.png", *found.gates.values(), title="gates"
    )
    for name in ("page.png", "gates.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_runs_without_motion_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        learned.read_config(tmp_path)
    flat = run_folder.flatten_config(rows_file.get_config("single_frame"))
    run_folder.write_json(tmp_path / "config.json", flat)
    with pytest.raises(ValueError, match="no motion to look at"):
        learned.read_config(tmp_path)
