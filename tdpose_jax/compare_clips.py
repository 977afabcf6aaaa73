"""Rows of an experiment compared over clips: PCK, per joint, and by speed of motion.

    python -m tdpose_jax.compare_clips --ground_truth=data/jhmdb/ground_truth/val \\
        --runs=runs/jhmdb_tinypose --rows=single_frame,tde,tde_rdm,tdmi,tdmi_st \\
        --medians=3,5 --oracles=5:1,5:3 --table=results/jhmdb_tinypose_clips.csv

reads RUNS/ROW/seedN/predictions, as `tdpose_jax.ablations` leaves them. The first row is
the baseline of every difference, and of its wrong joints the table says how many are
wrong throughout their clip and how many come and go. Beside TABLE.csv it writes TABLE.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tdpose_jax.ablation_table import read_environment, write_csv
from tdpose_jax.ablations import config_hash
from tdpose_jax.metrics.by_clip import (
    ClipErrors,
    bootstrap_difference,
    clip_errors,
    pck_counts,
    speed_thirds,
    worst_first,
    wrong_joint_shares,
)
from tdpose_jax.metrics.pck import JHMDB_THRESHOLDS
from tdpose_jax.predictions import load_ground_truth
from tdpose_jax.skeleton import Skeleton, get_skeleton

Seeds = dict[str, list[ClipErrors]]
# What `wrong_joint_shares` counts.
WRONG_JOINTS = (
    "bias: wrong in most of the clip's frames",
    "flicker: right within two frames",
)


def load_rows(
    ground_truth_dir: Path,
    runs: Path,
    rows: Sequence[str],
    medians: Sequence[int] = (),
    oracles: Sequence[tuple[int, int]] = (),
) -> dict[str, Seeds]:
    """Row -> seeds -> clips.

    Args:
      medians: adds the first row's predictions, median filtered over so many frames.
      oracles: the same along the labels' motion: `median_frames` and `motion_frames`
        of `clip_errors`.

    Raises:
      FileNotFoundError: if a row has no finished run.
    """
    ground_truth = load_ground_truth(ground_truth_dir)
    found = {}
    for name, row, *filtered in _sources(rows, medians, oracles):
        folders = sorted((runs / row).glob("seed*/predictions"))
        if not folders:
            raise FileNotFoundError(f"no finished run in {runs / row}/seed*")
        found[name] = {
            f.parent.name: clip_errors(ground_truth, load_ground_truth(f), *filtered)
            for f in folders
        }
    return found


def _sources(
    rows: Sequence[str], medians: Sequence[int], oracles: Sequence[tuple[int, int]]
) -> list[tuple[str, str, int, int]]:
    """(name in the table, row whose runs it reads, *arguments of `clip_errors`)."""
    first = rows[0]
    found = [(row, row, 1, 0) for row in rows]
    found += [(f"{first}, median of {n}", first, n, 0) for n in medians]
    for n, motion in oracles:
        name = f"{first}, median of {n} along the label"
        name += f" averaged over {motion}" if motion > 1 else ""
        found.append((name, first, n, motion))
    return found


def made_by(runs: Path, row: str, seeds: Sequence[str]) -> dict[str, str]:
    """Where a row's numbers come from: columns config_hash, seeds, commit.

    Several values of one are joined by "; ", as in the tables of `ablations`.
    """
    folders = [runs / row / seed for seed in sorted(seeds)]
    hashes = {config_hash(json.loads((f / "config.json").read_text())) for f in folders}
    commits = {read_environment(f)[0] for f in folders}
    return {
        "config_hash": "; ".join(sorted(hashes)),
        "seeds": " ".join(f.name.removeprefix("seed") for f in folders),
        "commit": "; ".join(sorted(commits)),
    }


def wrong_joints(rows: dict[str, Seeds]) -> list[dict]:
    """Two lines on the first row: what share of its wrong joints is bias, is flicker.

    Keys as in `compare`, without differences; `each_seed` lists the shares.
    """
    name, seeds = next(iter(rows.items()))
    finest = min(JHMDB_THRESHOLDS)
    shares = np.array([wrong_joint_shares(seeds[s], finest) for s in sorted(seeds)])
    return [
        {
            "row": name,
            "part": part,
            "metric": f"% of the joints wrong at {finest}",
            "n": len(values),
            "mean": float(np.nanmean(values)),
            "std": _std(values[~np.isnan(values)]),
            "each_seed": " ".join(f"{v:.1f}" for v in values),
        }
        for part, values in zip(WRONG_JOINTS, shares.T, strict=True)
    ]


def compare(rows: dict[str, Seeds], skeleton: Skeleton) -> list[dict]:
    """One dict per row and part: all joints, thirds by speed, joints, clips.

    Keys: row, part, metric, n (seeds), mean and std over seeds; over the seeds shared
    with the first row: difference to it with the bootstrap interval over clips (NaN for
    a single clip), and the least and greatest difference of a seed. The first row's
    worst clip stands first.
    """
    baseline = next(iter(rows.values()))
    parts = [("all", t, {}) for t in JHMDB_THRESHOLDS]
    finest = min(JHMDB_THRESHOLDS)
    parts += [
        (f"{name} joints", finest, {"speed_range": limits})
        for name, limits in speed_thirds(next(iter(baseline.values())))
    ]
    parts += [(skeleton.joints[j], finest, {"joint": j}) for j in skeleton.evaluated]
    parts += [
        (f"clip {name}", finest, {"clip": name})
        for name in worst_first(list(baseline.values()), finest)
    ]
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
            if "clip" in choice:
                low = high = float("nan")
            paired = [_percent(counts[seed]) - _percent(base[seed]) for seed in shared]
            table.append(
                {
                    "row": row,
                    "part": part,
                    "metric": f"PCK@{threshold}",
                    "n": len(counts),
                    "mean": float(np.mean(percents)),
                    "std": _std(percents),
                    "difference": difference,
                    "ci_low": low,
                    "ci_high": high,
                    "least_of_a_seed": min(paired),
                    "greatest_of_a_seed": max(paired),
                }
            )
    return table


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _counts(clips, threshold, joint=None, clip=None, **choice) -> np.ndarray:
    if clip is not None:
        clips = [c for c in clips if c.name == clip]
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
        std = "" if np.isnan(line["std"]) else f"{line['std']:.2f}"
        interval = f"{line['ci_low']:+.2f} to {line['ci_high']:+.2f}"
        lines.append(
            f"| {line['part']} | {line['metric']} | {line['row']} | {line['n']} "
            f"| {line['mean']:.2f} | {std} | {line['difference']:+.2f} "
            f"| {'' if np.isnan(line['ci_low']) else interval} "
            f"| {line['least_of_a_seed']:+.2f}, {line['greatest_of_a_seed']:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def wrong_joints_text(lines: Sequence[dict]) -> str:
    """`wrong_joints` for people."""
    return "".join(
        f"\n{x['row']}, {x['part']}: {x['mean']:.1f} {x['metric']} "
        f"(by seed: {x['each_seed']}).\n"
        for x in lines
    )


def origins_text(origins: dict[str, dict[str, str]]) -> str:
    """`made_by` of every row for people."""
    return "".join(
        f"\n{row}: seeds {x['seeds']}; config {x['config_hash']}; commit {x['commit']}.\n"
        for row, x in origins.items()
    )


def _oracle(text: str) -> tuple[int, int]:
    numbers = text.split(":")
    if len(numbers) != 2 or not all(n.isdigit() and int(n) % 2 for n in numbers):
        raise ValueError(
            f"--oracles={text}: give frames of the median, a colon, and frames over "
            "which the label is averaged, both odd, such as 5:1"
        )
    return int(numbers[0]), int(numbers[1])


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
    parser.add_argument(
        "--oracles",
        default="",
        help="5:1,5:3: and along the label's motion, averaged over 1 and 3 frames",
    )
    parser.add_argument("--skeleton", default="jhmdb")
    options = parser.parse_args(arguments)
    try:
        names = options.rows.split(",")
        filtered = (
            [int(n) for n in filter(None, options.medians.split(","))],
            [_oracle(text) for text in filter(None, options.oracles.split(","))],
        )
        rows = load_rows(options.ground_truth, options.runs, names, *filtered)
        table = compare(rows, get_skeleton(options.skeleton))
        wrong = wrong_joints(rows)
        origins = {
            name: made_by(options.runs, row, list(rows[name]))
            for name, row, *_ in _sources(names, *filtered)
        }
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    write_csv(options.table, [x | origins[x["row"]] for x in [*table, *wrong]])
    text = markdown(table) + wrong_joints_text(wrong) + origins_text(origins)
    options.table.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
