"""A pod on this machine: several real processes of main.py over CPU collectives.

    python -m tdpose_jax.pod_sim --processes=2 -- --config=... --workdir=...

Each process gets its number in front of its output. SIGTERM and Ctrl-C go on to all of
them. When one fails, it is named, the others get a few seconds to end by themselves and
are then killed. Exit codes: main.py's, if all agree; else that of the first that failed.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

MAIN = Path(__file__).resolve().parents[1] / "main.py"


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start_processes(
    arguments: Sequence[str],
    processes: int,
    devices: int = 1,
    program: Path = MAIN,
    heartbeat_seconds: int = 60,
) -> list[subprocess.Popen]:
    """Starts main.py `processes` times, joined by a free port of this machine.

    Args:
      arguments: of main.py.
      devices: CPU devices of each process.
      program: what is run, with main.py's flags.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONUNBUFFERED": "1",
    }
    joining = []
    port = free_port()
    started = []
    for index in range(processes):
        if processes > 1:
            joining = [
                f"--coordinator=localhost:{port}",
                f"--num_processes={processes}",
                f"--process_id={index}",
                f"--heartbeat_seconds={heartbeat_seconds}",
            ]
        started.append(
            subprocess.Popen(
                [sys.executable, str(program), *arguments, *joining],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C reaches us alone; we decide what the others get.
                start_new_session=True,
            )
        )
    return started


def describe_exit(code: int) -> str:
    """-9 -> 'was ended by SIGKILL', 1 -> 'ended with exit code 1'."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def supervise(
    processes: Sequence[subprocess.Popen], grace_seconds: float, say=print
) -> int:
    """Waits for all; see the module's docstring. Returns the exit code."""

    def copy(index, stream):
        for line in stream:
            say(f"[{index}] {line.rstrip()}")

    copiers = [
        threading.Thread(target=copy, args=(i, p.stdout), daemon=True)
        for i, p in enumerate(processes)
    ]
    for copier in copiers:
        copier.start()
    first_failure, failed_at = None, 0.0
    while any(p.poll() is None for p in processes):
        time.sleep(0.1)
        if first_failure is None:
            for index, process in enumerate(processes):
                if process.poll():
                    first_failure, failed_at = process.returncode, time.monotonic()
                    say(
                        f"pod: process {index} {describe_exit(process.returncode)}; "
                        f"the others have {grace_seconds:.0f} s to end"
                    )
                    break
        elif time.monotonic() - failed_at > grace_seconds:
            for index, process in enumerate(processes):
                if process.poll() is None:
                    say(f"pod: killing process {index}")
                    process.kill()
            break
    for process in processes:
        process.wait()
    for copier in copiers:
        copier.join(timeout=5)
    if first_failure is None:
        return 0
    return first_failure if first_failure > 0 else 128 - first_failure


def main() -> int:
    """The command `python -m tdpose_jax.pod_sim`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each")
    parser.add_argument(
        "--grace_seconds", type=float, default=30, help="after one has failed"
    )
    parser.add_argument("arguments", nargs="+", help="after --: arguments of main.py")
    options = parser.parse_args()
    processes = start_processes(options.arguments, options.processes, options.devices)

    def pass_on(number, _):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    return supervise(
        processes, options.grace_seconds, lambda line: print(line, flush=True)
    )


if __name__ == "__main__":
    sys.exit(main())
