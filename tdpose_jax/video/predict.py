"""Poses of the people in a video.

    python -m tdpose_jax.video.predict VIDEO_OR_FOLDER --checkpoint=DIR --output=DIR \\
        [--boxes=FILE | --detector=FILE.onnx|hog] [--start --end --every] [--trails]

Writes into --output: posetrack18/<name>.json, coco_results.json, poses.csv, overlay.mp4
and report.html. Ctrl-C stops and writes what is done; the same command continues.
"""

import argparse
import dataclasses
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tdpose_jax.backends import BACKENDS
from tdpose_jax.checkpoint import CheckpointError
from tdpose_jax.interop.weights_file import sha256
from tdpose_jax.setup_run import enable_compilation_cache
from tdpose_jax.video import outputs, render, report
from tdpose_jax.video.box_files import load_box_file
from tdpose_jax.video.decode import Source, open_source
from tdpose_jax.video.detect import make_detector
from tdpose_jax.video.estimator import PoseEstimator
from tdpose_jax.video.journal import Journal
from tdpose_jax.video.progress import Progress
from tdpose_jax.video.smooth import smoothed
from tdpose_jax.video.track import Tracker

FORMAT_VERSION = 1
INTERRUPTED = 130  # what shells report after Ctrl-C


class NothingToDoError(ValueError):
    """The range holds no frame, or the box file no box. One line."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line; see `make_parser` for meanings."""

    video: Path
    checkpoint: Path
    output: Path
    boxes: Path | None = None
    detector: str = "hog"
    start: int = 0
    end: int | None = None
    every: int = 1
    batch_size: int = 8
    smoothing: bool = False
    trails: bool = False
    backend: str = "jax"
    share_tolerance: float | None = None


def predict_video(options: Options) -> bool:
    """Runs or continues; True if it came to the end, False if it was interrupted.

    Raises:
      ValueError: one line, for everything a user can mend.
    """
    source = open_source(options.video)
    box_file = None if options.boxes is None else load_box_file(options.boxes)
    detector = None if box_file else make_detector(options.detector)
    estimator = PoseEstimator.load(
        options.checkpoint,
        options.batch_size,
        backend=options.backend,
        share_tolerance=options.share_tolerance,
    )
    journal = Journal(options.output / "frames.jsonl", _made_by(options, estimator))
    tracker = Tracker(estimator.skeleton, frame_step=options.every)
    for people in journal.frames():
        tracker.restore(people)
    start = options.start
    if journal.last is not None:
        start = journal.last.index + options.every
    total = _total(source, options)
    began, before = time.perf_counter(), journal.num_frames
    stop = _StopRequest()
    finished = True
    try:
        with Progress("poses", total, before) as progress:
            for people in estimator.track(
                source,
                box_file,
                detector,
                start,
                options.end,
                options.every,
                tracker,
            ):
                journal.append(people)
                progress.advance()
                if stop.requested:
                    finished = False
                    break
    finally:
        stop.restore()
        journal.close()
    seconds, done = time.perf_counter() - began, journal.num_frames - before
    if not journal.num_frames:
        (options.output / "frames.jsonl").unlink()
        raise NothingToDoError(
            f"{options.video}: no frame in --start={options.start} --end={options.end}"
        )
    if finished and options.boxes and not any(len(p) for p in journal.frames()):
        (options.output / "frames.jsonl").unlink()
        raise NothingToDoError(
            f"--boxes={options.boxes}: no box belongs to a frame of {options.video}; see "
            "docs/video.md for how frames are named and numbered"
        )
    speed = f"{done} frames in {seconds:.1f} s, {done / max(seconds, 1e-9):.1f} fps"
    print(speed if done else "nothing left to compute; writing outputs", flush=True)
    write_outputs(options, source, estimator, journal)
    return finished


def write_outputs(
    options: Options, source: Source, estimator: PoseEstimator, journal: Journal
) -> None:
    """Derives every output from the finished frames."""
    frames = smoothed(journal.frames) if options.smoothing else journal.frames
    skeleton, folder = estimator.skeleton, options.output
    outputs.save_posetrack18_stream(
        frames, folder / "posetrack18" / f"{source.name}.json", skeleton
    )
    outputs.save_coco_results(frames, folder / "coco_results.json", skeleton)
    outputs.save_csv(frames, folder / "poses.csv", skeleton)
    preview = folder / "preview.mp4"
    with Progress("video", journal.num_frames) as progress:
        render.render(
            source,
            frames,
            skeleton,
            folder / "overlay.mp4",
            preview,
            options.trails,
            lambda done: progress.advance(),
        )
    report.save_report(
        frames,
        skeleton,
        preview,
        folder / "report.html",
        f"Poses of {source.name}",
        {
            "video": options.video,
            "network": estimator.loaded.description,
            "joints": f"{skeleton.name}, {skeleton.num_keypoints}",
            "crop": "{} x {} (height x width)".format(*estimator.loaded.crop_size_hw),
            "frames per window": 2 * estimator.window_delta + 1,
            "boxes": options.boxes or f"detector {options.detector}",
            "frames shown": f"{options.start} to {options.end or 'end'}, every {options.every}",
            "smoothing": "One Euro filter" if options.smoothing else "off",
            "backend": options.backend,
            "shared crops": "off"
            if options.share_tolerance is None
            else f"within {options.share_tolerance}",
        },
        why_no_motion(estimator, options.backend),
    )
    print(f"wrote {folder}/report.html, overlay.mp4, poses.csv, coco_results.json, "
          f"posetrack18/{source.name}.json")  # fmt: skip


def why_no_motion(estimator: PoseEstimator, backend: str) -> str:
    """What the report says where no frame has motion maps."""
    if not estimator.window_delta:
        return "This network looks at single frames: it has no motion."
    if not estimator.loaded.model.difference_stages:
        return "This network takes no temporal differences: it has no motion."
    if backend != "jax":
        return (
            f"The {backend} backend returns heatmaps only; --backend=jax shows motion."
        )
    return "Nobody was found: there is no motion to show."


def _made_by(options: Options, estimator: PoseEstimator) -> dict:
    """What decides the poses; --end may be moved to go on further."""
    path = options.video.resolve()
    size = path.stat().st_size if path.is_file() else len(list(path.iterdir()))
    return {
        "format_version": FORMAT_VERSION,
        "video": str(path),
        "video_size": size,
        "checkpoint": _identity(options.checkpoint),
        "network": estimator.loaded.description,
        "boxes": _identity(options.boxes) if options.boxes else None,
        "detector": None if options.boxes else _detector_identity(options.detector),
        "start": options.start,
        "every": options.every,
        "backend": options.backend,
        "share_tolerance": options.share_tolerance,
    }


def _detector_identity(detector: str) -> str:
    return detector if detector == "hog" else _identity(Path(detector))


def _identity(path: Path) -> str:
    """Where it is and, of a file, what is in it: edited, it makes other poses."""
    content = f", sha256 {sha256(path)}" if path.is_file() else ""
    return f"{path.resolve()}{content}"


def _total(source: Source, options: Options) -> int | None:
    ends = [n for n in (source.num_frames, options.end) if n is not None]
    if not ends:
        return None
    return max(0, -(-(min(ends) - options.start) // options.every))


class _StopRequest:
    """The first Ctrl-C asks to stop after the current frame, the next one interrupts."""

    def __init__(self):
        self.requested = False
        try:
            self._old = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not the main thread: its owner handles Ctrl-C
            self._old = None

    def _ask(self, *_):
        self.requested = True
        print("\nstopping; writing what is done", file=sys.stderr, flush=True)
        self.restore()

    def restore(self):
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)


def make_parser() -> argparse.ArgumentParser:
    """The flags of `python -m tdpose_jax.video.predict`."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.video.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("video", type=Path, help="a video file or a folder of images")
    add("--checkpoint", type=Path, required=True, metavar="DIR",
        help="run folder, imported backbone folder, or TinyPose's .npz")  # fmt: skip
    add("--output", type=Path, required=True, metavar="DIR")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--boxes", type=Path, metavar="FILE",
                       help="PoseTrack JSON, COCO results or MOT text")  # fmt: skip
    where.add_argument("--detector", default="hog", metavar="FILE.onnx|hog",
                       help="a YOLOX network, or OpenCV's HOG (default)")  # fmt: skip
    add("--start", type=int, default=0, help="first frame, counted from 0")
    add("--end", type=int, help="frame before which to stop")
    add("--every", type=int, default=1, metavar="N", help="each N-th frame only")
    add("--batch_size", type=int, default=8, help="people per call of the network")
    add("--smoothing", action="store_true", help="One Euro filter on the joints")
    add("--trails", action="store_true", help="draw where hands and feet have been")
    add("--backend", choices=BACKENDS, default="jax",
        help="what runs the network; others than jax on CPUs only")  # fmt: skip
    add("--share_tolerance", type=float, metavar="X",
        help="neighbouring windows share crops that fit this well; see docs/speed.md")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 after a one-line error, 130 after Ctrl-C."""
    parser = make_parser()
    flags = parser.parse_args(arguments)
    for name, least in (("start", 0), ("every", 1), ("batch_size", 1)):
        if getattr(flags, name) < least:
            parser.error(f"--{name}={getattr(flags, name)}: at least {least}")
    if flags.share_tolerance is not None and not flags.share_tolerance >= 0:
        parser.error(f"--share_tolerance={flags.share_tolerance}: at least 0")
    if flags.end is not None and flags.end <= flags.start:
        parser.error(f"--end={flags.end} is not after --start={flags.start}")
    enable_compilation_cache()
    # Orbax warns about metadata that nothing here needs.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        return 0 if predict_video(Options(**vars(flags))) else INTERRUPTED
    except (ValueError, CheckpointError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
