"""The lane alone under attack: a program of its own drives it with overlapping operations while backends die, the wire is cut,
tables are locked and the disk is full, and an oracle judges every answer. See tests/lane/attack.c."""

import subprocess

import pytest
from harness import BUILD, FULL, rounds
from servers.postgres import Postgres

SECONDS = "8" if FULL else "2"


@pytest.mark.parametrize("seed", range(1, 1 + rounds(1)))
def test_lane_attack(site, seed):
    postgres = Postgres(site.base / f"postgres-attack-{seed}").start()
    try:
        postgres.create_database("attack")
        done = subprocess.run([BUILD / "tests/lane/lane-attack", postgres.dsn("attack", tcp=True), str(seed), SECONDS],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-6000:]
    finally:
        postgres.close()
