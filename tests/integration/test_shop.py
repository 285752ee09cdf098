"""The shop runs: the story with every case seen, and many orders with faults, after which the books agree; and books that do not agree
are seen."""

import os
import re
import subprocess

import pytest
from harness import BUILD, FULL, TOP

PROGRAM = BUILD / "client/examples/shop/shop-points"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="built without RabbitMQ: no points service")


def run(*args, code=0):
    done = subprocess.run(["/usr/bin/python3", "-B", TOP / "client/examples/shop/main.py", "--build", BUILD, *args],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=230,
                          env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == code, done.stdout[-8000:]
    return done.stdout


def test_story():
    shown = run()
    assert "6 of 6 cases" in shown and "NOT SEEN" not in shown
    for line in (r"order service +asked what became of [0-9a-f-]{36}: COMMITTED", # b and e: over the client's own stream
                 r"desk +order c\d: a dead letter of orders-points, after 6 attempts: ", r"desk +ALERT: orders-points has \d+ dead letters",
                 r"desk +ALERT is over: orders-points", r"desk +order d1: a dead letter of orders-stock, after 1 attempts: .*410",
                 r"order service +order d1: the stock has refused, the order has failed", r"order e1: orders came again"):
        assert re.search(line, shown), f"{line} is not in:\n{shown}"
    assert shown.count("asked what became of") >= 2 and "they agree" in shown


def test_books_that_do_not_agree():
    shown = run("--orders", "3", "--seed", "1", "--cheat", code=1)
    assert re.search(r"NOT SEEN +points of customer\d: \d+, but \d+ earned", shown) and "they agree" not in shown


@pytest.mark.parametrize("seed", [1, 2, 3] if FULL else [1])
def test_faults(seed):
    shown = run("--orders", "150" if FULL else "40", "--faults", "--seed", str(seed))
    assert "they agree" in shown and f"seed {seed}" in shown
