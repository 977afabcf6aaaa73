"""Every kind of source: the right frames, upright, at the right times, or a clear error."""

import cv2
import numpy as np
import pytest

from tdpose_jax.video.decode import VideoError, open_source
from tests.video.media import set_rotation, write_audio, write_video


def pictures(count=6, size_hw=(32, 48)):
    rng = np.random.default_rng(0)
    # Blocks of 16: survive chroma subsampling and mild compression.
    small = rng.integers(
        0, 256, (count, size_hw[0] // 16, size_hw[1] // 16, 3), np.uint8
    )
    return list(small.repeat(16, 1).repeat(16, 2))


def read(path):
    return list(open_source(path).frames())


def test_lossless_video_gives_its_pixels_and_names(tmp_path):
    images = pictures()
    source = open_source(write_video(tmp_path / "some.clip.mkv", images))
    frames = list(source.frames())
    assert source.name == "some.clip" and source.num_frames in (None, 6)
    assert [f.index for f in frames] == list(range(6))
    assert frames[2].name == "some.clip/000002.jpg"
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame.image_rgb, image)
        assert frame.image_rgb.dtype == np.uint8


def test_variable_frame_rate_keeps_the_times(tmp_path):
    times = [0, 40, 55, 300, 1000, 1001]
    path = write_video(tmp_path / "vfr.mkv", pictures(), pts_ms=times)
    np.testing.assert_allclose([f.time_s for f in read(path)], np.array(times) / 1000)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video_is_shown_upright(tmp_path, degrees):
    path = write_video(tmp_path / "turned.mp4", pictures(), "libx264rgb", "rgb24",
                       options={"crf": "0"})  # fmt: skip
    plain = [f.image_rgb for f in read(path)]
    set_rotation(path, degrees)
    for frame, image in zip(read(path), plain, strict=True):
        np.testing.assert_array_equal(frame.image_rgb, np.rot90(image, -degrees // 90))
    # OpenCV applies the same metadata by its own code.
    ok, theirs = cv2.VideoCapture(str(path)).read()
    assert ok and theirs.shape == frame.image_rgb.shape
    difference = theirs[..., ::-1].astype(int) - read(path)[0].image_rgb
    assert np.abs(difference).mean() < 3


def test_grey_video_has_three_equal_channels(tmp_path):
    grey = [np.repeat(image[..., :1], 3, axis=2) for image in pictures()]
    path = write_video(tmp_path / "grey.mkv", grey, pix_fmt="gray")
    for frame, image in zip(read(path), grey, strict=True):
        np.testing.assert_allclose(frame.image_rgb, image, atol=1)


def test_folder_is_read_in_the_order_of_names(tmp_path):
    images = pictures(3)
    for name, image in zip(("b.png", "a.png", "c.PNG"), images, strict=True):
        cv2.imwrite(str(tmp_path / name), image[..., ::-1])
    (tmp_path / "notes.txt").write_text("no image")
    frames = read(tmp_path)
    assert [f.name.split("/")[1] for f in frames] == ["a.png", "b.png", "c.PNG"]
    np.testing.assert_array_equal(frames[0].image_rgb, images[1])
    np.testing.assert_allclose([f.time_s for f in frames], [0, 0.04, 0.08])


def test_exif_orientation_and_grey_images(tmp_path):
    image = pictures(1)[0]
    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: turn clockwise
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "a.jpg").write_bytes(data.tobytes()[:2] + segment + data.tobytes()[2:])
    cv2.imwrite(str(tmp_path / "b.png"), image[..., 0])
    turned, grey = read(tmp_path)
    assert np.abs(turned.image_rgb.astype(int) - np.rot90(image, -1)).mean() < 4
    np.testing.assert_array_equal(grey.image_rgb, np.repeat(image[..., :1], 3, 2))


def test_cut_off_video_gives_the_frames_it_has(tmp_path):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(10)]
    path = write_video(tmp_path / "cut.mkv", images)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = read(path)
    assert 2 <= len(frames) < 10
    np.testing.assert_array_equal(frames[0].image_rgb, images[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file or folder"),
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (lambda p: p.write_bytes(b"not a video at all" * 99), "not a readable video"),
        (lambda p: p.mkdir(), "no images"),
        (write_audio, "no video stream, only audio"),
        (lambda p: write_audio(p, cover=True), "no video stream, only audio, cover"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, make, message):
    path = tmp_path / "input.mp4"
    make(path)
    with pytest.raises(VideoError, match=message) as error:
        open_source(path)
    assert str(path) in str(error.value)


def test_headers_without_a_frame(tmp_path):
    path = write_video(tmp_path / "a.mkv", pictures())
    data = path.read_bytes()
    start = data.index(b"\x1f\x43\xb6\x75") + 64  # inside the first cluster
    path.write_bytes(data[:start] + bytes(len(data) - start))
    with pytest.raises(VideoError, match="not one frame can be decoded"):
        read(path)


def test_damaged_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(VideoError, match=r"a\.png: not a readable image"):
        _ = read(tmp_path)[0].image_rgb
