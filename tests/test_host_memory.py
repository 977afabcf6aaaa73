"""Freed buffers stay with the process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Page faults of the fourth 256 MiB buffer, in a thread like XLA's.
COUNT_FAULTS = """
import ctypes, resource, sys, threading
from tdpose_jax import host_memory
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size = 2**28
def fill():
    global faults
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        buffer = libc.malloc(size)
        ctypes.memset(buffer, 1, size)
        libc.free(buffer)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
if sys.argv[1] == "keep":
    assert host_memory.keep_freed_memory()
thread = threading.Thread(target=fill)
thread.start()
thread.join()
print(faults)
"""


def page_faults(mode):
    result = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, mode],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_a_large_buffer_costs_page_faults_only_once():
    assert page_faults("plain") > 2**28 / 2**21  # huge pages at most
    assert page_faults("keep") < 20
