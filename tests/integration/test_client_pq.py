"""libtxmsg-pq against a real PostgreSQL: programs of tests/client, each on a database of its own."""

import subprocess

import pytest
from harness import client_program


@pytest.mark.parametrize("program", ["inbox", "local-tx"])
def test_program(site, program):
    name = f"pq_{program.replace('-', '_')}"
    site.postgres.create_database(name)
    done = subprocess.run([*client_program(f"pq-{program}"), site.postgres.dsn(name)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
