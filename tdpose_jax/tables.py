"""Result tables for the terminal: `python -m tdpose_jax.tables RUN [RUN ...]`."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tdpose_jax.run_folder import write_json


def result_table(results: dict[str, dict]) -> list[Table]:
    """One table per measure that is a dict of numbers with a `total`.

    Args:
      results: row name -> contents of its results.json.
    """
    tables = []
    first = next(iter(results.values()))
    measures = [k for k, v in first.items() if isinstance(v, dict) and "total" in v]
    for measure in measures:
        table = Table(title=measure)
        columns = list(first[measure])
        table.add_column("")
        for column in columns:
            table.add_column(column, justify="right")
        for name, result in results.items():
            values = [result[measure][c] for c in columns]
            shown = ["-" if v is None or v != v else f"{v:.1f}" for v in values]
            table.add_row(name, *shown)
        tables.append(table)
    return tables


def print_results(results: dict[str, dict]) -> None:
    """Prints the tables side by side in rows, wide enough not to be cut off."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    for table in result_table(results):
        console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Compares the results of several run folders."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders to compare")
    parser.add_argument("--output", type=Path, help="collect their results in one JSON")
    options = parser.parse_args(arguments)
    results = {}
    for run in options.runs:
        path = run / "results.json"
        if not path.is_file():
            print(f"{path} does not exist; has this run finished?", file=sys.stderr)
            return 1
        results[run.name] = json.loads(path.read_text())
    print_results(results)
    if options.output:
        write_json(options.output, results)
        print(f"results: {options.output}")
    for run in options.runs:
        print(f"pictures of {run.name}: {run / 'pictures'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
