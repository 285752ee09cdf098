"""What the tests stand on: private servers, programmable peers, a gRPC client, and one world (database, daemon, topology)
for each test module. The servers themselves are deploy/servers, shared with the quickstart."""

import os
import pathlib
import shlex
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
FULL = bool(os.environ.get("TXMSG_FULL")) # tests/run --full
BUILD = pathlib.Path(os.environ.get("TXMSG_BUILD") or TOP / "build").resolve()

WRAP = shlex.split(os.environ.get("TXMSG_WRAP", "")) # a command that runs the programs of tests/client, valgrind for one

for place in (TOP / "deploy", TOP / "deploy/demo"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))


def rounds(count):
    """How often a test about chance tries: five times as often with --full."""
    return count * 5 if FULL else count


def client_program(name):
    """The command that runs a program of tests/client."""
    return [*WRAP, BUILD / "tests/client" / name]
