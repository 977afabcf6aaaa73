"""Seconds from `python main.py` on the demo to the first training step.

    python -m benchmarks.cold_start

Starts configs/demo.py:tdmi twice in fresh processes with a compilation cache of its own:
first empty, then warm. Needs the demo's data and backbone (`make demo`). The clock starts
before the interpreter and stops at the first line that reports a step, with
`train.log_every_steps=1`. The limits are 30 s and 15 s on two cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import common

LIMITS = {"cold_start_empty_cache": 30.0, "cold_start_warm_cache": 15.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default="data/demo", help="the demo's data")
    parser.add_argument("--backbone", default="runs/demo/backbone", help="its weights")
    parser.add_argument("--rounds", type=int, default=1, help="pairs of starts (1)")
    flags = parser.parse_args()
    for path in (flags.root, flags.backbone):
        if not Path(path).is_dir():
            common.skip("cold start", f"{path} is missing; `make demo` makes it")
            return
    common.pin_cores()
    watch = common.Stopwatch({name: [] for name in LIMITS}, 0.0)
    for _ in range(flags.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name in LIMITS:
                seconds = first_step(Path(folder), name, flags.root, flags.backbone)
                watch.seconds[name].append(seconds)
    rows = [
        common.Row(
            name=name,
            ratio=limit / watch.median(name),
            target=1.0,
            ours=watch.median(name),
            peer=limit,
            unit="s",
            environment=common.environment(
                peer_is="the limit", rounds=flags.rounds, seconds=watch.seconds[name]
            ),
        )
        for name, limit in LIMITS.items()
    ]
    common.report("Start of main.py on the demo to the first step", rows)


def first_step(folder: Path, name: str, root: str, backbone: str) -> float:
    """Starts a run, waits for its first step, ends it."""
    command = [
        sys.executable,
        "main.py",
        "--config=configs/demo.py:tdmi",
        f"--workdir={folder / name}",
        f"--config.data.root={root}",
        f"--config.model.backbone_weights={backbone}",
        "--config.train.log_every_steps=1",
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 1/"):
            seconds = time.perf_counter() - start
            # Compiled steps are written to the cache as they are made.
            process.kill()
            process.wait()
            return seconds
    raise RuntimeError("main.py ended before its first step:\n" + "".join(lines))


if __name__ == "__main__":
    main()
