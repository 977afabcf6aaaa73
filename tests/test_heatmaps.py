"""Encode and decode: golden numbers of the lineage, and round trips."""

import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax import heatmaps as hm

SIZE = (96, 72)


def encode(x, y, encoder="integer", weight=1.0):
    maps, weight = hm.encode_heatmaps(
        np.array([[[x, y]]], np.float32),
        np.array([[weight]], np.float32),
        SIZE,
        3.0,
        encoder,
    )
    return np.asarray(maps)[0, :, :, 0], float(weight[0, 0])


def test_encode_golden():
    maps, weight = encode(144, 192)
    assert np.unravel_index(maps.argmax(), SIZE) == (48, 36)
    assert (maps > 0).sum() == 361 and weight == 1
    assert maps.sum() == pytest.approx(56.382992, abs=1e-4)
    maps, _ = encode(0, 0)
    assert (maps > 0).sum() == 100
    assert maps.sum() == pytest.approx(18.100178, abs=1e-4)
    maps, _ = encode(2, 2)
    assert np.unravel_index(maps.argmax(), SIZE) == (1, 1)
    assert maps.sum() == pytest.approx(27.044054, abs=1e-4)
    maps, _ = encode(1.99, 1.99)
    assert np.unravel_index(maps.argmax(), SIZE) == (0, 0)


def test_encode_at_the_inclusive_border():
    maps, weight = encode(288, 384)
    assert weight == 1
    assert maps[95, 71] == pytest.approx(0.894839, abs=1e-5)
    assert maps.max() == maps[95, 71]


@pytest.mark.parametrize("point", [(-0.1, 10), (10, -0.1), (288.1, 10), (10, 384.1)])
def test_joints_outside_the_crop_have_no_weight(point):
    maps, weight = encode(*point)
    assert weight == 0 and not maps.any()


def test_unannotated_joints_have_no_weight():
    maps, weight = encode(100, 100, weight=0.0)
    assert weight == 0 and not maps.any()


def test_decode_golden():
    """Quarter offset toward the larger neighbour; upper larger moves up."""
    maps = np.zeros((1, *SIZE, 1), np.float32)
    maps[0, 48, 36] = 1.0
    maps[0, 48, 37], maps[0, 47, 36] = 0.5, 0.5
    xy, score = hm.decode_heatmaps(maps)
    np.testing.assert_allclose(xy[0, 0], [36.25, 47.75])
    assert float(score[0, 0]) == 1.0
    # The published example carries this through the affine of box [100, 50, 80, 200].
    side = 0.9375 * 200
    image = np.array([140, 150]) + (np.array(xy[0, 0]) - [36, 48]) * side / 72
    np.testing.assert_allclose(image, [140.65105, 149.34895], atol=1e-4)


@pytest.mark.parametrize("x,y", [(0, 5), (1, 5), (71, 5), (5, 0), (5, 1), (5, 95)])
def test_quarter_decode_leaves_the_border_alone(x, y):
    maps = np.zeros((1, *SIZE, 1), np.float32)
    maps[0, :, x] = 0.25
    maps[0, y, :] = 0.25
    maps[0, y, x] = 1.0
    xy, _ = hm.decode_heatmaps(maps)
    np.testing.assert_array_equal(xy[0, 0], [x, y])


@pytest.mark.parametrize("decoder", hm.DECODERS)
def test_empty_map_decodes_to_zero(decoder):
    xy, score = hm.decode_heatmaps(np.zeros((2, *SIZE, 3)), decoder)
    assert not np.asarray(xy).any() and not np.asarray(score).any()


def test_round_trip_within_a_quarter_pixel():
    points = np.random.default_rng(0).uniform(48, 240, (200, 1, 2)).astype(np.float32)
    ones = np.ones((200, 1), np.float32)
    for encoder, decoder, tolerance in [
        ("integer", "quarter", 0.51),  # the integer peak alone may be half a pixel off
        ("subpixel", "quarter", 0.26),
        ("subpixel", "subpixel", 1e-3),
    ]:
        maps, _ = hm.encode_heatmaps(points, ones, SIZE, 3.0, encoder)
        xy, _ = hm.decode_heatmaps(maps, decoder)
        error = np.abs(np.asarray(xy) - points / 4).max()
        assert error < tolerance, (encoder, decoder, error)


def test_whole_pixel_shift_shifts_the_map():
    a, _ = encode(100.0, 120.0, "subpixel")
    b, _ = encode(104.0, 112.0, "subpixel")
    np.testing.assert_allclose(b[:-2, 1:], a[2:, :-1], atol=1e-6)


def test_flipped_maps_land_on_the_original():
    """Encode a mirrored joint, flip the maps back, decode: the joint itself."""
    x, y = 101.0, 150.0
    mirrored, _ = encode(288 - 1 - x, y, "subpixel")
    maps = jnp.stack([mirrored, jnp.zeros_like(mirrored)], -1)[None]
    back = hm.flip_heatmaps(maps, (1, 0))
    xy, _ = hm.decode_heatmaps(back, "subpixel")
    np.testing.assert_allclose(xy[0, 1] * 4, [x, y], atol=0.15)
    assert not np.asarray(back[..., 0]).any()


def test_unknown_choices_are_named():
    with pytest.raises(ValueError, match="'subpixel', 'quarter'"):
        hm.decode_heatmaps(np.zeros((1, 4, 4, 1)), "dark")
    with pytest.raises(ValueError, match="'subpixel', 'integer'"):
        encode(1, 1, "udp")
