"""The shop runs: the story with every case seen, and many orders with faults, after which the books agree."""

import os
import re
import subprocess

import pytest
from harness import BUILD, FULL, TOP

PROGRAM = BUILD / "client/examples/shop/shop-points"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="built without RabbitMQ: no points service")


def run(*args):
    done = subprocess.run(["/usr/bin/python3", "-B", TOP / "client/examples/shop/main.py", "--build", BUILD, *args],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=230,
                          env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def test_story():
    shown = run()
    assert "6 of 6 cases" in shown and "NOT SEEN" not in shown
    assert re.search(r"ALERT +dead letter of orders-points", shown) and "they agree" in shown


@pytest.mark.parametrize("seed", [1, 2, 3] if FULL else [1])
def test_faults(seed):
    shown = run("--orders", "150" if FULL else "40", "--faults", "--seed", str(seed))
    assert "they agree" in shown and f"seed {seed}" in shown
