"""Pre-shards annotated video on disk:

    python -m data_pipelines.build --dataset=jhmdb --source=DIR --output=DIR

The output folder is a TFDS data set (`tfds.builder_from_directory(DIR)`) with
`ground_truth/` in PoseTrack18's form for the metrics. It is valid once `manifest.json`
exists, which is written last; a build that was stopped goes on when the same command
runs again. The bytes depend on the source and the options that shape records, not on
`--workers` or `--beam`.
"""

import argparse
import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_pipelines import build_steps as steps
from data_pipelines import tfds_metadata
from data_pipelines.build_steps import BuildOptions, Progress
from data_pipelines.execution import WorkerDied, run_jobs, run_jobs_with_beam
from data_pipelines.manifest import MANIFEST, fingerprint, make_manifest, verify
from data_pipelines.shards import (
    ShardJob,
    ShardResult,
    plan_split,
    to_json,
    write_atomically,
    write_shard,
)
from tdpose_jax.annotations import AnnotationError
from tdpose_jax.skeleton import get_skeleton


def build(options: BuildOptions, progress: Progress = lambda *_: None) -> dict:
    """Builds a data set, or completes an interrupted build.

    Args:
      progress: called with (phase, work done, work in all).

    Returns:
      The manifest.

    Raises:
      AnnotationError: for anything wrong with source or output. A valid data set in
        `output` stays valid until the source has been read.
    """
    steps.check_options(options)
    output = options.output.absolute()
    progress("reading labels", 0, 1)
    splits = steps.read_source(options)
    notes: steps.Notes = []
    if options.boxes is not None:
        splits, notes = steps.read_boxes(splits, options.boxes)
    progress("reading labels", 1, 1)
    existing = steps.existing_manifest(output, options.dataset)
    scratch = output / steps.SCRATCH
    with steps.locked(output):
        splits = steps.decode_videos(
            splits, scratch / "frames", options.workers, progress
        )
        windows, left_out = steps.plan_windows(splits, options)
        skeleton = get_skeleton(next(iter(splits.values()))[0].label.skeleton)
        jobs = [
            job
            for split, members in windows.items()
            for job in plan_split(
                split,
                members,
                prefix=tfds_metadata.tfds_name(options.dataset),
                output=output,
                receipts=scratch / "receipts",
                roots=(options.source.absolute(), scratch / "frames"),
                num_keypoints=skeleton.num_keypoints,
                shard_bytes=int(options.shard_megabytes * 2**20),
            )
        ]
        staged = scratch / "ground_truth"
        labels = steps.stage_ground_truth(splits, staged, options.workers, progress)
        if (
            existing is None
            or existing["source_fingerprint"] != fingerprint(jobs, labels)
            or verify(output)
        ):
            # From here on the folder is no data set until the new manifest is there.
            (output / MANIFEST).unlink(missing_ok=True)
            prefix = tfds_metadata.tfds_name(options.dataset)
            steps.remove_strays(output, prefix, {job.file for job in jobs})
            results = _write_shards(jobs, options, progress)
            existing = make_manifest(
                options.dataset,
                skeleton.name,
                options.window_delta,
                jobs,
                results,
                notes + left_out,
                labels,
            )
            _refuse_empty_splits(existing, options.source)
            shutil.rmtree(output / "ground_truth", ignore_errors=True)
            staged.rename(output / "ground_truth")
            _write_metadata(output, existing, skeleton.num_keypoints)
        shutil.rmtree(scratch)
    return existing


def _write_shards(
    jobs: list[ShardJob], options: BuildOptions, progress: Progress
) -> list[ShardResult]:
    total = sum(job.weight for job in jobs)
    ready = 0

    def done(index: int) -> None:
        nonlocal ready
        ready += jobs[index].weight
        progress("writing shards", ready, total)

    progress("writing shards", 0, total)
    if options.beam_arguments is not None:
        return run_jobs_with_beam(write_shard, jobs, options.beam_arguments)
    return run_jobs(write_shard, jobs, options.workers, done)


def _refuse_empty_splits(manifest: dict, source: Path) -> None:
    for name, split in manifest["splits"].items():
        if not split["num_records"]:
            first = manifest["skipped"][0]
            raise AnnotationError(
                f"{source}: split {name!r} has no usable keyframe; the first of "
                f"{len(manifest['skipped'])} problems is {first['file']}: "
                f"{first['reason']}"
            )


def _write_metadata(output: Path, manifest: dict, num_keypoints: int) -> None:
    features = tfds_metadata.features_json(num_keypoints, manifest["window_delta"])
    info = tfds_metadata.dataset_info_json(manifest["dataset"], manifest["splits"])
    write_atomically(output / "features.json", features)
    write_atomically(output / "dataset_info.json", info)
    write_atomically(output / MANIFEST, to_json(manifest))


def generate_synthetic(source: Path, seed: int, sequences: str, workers: int) -> None:
    """Renders the embedded data set below `source`, unless it is there already.

    Args:
      sequences: numbers of training and validation sequences, as in "80,15".

    Raises:
      AnnotationError: if `sequences` is malformed.
    """
    from data_pipelines import synthetic

    try:
        train, val = (int(count) for count in sequences.split(","))
        if min(train, val) < 1:
            raise ValueError("no sequence")
    except ValueError as error:
        raise AnnotationError(
            f"--sequences={sequences}: expected two positive numbers, training and "
            "validation, as in 80,15"
        ) from error
    arguments = dict(synthetic.DEMO, num_sequences={"train": train, "val": val})
    marker = source / "generated.json"
    stamp = to_json({"seed": seed, **arguments})
    if marker.is_file() and marker.read_bytes() == stamp:
        return
    for folder in ("annotations", "images"):
        shutil.rmtree(source / folder, ignore_errors=True)
    synthetic.generate(source, seed=seed, workers=workers, **arguments)
    write_atomically(marker, stamp)


def describe(manifest: dict) -> str:
    """What was built, for people."""
    lines = []
    for name, split in manifest["splits"].items():
        size = sum(shard["bytes"] for shard in split["shards"]) / 2**20
        lines.append(
            f"{name}: {split['num_records']} keyframes, {split['num_persons']} persons, "
            f"{split['num_sequences']} sequences, {len(split['shards'])} shards, "
            f"{size:.1f} MiB"
        )
    skipped = manifest["skipped"]
    if skipped:
        lines.append(f"left out: {len(skipped)} entries in {MANIFEST}, the first being")
        lines += [f"  {entry['file']}: {entry['reason']}" for entry in skipped[:5]]
    return "\n".join(lines)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar per phase with the time left, on the terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    tasks = {}
    columns = (
        TextColumn("{task.description:>16}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def update(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done, total=total)

        yield update


def parse_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our flags, and those left for Beam."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, required=True, help="data set to write")
    parser.add_argument("--dataset", help=", ".join(steps.DATASETS))
    parser.add_argument("--source", type=Path, help="data set as downloaded")
    parser.add_argument("--window_delta", type=int, default=2, help="frames each side")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--boxes", type=Path, help="detector's boxes: val_detections")
    parser.add_argument("--shard_megabytes", type=float, default=128.0)
    parser.add_argument("--split_index", type=int, default=1, help="jhmdb: 1, 2 or 3")
    parser.add_argument("--seed", type=int, default=0, help="synthetic")
    parser.add_argument(
        "--sequences", default="80,15", help="synthetic: training and validation"
    )
    parser.add_argument(
        "--beam", action="store_true", help="flags not listed here go to Beam"
    )
    parser.add_argument(
        "--verify", action="store_true", help="check --output against its manifest"
    )
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.beam:
        parser.error(f"unknown flag {rest[0]}; flags are {parser.format_usage()}")
    if not arguments.verify and arguments.dataset is None:
        parser.error(f"--dataset is missing: one of {', '.join(steps.DATASETS)}")
    if not arguments.verify and arguments.source is None:
        if arguments.dataset != "synthetic":
            parser.error("--source is missing: the folder with the downloaded data set")
        arguments.source = arguments.output / "source"
    return arguments, rest


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    arguments, rest = parse_arguments(argv)
    start = time.monotonic()
    try:
        if arguments.verify:
            faults = verify(arguments.output)
            print("\n".join(faults) or f"{arguments.output}: all files as built")
            return 1 if faults else 0
        fields = {f.name for f in dataclasses.fields(BuildOptions)}
        options = BuildOptions(
            beam_arguments=tuple(rest) if arguments.beam else None,
            **{k: v for k, v in vars(arguments).items() if k in fields},
        )
        # tfds's lazy imports replace `__import__` while they last, and the bar's thread,
        # which imports as it draws, stumbles over that: have them behind us.
        tfds_metadata.make_features(num_keypoints=1, window_delta=0)
        with progress_bar() as progress:
            if options.dataset == "synthetic":
                progress("rendering", 0, 1)
                generate_synthetic(
                    options.source,
                    arguments.seed,
                    arguments.sequences,
                    options.workers,
                )
                progress("rendering", 1, 1)
            manifest = build(options, progress)
    except (AnnotationError, ImportError, WorkerDied) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(describe(manifest))
    print(f"{options.output}: built in {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
