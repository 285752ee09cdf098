"""Fixtures of all pytest suites. A module's world has its options in OPTIONS of the module."""

import os
import pathlib
import sys

# Servers are started while channels are open: core must not wake up in a child on its way to exec.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

# Children are started while calls are under way; they only exec, and must not try to repair gRPC first.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from harness import protos

protos.generate()

from harness.world import Site


@pytest.fixture(scope="session")
def site():
    servers = Site()
    try:
        yield servers.start()
    finally:
        servers.close()


@pytest.fixture(scope="module")
def world(site, request):
    made = site.world(request.module.__name__, getattr(request.module, "OPTIONS", None))
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def client(world):
    return world.client


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """The end of each daemon's log goes with a failure."""
    report = (yield).get_result()
    world = getattr(item, "funcargs", {}).get("world")
    if report.failed and world:
        for log in sorted(world.directory.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-40:]
            report.sections.append((f"end of {log.name}", "\n".join(lines)))
