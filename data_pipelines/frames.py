"""Frame files and videos -> JPEG bytes for the records.

JPEG files are kept byte for byte after a check that they are whole; other images and
video frames are encoded at quality 95. Pixels are never resized or rotated (an EXIF
orientation is left alone, as PoseTrack's labels expect).
"""

import secrets
import shutil
import struct
from pathlib import Path

import numpy as np

from data_pipelines.sources import JPEG_SUFFIXES
from tdpose_jax.annotations import AnnotationError

JPEG_QUALITY = 95


class FrameError(Exception):
    """A frame cannot be used; the text is the reason."""


def read_frame(path: Path) -> tuple[bytes, tuple[int, int]]:
    """JPEG bytes of an image file, and its height and width.

    Raises:
      FrameError: if the file is missing, truncated or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"frame missing ({error.strerror})") from error
    if path.suffix.lower() not in JPEG_SUFFIXES:
        data = encode_jpeg(_decode_bgr(data))
    return data, jpeg_size_hw(data)


def jpeg_size_hw(data: bytes) -> tuple[int, int]:
    """Height and width from a JPEG's header, if the file has both its ends.

    Reads markers only, so it costs microseconds and nothing is decoded.

    Raises:
      FrameError: if the bytes are no JPEG or are cut off.
    """
    if data[:2] != b"\xff\xd8":
        raise FrameError("not a JPEG file")
    # Cameras pad with zeros or text after the end marker; a cut-off file has no end
    # marker at all, since 0xFF in the image data is always followed by 0x00.
    if data.rfind(b"\xff\xd9") < max(2, len(data) - 4096):
        raise FrameError("truncated JPEG (no end marker)")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            if height and width:
                return height, width
            break
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        at += 2 + length
    raise FrameError("JPEG without a readable header")


def image_size_hw(path: Path) -> tuple[int, int]:
    """Height and width of an image file.

    Raises:
      AnnotationError: if it cannot be read.
    """
    try:
        return read_frame(path)[1]
    except FrameError as error:
        raise AnnotationError(f"{path}: {error}") from error


def video_size_hw(path: Path) -> tuple[int, int]:
    """Height and width of a video's frames.

    Raises:
      AnnotationError: if it cannot be opened.
    """
    import cv2

    capture = cv2.VideoCapture(str(path))
    size = (
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
    )
    capture.release()
    if min(size) <= 0:
        raise AnnotationError(f"{path}: cannot be opened as a video")
    return size


def encode_jpeg(image_bgr: np.ndarray) -> bytes:
    """Encodes an [H, W, 3] uint8 BGR image at quality 95."""
    import cv2

    ok, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise FrameError("cannot be encoded as JPEG")
    return data.tobytes()


def extract_video(video: Path, folder: Path, num_frames: int) -> None:
    """Decodes the first `num_frames` frames into `folder`/%06d.jpg.

    The frames count as they come: containers lie about their number. A shorter video
    leaves the remaining files missing. The folder appears when it is complete, so an
    interrupted call leaves nothing behind that looks finished; an existing folder is
    kept.
    """
    import cv2

    if folder.is_dir():
        return
    partial = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(8)}")
    partial.mkdir(parents=True)
    capture = cv2.VideoCapture(str(video))
    for i in range(num_frames):
        ok, image_bgr = capture.read()
        if not ok:
            break
        (partial / f"{i:06d}.jpg").write_bytes(encode_jpeg(image_bgr))
    capture.release()
    try:
        partial.rename(folder)
    except OSError:  # another worker was faster
        shutil.rmtree(partial, ignore_errors=True)
        if not folder.is_dir():
            raise


def _decode_bgr(data: bytes) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise FrameError("not a readable image")
    return image
