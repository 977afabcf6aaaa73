"""Makes the video files that the tests read."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np


def write_video(
    path: Path,
    frames,
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    pts_ms=None,
    options: dict | None = None,
) -> Path:
    """Frames [H, W, 3] uint8 RGB at 25 per second or at the given milliseconds."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            picture.pts = 40 * i if pts_ms is None else pts_ms[i]
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path, cover: bool = False) -> Path:
    """A second of silence; `cover`: with a picture, as music has it."""
    import av
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        if cover:
            picture = container.add_stream("png", rate=1)
            picture.width = picture.height = 16
            picture.pix_fmt = "rgb24"
            picture.disposition = Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
            image.pts = 0
            container.mux(picture.encode(image))
            container.mux(picture.encode(None))
        for i in range(15):
            sound = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), "fltp", "mono"
            )
            sound.sample_rate, sound.pts = 16000, 1024 * i
            container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


def set_rotation(path: Path, degrees_clockwise: int) -> Path:
    """Writes the display matrix of an .mp4's track header, as telephones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    assert data[at] == 0  # version 0: 40 bytes before the matrix
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees_clockwise]
    one = 1 << 16
    matrix = (cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    data[at + 40 : at + 76] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path
