"""What every benchmark shares: alternating runs, a row of the table, where it was taken.

A row is a ratio, larger is better: of medians where there is a peer, of a stated limit to
our median where there is none. Ours and the peer run in turns in one process, so that
both meet the same neighbours on a shared machine; which goes first changes every round.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path("runs/bench")
# Cores that other processes may keep busy during a round.
MAX_NEIGHBOURS = 0.15
# Worker threads of the one still spin for a while when the other already runs.
SETTLE_SECONDS = 0.3
CORES = 2  # the peers are measured with as many threads
PACKAGES = ("jax", "flax", "numpy", "torch", "onnxruntime", "openvino", "tensorflow")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table and one file in runs/bench.

    Attributes:
      name: of the file.
      ratio: how many times as good as the peer or the limit.
      target: least ratio wanted; None where the row only stands beside another.
      ours, peer: medians in `unit`, `peer` the limit where nothing runs beside ours.
      environment: machine, versions, load, and what was run.
    """

    name: str
    ratio: float
    target: float | None
    ours: float
    peer: float
    unit: str
    environment: dict[str, Any]

    @property
    def is_met(self) -> bool:
        return self.target is None or self.ratio >= self.target


@dataclasses.dataclass
class Stopwatch:
    """Seconds of each round of each contender.

    Attributes:
      seconds: name -> one value per round.
      neighbours: cores that other processes kept busy meanwhile, on average.
    """

    seconds: dict[str, list[float]]
    neighbours: float

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


def alternate(
    contenders: dict[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> Stopwatch:
    """Runs all in turns, `warmup` rounds untimed; each must return when it is done.

    A round that other processes disturb is repeated: threads that wait for each other at
    every layer, as PyTorch's do, lose several times what a neighbour takes. Of at most
    three times as many rounds the quietest are kept.
    """
    order = list(contenders)
    for _ in range(warmup):
        for name in order:
            contenders[name]()
    tried = []
    while len(tried) < rounds or (
        len(tried) < 3 * rounds and sum(quiet for quiet, *_ in tried) < rounds
    ):
        busy, start, row = _others_cpu_seconds(), time.perf_counter(), {}
        for name in order:
            time.sleep(SETTLE_SECONDS)
            began = time.perf_counter()
            contenders[name]()
            row[name] = time.perf_counter() - began
        passed = time.perf_counter() - start
        neighbours = max(0.0, _others_cpu_seconds() - busy) / passed
        tried.append((neighbours < MAX_NEIGHBOURS, neighbours, row))
        order.reverse()
    kept = sorted(tried, key=lambda t: t[1])[:rounds]
    return Stopwatch(
        {name: [row[name] for *_, row in kept] for name in contenders},
        statistics.mean(neighbours for _, neighbours, _ in kept),
    )


def _others_cpu_seconds() -> float:
    """Processor time used on this machine since its start, but for this process."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    fields = [int(v) for v in stat.read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    total = (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")
    return total - sum(os.times()[:4])


def row_of_times(
    name: str,
    watch: Stopwatch,
    target: float | None,
    ours: str = "ours",
    peer: str = "peer",
    **details,
) -> Row:
    """A row in milliseconds; the spread and the ratio of the best go into details."""
    times = {key: [1e3 * s for s in watch.seconds[key]] for key in (ours, peer)}
    medians = {key: statistics.median(values) for key, values in times.items()}
    spread = {
        f"{label}_ms_min_max": [round(min(times[key]), 3), round(max(times[key]), 3)]
        for label, key in (("ours", ours), ("peer", peer))
    }
    best = min(times[peer]) / min(times[ours])
    details |= {
        "rounds": len(times[ours]),
        **spread,
        "ratio_of_best": round(best, 3),
        "neighbours_cores": round(watch.neighbours, 2),
    }
    return Row(
        name=name,
        ratio=medians[peer] / medians[ours],
        target=target,
        ours=medians[ours],
        peer=medians[peer],
        unit="ms",
        environment=environment(**details),
    )


def environment(**details) -> dict[str, Any]:
    """Machine, versions and load average, and `details` of the row."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "amx": has_amx(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **versions,
        **details,
    }


def cpu_model() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware (Intel AMX)."""
    return any(line.startswith("flags") and "amx_bf16" in line for line in _cpuinfo())


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def pin_cores(count: int = CORES) -> None:
    """Keeps the process on `count` cores; before jax or torch start their threads."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(allowed[:count]))


def report(title: str, rows: list[Row]) -> None:
    """Writes runs/bench/<name>.json of every row and prints them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = FOLDER / f"{row.name}.json"
        path.write_text(json.dumps(dataclasses.asdict(row), indent=1) + "\n")
    print_table(title, rows)


def print_table(title: str, rows: list[Row]) -> None:
    table = Table(title=title)
    table.add_column("benchmark", overflow="fold")
    for column in ("ours", "peer", "unit", "ratio", "target", "others"):
        table.add_column(column, justify="right")
    for row in rows:
        colour = "green" if row.is_met else "red"
        table.add_row(
            row.name,
            f"{row.ours:.4g}",
            f"{row.peer:.4g}",
            row.unit,
            f"[{colour}]{row.ratio:.2f}",
            "" if row.target is None else f">= {row.target:g}",
            _neighbours(row),
        )
    Console().print(table)


def markdown_table(rows: list[Row]) -> str:
    """The table as the README shows it."""
    lines = [
        "| benchmark | ours | peer | ratio | target |",
        "| --- | --: | --: | --: | --: |",
    ]
    for row in rows:
        target = "" if row.target is None else f">= {row.target:g}"
        lines.append(
            f"| {row.name} | {row.ours:.4g} {row.unit} | {row.peer:.4g} {row.unit} | "
            f"{row.ratio:.2f} | {target} |"
        )
    return "\n".join(lines) + "\n"


def _neighbours(row: Row) -> str:
    """Cores that other processes had during the measurement, or the load average."""
    if "neighbours_cores" in row.environment:
        return f"{row.environment['neighbours_cores']:.1f}"
    return f"load {row.environment['load_average']:.1f}"


def skip(title: str, reason: str) -> None:
    """Says why a benchmark does not run here."""
    Console().print(f"{title}: skipped, {reason}")


def parse_rounds(description: str | None, default: int) -> argparse.Namespace:
    """The command line all benchmarks share."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=default, help=f"timed runs of each ({default})"
    )
    return parser.parse_args()
