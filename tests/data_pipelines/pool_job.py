"""A job for worker processes; apart, because they import the module it is in."""

import os


def square(job: int) -> int:
    """Fails on 2, kills its process on 9."""
    if job == 2:
        raise ValueError("job two")
    if job == 9:
        os._exit(1)
    return job * job
