"""HiEve (Human in Events) as downloaded -> `VideoSource`s.

    labels/train/track2&3/<n>.json    annolist of 14 joints; x1 y1 x2 y2: person box
    videos/train/<n>.mp4              or images/train/<n>/000000.jpg, ...

or `annotations/{train,val}/<n>.json` where someone has made a split of his own. The
challenge publishes labels of its 19 training videos only; with the downloaded layout
`VAL_VIDEOS` are held out (our choice: no official validation split exists).
"""

import dataclasses
from pathlib import Path

from data_pipelines.sources import VideoSource, check_split, list_images, missing_source
from tdpose_jax.annotations import AnnotationError, load_annotations

LAYOUT = """  labels/train/track2&3/<n>.json, or annotations/{train,val}/<n>.json
  videos/train/<n>.mp4, or images/train/<n>/000000.jpg, ..."""
LABEL_FOLDERS = ("labels/train/track2&3", "labels/train/track2_3", "labels/train")
VAL_VIDEOS = ("3", "8", "13", "18")
VIDEO_SUFFIXES = (".mp4", ".avi")


def read_hieve(source: Path) -> dict[str, list[VideoSource]]:
    """All labelled videos by split.

    Raises:
      AnnotationError: naming file, field and remedy.
    """
    own = {s: f for s in ("train", "val") if (f := source / "annotations" / s).is_dir()}
    if own:
        splits = {split: _read_folder(source, folder) for split, folder in own.items()}
        for split, folder in own.items():
            check_split(splits[split], split, folder)
        return splits
    folder = next(
        (f for n in LABEL_FOLDERS if any((f := source / n).glob("*.json"))), 0
    )
    if not folder:
        raise missing_source(source, "hieve", LAYOUT)
    videos = _read_folder(source, folder)
    splits = {
        "train": [v for v in videos if v.label.name not in VAL_VIDEOS],
        "val": [v for v in videos if v.label.name in VAL_VIDEOS],
    }
    # A part of the download may lack the held-out videos; the rest is still a split.
    return {split: videos for split, videos in splits.items() if videos}


def _read_folder(source: Path, folder: Path) -> list[VideoSource]:
    return [_read_video(source, path) for path in sorted(folder.glob("*.json"))]


def _read_video(source: Path, path: Path) -> VideoSource:
    label = load_annotations(path, "hieve")
    if label.skeleton != "hieve":
        raise AnnotationError(f"{path}: its joints are {label.skeleton}'s, not HiEve's")
    # The challenge's names lack the folder, which would make them ambiguous.
    frames = tuple(
        frame
        if "/" in frame.image_name
        else dataclasses.replace(frame, image_name=f"{path.stem}/{frame.image_name}")
        for frame in label.frames
    )
    label = dataclasses.replace(label, frames=frames)
    for split in ("train", "val"):
        for folder in (source / "images" / split / path.stem, source / path.stem):
            images = list_images(folder)
            if images:
                by_number = {Path(image).stem: folder / image for image in images}
                names = [Path(frame.image_name) for frame in frames]
                paths = tuple(by_number.get(n.stem, folder / n.name) for n in names)
                return VideoSource(label=label, frame_paths=paths)
        for suffix in VIDEO_SUFFIXES:
            video = source / "videos" / split / f"{path.stem}{suffix}"
            if video.is_file():
                paths = tuple(Path(f"{i:06d}.jpg") for i in range(len(frames)))
                return VideoSource(label=label, frame_paths=paths, video=video)
    raise AnnotationError(
        f"{path}: no frames for it; expected "
        f"{source / 'videos' / 'train' / (path.stem + '.mp4')} or "
        f"{source / 'images' / 'train' / path.stem}/"
    )
