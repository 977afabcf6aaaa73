"""The table of an ablation: what each row scored, and how sure a difference is.

Runs of different rows with the same seed share data order, augmentation and initial
weights where they share layers, so rows are compared seed by seed: the interval is
Student's t over the paired differences, mean +- t(0.975, n - 1) * s / sqrt(n). With 3
seeds t is 4.30, so that only differences of several standard deviations stand out.
"""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One finished run.

    Attributes:
      value: the measure that is compared.
      others: the other numbers of the same table of results.json, e.g. AP by joint.
      steps: training steps.
      commit, device: from the run's environment.txt.
    """

    row: str
    seed: int
    value: float
    others: dict[str, float]
    steps: int
    commit: str
    device: str


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table says of a row besides its scores.

    Attributes:
      previous: the row it is compared with; "" for none.
      config: file and row, as main.py takes it.
      config_hash: of all fields but the seed and what is only logged.
      params_millions, gflops: see `model_cost`.
    """

    name: str
    previous: str
    config: str
    config_hash: str
    params_millions: float
    gflops: float


def read_result(
    folder: Path, row: str, seed: int, metric: str, file: str = "results.json"
) -> RunResult:
    """Reads a finished run's folder.

    Args:
      metric: a path in `file`, joined by dots: `AP.total`, `PCK@0.05.total`.
      file: a JSON file of the run folder.

    Raises:
      ValueError: if there is no such file, or no such number in it; lists those it has.
    """
    path = folder / file
    if not path.is_file():
        raise ValueError(f"--results={file}: {path} does not exist")
    numbers = dict(_numbers(json.loads(path.read_text())))
    if metric not in numbers:
        totals = [name for name in numbers if name.endswith("total")]
        raise ValueError(
            f"--metric={metric}: {path} has no such number; choose one of "
            + ", ".join(totals or numbers)
        )
    table = metric.removesuffix(metric.rsplit(".", 1)[-1])
    siblings = {
        name.removeprefix(table): value
        for name, value in numbers.items()
        if table and name.startswith(table) and name != metric
    }
    commit, device = read_environment(folder)
    return RunResult(
        row=row,
        seed=seed,
        value=numbers[metric],
        others=siblings,
        steps=json.loads((folder / "results.json").read_text())["step"],
        commit=commit,
        device=device,
    )


def read_environment(folder: Path) -> tuple[str, str]:
    """(commit, device) of a run, from its environment.txt."""
    lines = (folder / "environment.txt").read_text().splitlines()
    told = dict(line.split(" ", 1) for line in lines)
    return told["commit"], f"{told['devices']} ({told['machine']})"


def _numbers(content: dict, prefix: str = ""):
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval of the mean; NaN bounds from fewer than 2."""
    values = np.asarray(differences, float)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * error)
    return mean, mean - half, mean + half


def summarise(rows: Sequence[Row], results: Sequence[RunResult], metric: str) -> list:
    """One dict per row that has a run, in order; columns as in the CSV file.

    Raises:
      ValueError: if a row is to be compared with one that is not in the table.
    """
    by_row = {row.name: {} for row in rows}
    for result in results:
        by_row[result.row][result.seed] = result
    table = []
    for row in rows:
        runs = by_row[row.name]
        if row.previous and row.previous not in by_row:
            raise ValueError(
                f"--rows: {row.name} is compared with {row.previous}, which is not in "
                f"the table; it has {', '.join(by_row)}"
            )
        if not runs:
            continue
        values = [run.value for run in runs.values()]
        line = {
            "row": row.name,
            "metric": metric,
            "n": len(runs),
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
            "previous": row.previous,
        }
        before = by_row[row.previous] if row.previous else {}
        shared = sorted(runs.keys() & before.keys())
        line |= dict(
            zip(
                ("diff_to_previous", "ci_low", "ci_high"),
                paired_interval([runs[s].value - before[s].value for s in shared]),
                strict=True,
            )
        )
        table.append(
            line
            | {
                "params_millions": row.params_millions,
                "gflops": row.gflops,
                "config": row.config,
                "config_hash": row.config_hash,
                "seeds": " ".join(str(seed) for seed in sorted(runs)),
                "steps": _joined(run.steps for run in runs.values()),
                "commit": _joined(run.commit for run in runs.values()),
                "device": _joined(run.device for run in runs.values()),
            }
        )
    return table


def _joined(values) -> str:
    """Usually one value; several where runs were made by different versions."""
    return "; ".join(sorted({str(value) for value in values}))


def write_tables(
    path: Path, rows: Sequence[Row], results: Sequence[RunResult], metric: str
) -> list[Path]:
    """Writes `path` (.csv), `<name>_runs.csv`, `<name>.md` and `<name>.png`."""
    table = summarise(rows, results, metric)
    per_run = [
        {"row": r.row, "seed": r.seed, "metric": metric, "value": r.value}
        | {"steps": r.steps, "commit": r.commit, "device": r.device}
        | r.others
        for r in results
    ]
    paths = [
        path,
        path.with_name(f"{path.stem}_runs.csv"),
        path.with_suffix(".md"),
        path.with_suffix(".png"),
    ]
    write_csv(paths[0], table)
    write_csv(paths[1], per_run)
    paths[2].write_text(markdown(table))
    save_plot(paths[3], table, results, metric)
    return paths


def write_csv(path: Path, lines: Sequence[dict]) -> None:
    """One line per dict; columns are all of their keys. NaN becomes an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for line in lines for name in line))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({k: _text(v, 6) for k, v in line.items()})


def _text(value, digits: int) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.{digits}g}"
    return str(value)


def markdown(table: Sequence[dict]) -> str:
    """The table as people read it, with where it came from below."""

    def number(value, form):
        return "" if value != value else f"{value:{form}}"

    metric = table[0]["metric"]
    lines = [
        f"| row | n | {metric} | std | compared with | difference | 95 % interval "
        "| M parameters trained | GFLOPs per keyframe |",
        "| --- " + "| --: " * 3 + "| --- " + "| --: " * 4 + "|",
    ]
    for line in table:
        interval = ""
        if line["ci_low"] == line["ci_low"]:
            interval = f"{line['ci_low']:+.2f} to {line['ci_high']:+.2f}"
        cells = (
            line["row"],
            line["n"],
            number(line["mean"], ".2f"),
            number(line["std"], ".2f"),
            line["previous"],
            number(line["diff_to_previous"], "+.2f"),
            interval,
            f"{line['params_millions']:.3f}",
            f"{line['gflops']:.2f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    source = {
        name: _joined(v for line in table for v in line[name].split("; "))
        for name in ("commit", "steps", "device")
    }
    seeds = ", ".join(sorted({s for line in table for s in line["seeds"].split()}))
    configs = "; ".join(f"{line['config']} {line['config_hash']}" for line in table)
    lines += [
        "",
        f"Commit {source['commit']}; seeds {seeds}; {source['steps']} steps; "
        f"device {source['device']}. Differences are paired by seed; intervals are "
        "Student's t over them. A multiply-add is two FLOPs; every frame of the clip "
        "passes the backbone.",
        "",
        f"Configs (file:row, hash): {configs}.",
    ]
    return "\n".join(lines) + "\n"


def save_plot(
    path: Path, table: Sequence[dict], results: Sequence[RunResult], metric: str
) -> None:
    """Left: every run, mean and standard deviation. Right: paired differences."""
    from matplotlib.figure import Figure

    at = {line["row"]: -i for i, line in enumerate(table)}
    figure = Figure(figsize=(9, 0.42 * len(table) + 1.1), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for result in results:
        left.plot(result.value, at[result.row], "o", color="#9aa7b1", markersize=4)
    y = list(at.values())
    std = [0.0 if line["std"] != line["std"] else line["std"] for line in table]
    left.errorbar([line["mean"] for line in table], y, xerr=std, fmt="|", color="black",
                  markersize=12, capsize=3)  # fmt: skip
    left.set_yticks(y, list(at), fontsize=8)
    left.set_xlabel(f"{metric}: runs, mean, standard deviation", fontsize=8)
    right.axvline(0, color="#9aa7b1", linewidth=0.8)
    for line in table:
        difference, low, high = (
            line[name] for name in ("diff_to_previous", "ci_low", "ci_high")
        )
        y_row = at[line["row"]]
        if low == low:
            right.plot([low, high], [y_row] * 2, color="#1f6fb4")
        if difference == difference:
            right.plot(difference, y_row, "o", color="#1f6fb4", markersize=5)
            right.annotate(
                f"to {line['previous']}", (difference, y_row), fontsize=6,
                xytext=(0, 5), textcoords="offset points", ha="center",
            )  # fmt: skip
    right.set_xlabel("paired difference, 95 % t interval", fontsize=8)
    right.set_ylim(0.6 - len(table), 0.6)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
