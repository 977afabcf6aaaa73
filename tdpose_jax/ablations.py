"""Trains rows x seeds of a config one after the other, and writes their table.

    python -m tdpose_jax.ablations --config=configs/ablations.py \\
        --rows=single_frame,tde_cascade,rdm,tdmi,plain_conv@tdmi --seeds=0,1,2 \\
        --output=runs/ablations --table=results/ablations_demo.csv \\
        --set train.num_steps=100

A row is compared with the one before it, or with the one after its `@`. Each run is
main.py in a process of its own, in OUTPUT/ROW/seedN; what it says is in `log.txt` there.
Running the command again keeps finished runs, continues a stopped one from its last
checkpoint, and writes the table again. Ctrl-C and SIGTERM let the current run save.

Beside TABLE.csv are TABLE_runs.csv (a line per run), TABLE.md and TABLE.png. Exit codes:
0 finished, 1 a run failed, 75 stopped.
"""

import argparse
import ast
import dataclasses
import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import jax
import ml_collections

from tdpose_jax.ablation_table import Row, read_result, write_tables
from tdpose_jax.model_cost import model_cost
from tdpose_jax.preemption import EXIT_CODE
from tdpose_jax.progress import format_seconds
from tdpose_jax.run_folder import flatten_config

MAIN = Path(__file__).resolve().parents[1] / "main.py"
# Of a config: what may differ between a finished run and what is asked for.
LOGGING_FIELDS = (
    "train.log_every_steps",
    "train.log_gradient_norms",
    "train.save_every_steps",
    "train.keep_checkpoints",
    "train.profile_steps",
    "train.compilation_cache",
    "eval.num_pictures",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training to be made.

    Attributes:
      folder: its run folder.
      config: what its config.json will hold.
      arguments: of main.py.
    """

    row: str
    seed: int
    folder: Path
    config: dict
    arguments: list[str]

    def is_finished(self) -> bool:
        """Whether its folder holds the results of exactly this run.

        Raises:
          ValueError: if it holds a run of another config.
        """
        path = self.folder / "config.json"
        if not path.exists():
            return False
        there = json.loads(path.read_text())
        different = [
            f"{name} is {there[name] if name in there else 'absent'} there and "
            f"{self.config[name] if name in self.config else 'absent'} here"
            for name in sorted(there.keys() | self.config.keys())
            if name not in LOGGING_FIELDS
            and (
                name not in there
                or name not in self.config
                or there[name] != self.config[name]
            )
        ]
        if different:
            raise ValueError(
                f"{self.folder} holds another run; choose another --output, or remove "
                f"that folder: {'; '.join(different)}"
            )
        results = self.folder / "results.json"
        if not results.exists():
            return False
        found = json.loads(results.read_text())
        # Evaluated another way since: main.py trains no more and evaluates as configured.
        as_configured = "evaluated_with" not in found
        return as_configured and found["step"] == self.config["train.num_steps"]


def load_config_file(path: Path) -> ModuleType:
    """Raises: ValueError: if it is no Python file with a `get_config`."""
    if not path.is_file():
        raise ValueError(f"--config={path}: no such file")
    spec = importlib.util.spec_from_file_location(f"_rows_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config={path}: has no get_config(row)")
    return module


def row_config(
    module: ModuleType, row: str, overrides: Sequence[str]
) -> ml_collections.ConfigDict:
    """A row's config with overrides `section.field=value` as of --set.

    Raises:
      ValueError: for an unknown row, field or value.
    """
    config = module.get_config(row)
    flat = flatten_config(config)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or name not in flat:
            raise ValueError(
                f"--set {override}: give section.field=value; {name!r} "
                + ("has no value" if name in flat else "is no field of the config")
            )
        try:
            value = text if isinstance(flat[name], str) else ast.literal_eval(text)
            config.update_from_flattened_dict({name: value})
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(
                f"--set {override}: the value must be like {flat[name]!r}"
            ) from error
    if config.train.num_steps <= 0:
        raise ValueError(
            f"row {row!r} counts epochs, and rows are compared at equal steps; give "
            "--set train.num_steps=N"
        )
    return config


def parse_rows(text: str) -> dict[str, str]:
    """`a,b,c@a` -> {"a": "", "b": "a", "c": "a"}: row -> row it is compared with.

    Raises:
      ValueError: for a row named twice, or compared with one that is not there.
    """
    rows: dict[str, str] = {}
    before = ""
    for part in filter(None, text.split(",")):
        name, _, other = part.partition("@")
        if name in rows:
            raise ValueError(f"--rows={text}: {name} is there twice")
        rows[name] = other or before
        before = name
    for name, other in rows.items():
        if other and other not in rows:
            raise ValueError(
                f"--rows={text}: {name} is compared with {other}, which is no row here"
            )
    if not rows:
        raise ValueError("--rows: name at least one row")
    return rows


def config_hash(config: dict) -> str:
    """Eight hex digits of all fields but the seed and what is only logged."""
    kept = {k: v for k, v in config.items() if k not in (*LOGGING_FIELDS, "seed")}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def plan_runs(
    path: Path,
    configs: dict[str, ml_collections.ConfigDict],
    seeds: Sequence[int],
    overrides: Sequence[str],
    output: Path,
) -> list[Run]:
    """All rows of the first seed first: a table can be made early."""
    runs = []
    for seed in seeds:
        for row, config in configs.items():
            folder = output / row / f"seed{seed}"
            arguments = [
                f"--config={path}:{row}",
                f"--workdir={folder}",
                *(f"--config.{override}" for override in overrides),
                f"--config.seed={seed}",
            ]
            flat = flatten_config(config) | {"seed": seed}
            runs.append(Run(row, seed, folder, flat, arguments))
    return runs


class Runner:
    """Makes runs one at a time and says how long the rest will take.

    Args:
      program: what is run, with main.py's flags.
      say: prints a line.
    """

    def __init__(self, program: Path = MAIN, say=print):
        self._program, self._say = program, say
        self._process: subprocess.Popen | None = None
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self.is_stopped = False

    def stop(self, *_) -> None:
        """Signal handler: the current run saves, and no other is begun."""
        self.is_stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def train(self, run: Run, number: str, later: Sequence[Run]) -> int:
        """One run to its end; its exit code, or minus the signal that ended it."""
        run.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with (run.folder / "log.txt").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(self._program), *run.arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches us alone
            )
            if self.is_stopped:
                self._process.terminate()
            for line in self._process.stdout or ():
                log.write(line)
                log.flush()
                if line.startswith(("step ", "error: ")):
                    left = self._left(run, time.monotonic() - began, later)
                    self._say(f"[{number}] {run.row} {run.seed}: {line.rstrip()}{left}")
            code = self._process.wait()
        if code == 0:
            self._seconds[run.row].append(time.monotonic() - began)
        return code

    def _left(self, run: Run, elapsed: float, later: Sequence[Run]) -> str:
        """What is left of all runs, once one has shown how long it takes."""
        known = [s for times in self._seconds.values() for s in times]
        if not known:
            return ""

        def expected(row):
            times = self._seconds[row] or known
            return sum(times) / len(times)

        left = max(0.0, expected(run.row) - elapsed)
        left += sum(expected(other.row) for other in later)
        return f"  (all runs: {format_seconds(left)} left)"


def train_all(runs: Sequence[Run], runner: Runner, keep_going: bool, say=print) -> int:
    """Makes what is not finished; returns the exit code of the command."""
    waiting = [run for run in runs if not run.is_finished()]
    say(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    failed = []
    for i, run in enumerate(waiting):
        code = runner.train(run, f"{i + 1}/{len(waiting)}", waiting[i + 1 :])
        if runner.is_stopped:
            say("stopped; the same command goes on from here")
            return EXIT_CODE
        if code != 0:
            failed.append(run)
            say(
                f"{run.row} seed {run.seed} ended with exit code {code}; see "
                f"{run.folder / 'log.txt'}"
            )
            if not keep_going:
                break
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, type=Path, help="file with the rows")
    parser.add_argument("--rows", required=True, help="a,b,c@a in the table's order")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--output", required=True, type=Path, help="for run folders")
    parser.add_argument("--table", required=True, type=Path, help="<name>.csv to write")
    parser.add_argument("--metric", default="AP.total", help="number in it")
    parser.add_argument("--results", default="results.json", help="file of each run")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--keep_going", action="store_true", help="after a failed run")
    options = parser.parse_args(arguments)
    # Accelerators belong to the runs; here shapes are counted.
    jax.config.update("jax_platforms", "cpu")
    try:
        if options.table.suffix != ".csv":
            raise ValueError(f"--table={options.table}: must end in .csv")
        seeds = [int(seed) for seed in options.seeds.split(",")]
        previous = parse_rows(options.rows)
        module = load_config_file(options.config)
        configs = {row: row_config(module, row, options.set) for row in previous}
        rows = [
            Row(
                row,
                previous[row],
                f"{options.config}:{row}",
                config_hash(flatten_config(config)),
                *model_cost(config),
            )
            for row, config in configs.items()
        ]
        runs = plan_runs(options.config, configs, seeds, options.set, options.output)
        runner = Runner(say=_say)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, runner.stop)
        code = train_all(runs, runner, options.keep_going, _say)
        results = [
            read_result(run.folder, run.row, run.seed, options.metric, options.results)
            for run in runs
            if run.is_finished()
        ]
        if results:
            written = write_tables(options.table, rows, results, options.metric)
            _say(written[2].read_text())
            _say(f"tables of {len(results)} of {len(runs)} runs: "
                 + ", ".join(map(str, written)))  # fmt: skip
    except ValueError as error:
        sys.exit(f"error: {error}")
    return code


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
