"""A video file or a folder of images -> frames in order, one at a time.

Frames come upright: a video's display rotation and a photograph's EXIF orientation are
applied. Grey sources become three equal channels. Timestamps are the container's own,
so a variable frame rate survives.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FOLDER_FRAMES_PER_SECOND = 25.0


class VideoError(ValueError):
    """A source cannot be read. One line that names the file and the reason."""


@dataclasses.dataclass
class Frame:
    """One frame, converted to RGB when first looked at.

    Attributes:
      index: position in the source, from 0.
      time_s: presentation time in seconds.
      name: `<source>/<file name>`; a video's frames are called `<index>.jpg`.
    """

    index: int
    time_s: float
    name: str
    _convert: Callable[[], np.ndarray] | None
    _image_rgb: np.ndarray | None = None

    @property
    def image_rgb(self) -> np.ndarray:
        """[H, W, 3] uint8, upright.

        Raises:
          VideoError: if the image file is damaged.
        """
        if self._image_rgb is None:
            assert self._convert is not None
            self._image_rgb = np.ascontiguousarray(self._convert())
            self._convert = None  # lets the decoder's own picture go
        return self._image_rgb


@dataclasses.dataclass(frozen=True)
class Source:
    """A source that was opened once to see that it can be.

    Attributes:
      path: as given.
      name: file name without suffix, or the folder's name.
      image_names: file names of a folder's frames; None for a video.
      num_frames: exact for a folder; the container's claim for a video, None without.
    """

    path: Path
    name: str
    image_names: tuple[str, ...] | None
    num_frames: int | None

    def frames(self) -> Iterator[Frame]:
        """Decodes from the start. What is not looked at costs no conversion.

        Raises:
          VideoError: if not a single frame can be decoded.
        """
        return _read_video(self) if self.image_names is None else _read_folder(self)


def open_source(path: str | Path) -> Source:
    """Looks at a video file or a folder of images.

    Raises:
      VideoError: absent, empty, without images, no video, or without a video stream.
    """
    path = Path(path)
    name = path.stem if path.is_file() else path.resolve().name
    if path.is_dir():
        names = tuple(
            sorted(p.name for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        )
        if not names:
            raise VideoError(f"{path}: no images ({', '.join(IMAGE_SUFFIXES)}) in it")
        return Source(path, name, names, len(names))
    if not path.is_file():
        raise VideoError(f"{path}: no such file or folder")
    if not path.stat().st_size:
        raise VideoError(f"{path}: the file is empty")
    with _open_container(path) as container:
        stream = _moving_pictures(container)[0]
        count = stream.frames
        if not count and stream.duration and stream.average_rate:
            count = round(stream.duration * stream.time_base * stream.average_rate)
        elif not count and container.duration and stream.average_rate:
            count = round(container.duration / 1e6 * stream.average_rate)
    return Source(path, name, None, count or None)


def _open_container(path: Path):
    import av

    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: not a readable video ({_reason(error)})") from error
    if not _moving_pictures(container):
        kinds = sorted(
            {"cover" if s.type == "video" else s.type for s in container.streams}
        )
        container.close()
        raise VideoError(
            f"{path}: no video stream, only {', '.join(kinds) or 'nothing'}"
        )
    return container


def _moving_pictures(container) -> list:
    """The video streams that are not the cover of a piece of music."""
    from av.stream import Disposition

    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _read_video(source: Source) -> Iterator[Frame]:
    import av

    index, last_error = 0, None
    with _open_container(source.path) as container:
        stream = _moving_pictures(container)[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or FOLDER_FRAMES_PER_SECOND)
        packets = container.demux(stream)
        while True:
            # A damaged packet costs its own frames only; a damaged file ends early.
            try:
                packet = next(packets)
                pictures = packet.decode()
            except StopIteration:
                break
            except av.EOFError:
                break
            except av.FFmpegError as error:
                if last_error is not None and str(error) == str(last_error[0]):
                    repeats = last_error[1] + 1
                else:
                    repeats = 1
                last_error = (error, repeats)
                if repeats > 1000:  # the demuxer does not get past it
                    break
                continue
            for picture in pictures:
                time_s = index / rate if picture.time is None else float(picture.time)
                name = f"{source.name}/{index:06d}.jpg"
                yield Frame(index, time_s, name, _video_converter(picture))
                index += 1
    if not index:
        reason = _reason(last_error[0]) if last_error else "no frame in it"
        raise VideoError(f"{source.path}: not one frame can be decoded ({reason})")


def _video_converter(picture) -> Callable[[], np.ndarray]:
    def convert():
        image = picture.to_ndarray(format="rgb24")
        # The display matrix's angle counts counter-clockwise, as rot90 does.
        return np.rot90(image, round(picture.rotation / 90) % 4)

    return convert


def _read_folder(source: Source) -> Iterator[Frame]:
    for index, file_name in enumerate(source.image_names or ()):
        path = source.path / file_name

        def convert(path=path):
            # imdecode of the bytes: imread prints to stderr and knows no non-ASCII
            # names on some systems. Both apply the EXIF orientation.
            try:
                data = np.frombuffer(path.read_bytes(), np.uint8)
            except OSError as error:
                raise VideoError(f"{path}: cannot be read ({error.strerror})") from None
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
            if image is None:
                raise VideoError(f"{path}: not a readable image")
            return image[..., ::-1]

        time_s = index / FOLDER_FRAMES_PER_SECOND
        yield Frame(index, time_s, f"{source.name}/{file_name}", convert)
