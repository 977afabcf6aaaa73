"""Where the real sample files are; tests that need them skip with the reason."""

import os
from pathlib import Path

import pytest

REAL = Path(
    os.environ.get("TDPOSE_REAL_DATA", Path(__file__).parents[2] / "shared" / "real")
)
needs_real = pytest.mark.skipif(
    not REAL.is_dir(),
    reason=f"real samples not found at {REAL}; set TDPOSE_REAL_DATA to their folder",
)
