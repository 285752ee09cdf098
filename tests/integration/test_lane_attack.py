"""The lane alone under attack, in programs of their own: by chance (lane-attack: overlapping operations while backends die, the
wire is cut, tables are locked and the disk is full, and an oracle judges every answer) and step by step (lane-unknown: every
way to lose the answer of a commit; lane-corners: rows and refusals that chance does not reach). See tests/lane."""

import subprocess

import pytest
from harness import BUILD, FULL, rounds
from servers.postgres import Postgres

SECONDS = "8" if FULL else "2"


def run_on_new_postgres(site, name, program, *args):
    postgres = Postgres(site.base / f"postgres-{name}").start()
    try:
        postgres.create_database("attack")
        done = subprocess.run([BUILD / "tests/lane" / program, postgres.dsn("attack", tcp=True), *args],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-6000:]
    finally:
        postgres.close()


@pytest.mark.parametrize("seed", range(1, 1 + rounds(1)))
def test_lane_attack(site, seed):
    run_on_new_postgres(site, f"attack-{seed}", "lane-attack", str(seed), SECONDS)


def test_unknown_commits(site):
    run_on_new_postgres(site, "unknown", "lane-unknown")


def test_corners(site):
    run_on_new_postgres(site, "corners", "lane-corners")
