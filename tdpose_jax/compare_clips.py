"""Rows of an experiment compared over clips: PCK, per joint, and by speed of motion.

    python -m tdpose_jax.compare_clips --ground_truth=data/jhmdb/ground_truth/val \\
        --runs=runs/jhmdb_tinypose --rows=single_frame,tde,tde_rdm,tdmi,tdmi_st \\
        --table=results/jhmdb_tinypose_clips.csv

reads RUNS/ROW/seedN/predictions, as `tdpose_jax.ablations` leaves them. The first row is
the baseline of every difference. Beside TABLE.csv it writes TABLE.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tdpose_jax.ablation_table import write_csv
from tdpose_jax.metrics.by_clip import (
    ClipErrors,
    bootstrap_difference,
    clip_errors,
    pck_counts,
    speed_thirds,
)
from tdpose_jax.metrics.pck import JHMDB_THRESHOLDS
from tdpose_jax.predictions import load_ground_truth
from tdpose_jax.skeleton import Skeleton, get_skeleton

Seeds = dict[str, list[ClipErrors]]


def load_rows(
    ground_truth_dir: Path, runs: Path, rows: Sequence[str], medians: Sequence[int] = ()
) -> dict[str, Seeds]:
    """Row -> seeds -> clips.

    Args:
      medians: adds the first row's predictions, median filtered over so many frames.

    Raises:
      FileNotFoundError: if a row has no finished run.
    """
    ground_truth = load_ground_truth(ground_truth_dir)
    found = {}
    sources = [(row, row, 1) for row in rows]
    sources += [(f"{rows[0]}, median of {n}", rows[0], n) for n in medians]
    for name, row, frames in sources:
        folders = sorted((runs / row).glob("seed*/predictions"))
        if not folders:
            raise FileNotFoundError(f"no finished run in {runs / row}/seed*")
        found[name] = {
            f.parent.name: clip_errors(ground_truth, load_ground_truth(f), frames)
            for f in folders
        }
    return found


def compare(rows: dict[str, Seeds], skeleton: Skeleton) -> list[dict]:
    """One dict per row and part: all joints, thirds by speed, single joints.

    Keys: row, part, metric, n (seeds), mean and std over seeds; over the seeds shared
    with the first row: difference to it with the bootstrap interval over clips, and the
    least and greatest difference of a seed.
    """
    baseline = next(iter(rows.values()))
    parts = [("all", t, {}) for t in JHMDB_THRESHOLDS]
    finest = min(JHMDB_THRESHOLDS)
    parts += [
        (f"{name} joints", finest, {"speed_range": limits})
        for name, limits in speed_thirds(next(iter(baseline.values())))
    ]
    parts += [(skeleton.joints[j], finest, {"joint": j}) for j in skeleton.evaluated]
    table = []
    for part, threshold, choice in parts:
        base = {
            seed: _counts(clips, threshold, **choice)
            for seed, clips in baseline.items()
        }
        for row, seeds in rows.items():
            counts = {
                seed: _counts(clips, threshold, **choice)
                for seed, clips in seeds.items()
            }
            percents = [_percent(c) for c in counts.values()]
            shared = sorted(counts.keys() & base.keys())
            if not shared:
                raise ValueError(f"row {row} shares no seed with the first row")
            difference, low, high = bootstrap_difference(
                [base[seed] for seed in shared], [counts[seed] for seed in shared]
            )
            paired = [_percent(counts[seed]) - _percent(base[seed]) for seed in shared]
            table.append(
                {
                    "row": row,
                    "part": part,
                    "metric": f"PCK@{threshold}",
                    "n": len(counts),
                    "mean": float(np.mean(percents)),
                    "std": float(np.std(percents, ddof=1))
                    if len(percents) > 1
                    else float("nan"),
                    "difference": difference,
                    "ci_low": low,
                    "ci_high": high,
                    "least_of_a_seed": min(paired),
                    "greatest_of_a_seed": max(paired),
                }
            )
    return table


def _counts(clips, threshold, joint=None, **choice) -> np.ndarray:
    if joint is not None:
        clips = [
            ClipErrors(
                c.name,
                c.distance[:, [joint]],
                c.labeled[:, [joint]],
                c.speed[:, [joint]],
            )
            for c in clips
        ]
    return pck_counts(clips, threshold, **choice)


def _percent(counts: np.ndarray) -> float:
    correct, counted = counts.sum(0)
    return 100.0 * correct / max(counted, 1)


def markdown(table: Sequence[dict]) -> str:
    """The same as a table for people."""
    lines = [
        "| part | metric | row | seeds | mean | std | difference | 95 % over clips "
        "| least, greatest of a seed |",
        "| --- | --- | --- | --: | --: | --: | --: | --- | --- |",
    ]
    for line in table:
        std = "" if line["std"] != line["std"] else f"{line['std']:.2f}"
        lines.append(
            f"| {line['part']} | {line['metric']} | {line['row']} | {line['n']} "
            f"| {line['mean']:.2f} | {std} | {line['difference']:+.2f} "
            f"| {line['ci_low']:+.2f} to {line['ci_high']:+.2f} "
            f"| {line['least_of_a_seed']:+.2f}, {line['greatest_of_a_seed']:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.compare_clips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ground_truth", required=True, type=Path)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--rows", required=True, help="the baseline first")
    parser.add_argument("--table", required=True, type=Path, help="<name>.csv to write")
    parser.add_argument("--medians", default="", help="3,5: filter the first row, too")
    parser.add_argument("--skeleton", default="jhmdb")
    options = parser.parse_args(arguments)
    try:
        medians = [int(n) for n in filter(None, options.medians.split(","))]
        names = options.rows.split(",")
        rows = load_rows(options.ground_truth, options.runs, names, medians)
        table = compare(rows, get_skeleton(options.skeleton))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    write_csv(options.table, table)
    options.table.with_suffix(".md").write_text(markdown(table))
    print(markdown(table))


if __name__ == "__main__":
    main()
