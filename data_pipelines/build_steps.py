"""The steps of a build: read, decode videos, plan windows, stage labels, clean up."""

import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.detections import attach_detections, load_detections
from data_pipelines.execution import run_jobs
from data_pipelines.frames import extract_video
from data_pipelines.hieve import read_hieve
from data_pipelines.jhmdb import read_jhmdb
from data_pipelines.manifest import MANIFEST, load_manifest
from data_pipelines.posetrack import read_posetrack
from data_pipelines.shards import file_sha256
from data_pipelines.sources import VideoSource
from data_pipelines.windows import Window, detection_windows, label_windows
from tdpose_jax.annotations import AnnotationError, SequenceLabel, save_posetrack18

DATASETS = ("posetrack17", "posetrack18", "posetrack21", "hieve", "jhmdb", "synthetic")
EVALUATION_SPLITS = ("val", "test")
# Unfinished work: receipts of shards, decoded videos, staged label files, the lock.
SCRATCH = ".build"

Splits = dict[str, list[VideoSource]]
Notes = list[tuple[str, str]]
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What to build, and how.

    Attributes:
      dataset: one of DATASETS.
      source: folder as the data set's reader documents it.
      window_delta: frames kept on each side of the keyframe.
      boxes: detector's box file; adds `val_detections` (and `test_detections`).
      shard_megabytes: wanted size of a shard.
      split_index: JHMDB's split, 1 to 3.
      workers: processes; does not change the bytes.
      beam_arguments: not None: Beam writes the shards; does not change the bytes.
    """

    dataset: str
    source: Path
    output: Path
    window_delta: int = 2
    boxes: Path | None = None
    shard_megabytes: float = 128.0
    split_index: int = 1
    workers: int = 1
    beam_arguments: tuple[str, ...] | None = None


def check_options(options: BuildOptions) -> None:
    """Raises AnnotationError naming the flag."""
    if options.dataset not in DATASETS:
        raise AnnotationError(
            f"--dataset={options.dataset}: choose one of {', '.join(DATASETS)}"
        )
    if options.window_delta < 0:
        raise AnnotationError(f"--window_delta={options.window_delta}: is negative")
    if options.shard_megabytes <= 0:
        raise AnnotationError(
            f"--shard_megabytes={options.shard_megabytes:g}: must be positive"
        )
    if options.output.absolute() == options.source.absolute():
        raise AnnotationError(f"--output={options.output}: is the source folder too")


def read_source(options: BuildOptions) -> Splits:
    """The sequences of each split.

    Raises:
      AnnotationError: naming file, field and remedy.
    """
    source = options.source.absolute()
    if options.dataset == "jhmdb":
        return read_jhmdb(source, options.split_index)
    if options.dataset == "hieve":
        return read_hieve(source)
    return read_posetrack(source, options.dataset)


def read_boxes(splits: Splits, boxes: Path) -> tuple[Splits, Notes]:
    """Attaches detections to the evaluation splits; splits the file ignores stay bare.

    Raises:
      AnnotationError: if the file is damaged or fits none of the splits.
    """
    detections = load_detections(boxes)
    evaluated = {s: v for s, v in splits.items() if s in EVALUATION_SPLITS}
    flat = [video for videos in evaluated.values() for video in videos]
    attached = iter(attach_detections(flat, detections, boxes))
    out = dict(splits)
    notes = [(boxes.name, f"{n} {reason}") for reason, n in detections.dropped]
    for split, videos in evaluated.items():
        videos = [next(attached) for _ in videos]
        if any(len(rows) for video in videos for rows in video.detections or ()):
            out[split] = videos
    return out, notes


def plan_windows(
    splits: Splits, options: BuildOptions
) -> tuple[dict[str, list[Window]], Notes]:
    """The windows of every split to be written, and what was left out.

    Raises:
      AnnotationError: if a split other than an unlabelled `test` has no labelled person.
    """
    out: dict[str, list[Window]] = {}
    notes: Notes = []
    for split, videos in splits.items():
        windows = []
        for video in videos:
            found, left_out = label_windows(video, options.window_delta)
            windows += found
            notes += [*left_out, *video.notes]
        if windows:
            out[split] = windows
        elif split != "test":
            raise AnnotationError(
                f"{options.source}: none of the {len(videos)} sequences of split "
                f"{split!r} has a labelled person; check its annotation files"
            )
        if videos[0].detections is not None:
            out[f"{split}_detections"] = [
                w for v in videos for w in detection_windows(v, options.window_delta)
            ]
    return out, notes


def decode_videos(
    splits: Splits, folder: Path, workers: int, progress: Progress
) -> Splits:
    """Decodes every sequence that is a video file into JPEG files below `folder`.

    Shards pick frames in random order, so each video is decoded once, in order.
    """
    jobs = [
        (video.video, folder / split / video.label.name, len(video.frame_paths))
        for split, videos in splits.items()
        for video in videos
        if video.video is not None
    ]
    if not jobs:
        return splits
    ready = 0

    def done(_: int) -> None:
        nonlocal ready
        ready += 1
        progress("decoding videos", ready, len(jobs))

    progress("decoding videos", 0, len(jobs))
    run_jobs(_decode_video, jobs, workers, done)
    return {
        split: [
            video
            if video.video is None
            else dataclasses.replace(
                video,
                frame_paths=tuple(
                    folder / split / video.label.name / path.name
                    for path in video.frame_paths
                ),
            )
            for video in videos
        ]
        for split, videos in splits.items()
    }


def stage_ground_truth(
    splits: Splits, folder: Path, workers: int, progress: Progress
) -> dict[str, str]:
    """Writes `folder`/<split>/<sequence>.json in PoseTrack18's form.

    Returns:
      {"ground_truth/<split>/<sequence>.json": SHA-256}, sorted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    jobs = []
    for split, videos in splits.items():
        (folder / split).mkdir(parents=True)
        for video in videos:
            path = folder / split / f"{video.label.name}.json"
            jobs.append((video.label, path))
    ready = 0

    def done(_: int) -> None:
        nonlocal ready
        ready += 1
        progress("writing labels", ready, len(jobs))

    # Few files are written faster than worker processes start.
    workers = workers if len(jobs) > 200 else 1
    hashes = run_jobs(_save_labels, jobs, workers, done)
    return dict(
        sorted(
            (f"ground_truth/{path.relative_to(folder).as_posix()}", sha256)
            for (_, path), sha256 in zip(jobs, hashes, strict=True)
        )
    )


def existing_manifest(output: Path, dataset: str) -> dict | None:
    """The manifest of a data set already in `output`.

    Raises:
      AnnotationError: if it is another data set's, which must not be overwritten.
    """
    if not (output / MANIFEST).exists():
        return None
    try:
        manifest = load_manifest(output)
    except AnnotationError:
        return None
    if manifest.get("dataset") != dataset:
        raise AnnotationError(
            f"--output={output}: holds the data set {manifest.get('dataset')!r}; "
            "choose another folder or remove that one"
        )
    return manifest


def remove_strays(output: Path, prefix: str, keep: set[str]) -> None:
    """Removes shards of another plan and what killed workers left."""
    for path in output.iterdir():
        name = path.name.removeprefix(".")
        stale = name.startswith(prefix) and ".tfrecord-" in name
        half = path.name.startswith(".") and ".partial-" in name
        if path.is_file() and (half or (stale and path.name not in keep)):
            path.unlink()


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """One build per output folder at a time; the lock dies with the process.

    Raises:
      AnnotationError: if another build holds it.
    """
    (output / SCRATCH).mkdir(parents=True, exist_ok=True)
    handle = os.open(output / SCRATCH / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AnnotationError(
                f"--output={output}: another build is writing there; wait for it"
            ) from error
        yield
    finally:
        os.close(handle)


def _decode_video(job: tuple[Path, Path, int]) -> None:
    extract_video(*job)


def _save_labels(job: tuple[SequenceLabel, Path]) -> str:
    label, path = job
    save_posetrack18(label, path)
    return file_sha256(path)
