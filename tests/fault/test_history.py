"""The history test itself: a minute of faults, 15 with --full."""

import subprocess
import sys

import pytest
from harness import BUILD, FULL, TOP

SECONDS = 900 if FULL else 60


@pytest.mark.timeout(SECONDS + 900)
def test_nothing_is_lost():
    """Two replicas, or three with --full; the seed is drawn and printed."""
    done = subprocess.run([sys.executable, "-B", TOP / "tests/fault/run", "--build", BUILD, "--seconds", str(SECONDS), "--replicas",
                           "3" if FULL else "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, f"the run ended with {done.returncode}"
