"""Scores a folder of predictions against a folder of ground truth.

    python -m tdpose_jax.metrics.score --ground_truth=annotations/val \\
        --predictions=runs/demo/predictions --protocol=poseval --output=scores.json

Prints one row per measure with the benchmark's joint groups as columns, and writes every
per-joint figure. In Python: `tdpose_jax.metrics.protocols.score`.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tdpose_jax.annotations import load_annotations
from tdpose_jax.metrics.person_tables import EvaluationSet, concatenate, pack
from tdpose_jax.metrics.protocols import (
    RULES,
    get_rules,
    group_means,
    score,
    score_packed,
)

__all__ = ["group_means", "load_and_pack", "load_folders", "main", "score"]


def load_and_pack(
    truth_path: Path, prediction_path: Path, protocol: str
) -> tuple[EvaluationSet, str]:
    """Reads one sequence's two files; returns them packed, and the skeleton's name.

    Raises:
      ValueError: naming the file; see `annotations.load_annotations` and
        `person_tables.pack`.
    """
    truth = load_annotations(truth_path)
    guess = load_annotations(prediction_path)
    if guess.skeleton != truth.skeleton and truth.skeleton in ("posetrack", "hieve"):
        # A 2017-form file does not name its joints: read it as the ground truth's.
        guess = load_annotations(prediction_path, joint_ids=truth.skeleton)
    try:
        return pack(truth, guess, get_rules(protocol)), truth.skeleton
    except ValueError as error:
        raise ValueError(f"{prediction_path}: {error}") from None


def load_folders(
    ground_truth: str | Path,
    predictions: str | Path,
    protocol: str,
    num_processes: int | None = None,
) -> tuple[EvaluationSet, str]:
    """Reads files of equal name in two folders, in parallel.

    Args:
      ground_truth: folder of `.json` files (or, if it has none, `.mat` files).
      predictions: folder with a `.json` file for each of them.
      protocol: see `protocols.score`.
      num_processes: all cores by default.

    Returns:
      All sequences packed for `protocols.score_packed`, and the skeleton's name.

    Raises:
      ValueError: one line naming file, and frame where it applies.
    """
    get_rules(protocol)
    folder = Path(ground_truth)
    truth_paths = sorted(folder.glob("*.json")) or sorted(folder.glob("*.mat"))
    if not truth_paths:
        raise ValueError(f"{folder}: no .json or .mat file; give a ground-truth folder")
    guess_paths = [Path(predictions) / f"{path.stem}.json" for path in truth_paths]
    missing = [path for path in guess_paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{missing[0]}: no such prediction ({len(missing)} of {len(guess_paths)} "
            "missing); every ground-truth sequence needs one"
        )
    jobs = (truth_paths, guess_paths, [protocol] * len(truth_paths))
    num_processes = min(num_processes or os.cpu_count() or 1, len(truth_paths))
    if num_processes == 1:
        loaded = [load_and_pack(*job) for job in zip(*jobs, strict=True)]
    else:
        # Forking spares each worker the imports; nothing here has started a thread.
        method = "fork" if sys.platform == "linux" else None
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
            loaded = list(pool.map(load_and_pack, *jobs, chunksize=4))
    return concatenate([data for data, _ in loaded]), loaded[0][1]


def to_json(result: dict) -> str:
    """The result as JSON; NaN, which JSON lacks, becomes null."""

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    return json.dumps(clean(result), indent=2, allow_nan=False) + "\n"


def print_table(result: dict, skeleton: str) -> None:
    """One row per measure, one column per joint group."""
    from rich.console import Console
    from rich.table import Table

    rows = {
        name: group_means(values, skeleton)
        for name, values in result.items()
        if isinstance(values, dict)
    }
    table = Table(
        title=f"{result['protocol']}: {result['num_frames']} frames of "
        f"{result['num_sequences']} sequences"
    )
    table.add_column("percent", no_wrap=True)
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for name, columns in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in columns.values()))
    # Piped output has no width of its own; a log should hold the whole table.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for note in result["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ground_truth", required=True, metavar="DIR")
    parser.add_argument("--predictions", required=True, metavar="DIR")
    parser.add_argument("--protocol", default="poseval", choices=list(RULES))
    parser.add_argument("--output", metavar="FILE.json")
    flags = parser.parse_args(arguments)
    try:
        data, skeleton = load_folders(
            flags.ground_truth, flags.predictions, flags.protocol
        )
        result = score_packed(data, flags.protocol)
        if flags.output:
            Path(flags.output).parent.mkdir(parents=True, exist_ok=True)
            Path(flags.output).write_text(to_json(result))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(result, skeleton)
    return 0


if __name__ == "__main__":
    sys.exit(main())
