"""All benchmarks, each in a process of its own, and one table at the end.

    python -m benchmarks [NAME ...] [--rounds=N]

Without names: all of `BENCHMARKS`. Earlier results of benchmarks that are left out stay
in the table, which is kept as runs/bench/table.md. The exit status is 1 if a benchmark
fails to run; a row below its target is a result, not a failure.
"""

import argparse
import json
import os
import subprocess
import sys

from benchmarks import common

BENCHMARKS = (
    "forward",
    "train_step",
    "cpu_backends",
    "deform_conv",
    "input_pipeline",
    "video_windows",
    "cold_start",
    "metrics_speed",
    "gpu",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, help="timed runs of each")
    flags = parser.parse_args()
    for name in flags.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    failed = []
    for name in flags.names or BENCHMARKS:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if flags.rounds is not None:
            command.append(f"--rounds={flags.rounds}")
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    rows = [
        common.Row(**json.loads(path.read_text()))
        for path in sorted(common.FOLDER.glob("*.json"))
    ]
    common.print_table(f"All of {common.FOLDER}", rows)
    (common.FOLDER / "table.md").write_text(common.markdown_table(rows))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
