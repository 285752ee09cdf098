"""A port that is not served ends the process, a full one does not; and descriptors are counted before they run out."""

import contextlib
import resource
import socket
import subprocess

import grpc
import pytest
from harness import BUILD, http2
from harness.client import CONFIRMED, Client, message
from harness.ids import uuid7
from harness.system import break_listener, metric, open_files
from servers.process import wait_until
from servers.txmsgd import clean_environment, daemon_binary

OPTIONS = {"grpc.connections": 32, "grpc.probe": "500ms", "grpc.probe_failures": 1000}


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


def served(daemon, topic):
    """A caller of its own is served."""
    client = Client(daemon.grpc)
    try:
        return client.publish([message(topic)], tx=uuid7()).state == CONFIRMED
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return False
    finally:
        client.close()


def is_closed(connection):
    """The server has closed or reset it."""
    connection.socket.setblocking(False)
    try:
        while True:
            if not connection.socket.recv(65536):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextlib.contextmanager
def connections(port, n):
    opened = []
    try:
        for _ in range(n):
            with contextlib.suppress(ConnectionError):
                opened.append(http2.Connection(port))
        yield opened
    finally:
        for c in opened:
            c.close()


def test_a_dead_listener_ends_the_process(world, topic):
    daemon = world.daemon("deaf", {"grpc.probe_failures": 3}).start()
    old = Client(daemon.grpc)
    assert old.publish([message(topic)], tx=uuid7()).state == CONFIRMED
    break_listener(daemon.process.pid, daemon.grpc_port)
    wait_until(lambda: daemon.get("/healthz")[0] != 200, 20, "/healthz tells it")
    assert daemon.process.wait(60) == 3
    assert "the gRPC port is not served any more" in daemon.process.tail()
    daemon.process = None
    old.close()
    assert served(world.txmsgd, topic)
    daemon.start()
    assert served(daemon, topic)
    assert daemon.stop() == 0


def test_a_hanging_process_that_goes_on_is_not_dead(world):
    """Time that passed while it stood still is one failed call at most."""
    daemon = world.daemon("paused", {"grpc.probe_failures": 3}).start()
    answered = metric(daemon, "txmsg_grpc_probes_total", result="answered")
    daemon.freeze()
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", daemon.http_port), timeout=2).recv(1)
    daemon.thaw()
    wait_until(lambda: metric(daemon, "txmsg_grpc_probes_total", result="answered") > answered + 2, 20, "it goes on")
    assert daemon.stop() == 0


def test_connections_beyond_the_bound_are_reset(world, topic):
    """...while those inside go on, and the process still reaches itself."""
    daemon = world.daemon("full").start()
    inside = Client(daemon.grpc)
    assert inside.publish([message(topic)], tx=uuid7()).state == CONFIRMED
    with connections(daemon.grpc_port, 64) as opened:
        wait_until(lambda: sum(map(is_closed, opened)) >= 64 - 32, 10, "those beyond the bound are closed")
        assert metric(daemon, "txmsg_grpc_connections") <= 32 + 4
        assert metric(daemon, "txmsg_grpc_connections_refused_total") >= 64 - 32
        answered = metric(daemon, "txmsg_grpc_probes_total", result="answered")
        wait_until(lambda: metric(daemon, "txmsg_grpc_probes_total", result="answered") > answered + 2, 20,
                   "the process reaches itself")
        assert daemon.get("/healthz")[0] == 200
        assert inside.publish([message(topic)], tx=uuid7()).state == CONFIRMED
    wait_until(lambda: metric(daemon, "txmsg_grpc_connections") < 16, 10, "their places are free again")
    assert served(daemon, topic)
    assert metric(daemon, "txmsg_grpc_probes_total", result="failed") == 0
    inside.close()
    assert daemon.stop() == 0


def test_without_descriptors_it_refuses_and_recovers(world, topic):
    """A listener that met EMFILE goes on: those that came meanwhile are reset, those that come later are served."""
    daemon = world.daemon("exhausted").start()
    pid = daemon.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert served(daemon, topic)
    refused = metric(daemon, "txmsg_grpc_connections_refused_total")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid) + 2, limits[1]))
    with connections(daemon.grpc_port, 100) as opened: # more than descriptors that are closed by and by
        wait_until(lambda: any(map(is_closed, opened)), 20, "connections are reset")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert metric(daemon, "txmsg_grpc_connections_refused_total") > refused
    wait_until(lambda: served(daemon, topic), 20, "it serves again")
    assert "no file descriptor is left" in daemon.log.read_text()
    assert daemon.stop() == 0


def test_the_limit_of_descriptors_is_raised(world, topic):
    daemon = world.daemon("raised", {"web.in_flight": 16, "web.idle": 16})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    daemon.wrapper = ["prlimit", "--nofile=128:"]
    daemon.start()
    assert metric(daemon, "txmsg_open_files_max") == hard
    assert 0 < metric(daemon, "txmsg_open_files") <= open_files(daemon.process.pid) + 2
    assert daemon.stop() == 0


def test_too_few_descriptors_cut_the_connections(world, topic):
    daemon = world.daemon("cut", {"web.in_flight": 16, "web.idle": 16, "grpc.connections": 10000})
    daemon.wrapper = ["prlimit", "--nofile=500:500"]
    daemon.start()
    assert "grpc.connections is cut from 10000 to " in daemon.log.read_text()
    assert served(daemon, topic)
    with connections(daemon.grpc_port, 480) as opened:
        wait_until(lambda: any(map(is_closed, opened)), 20, "those beyond the bound are closed")
        assert daemon.get("/metrics")[0] == 200
    wait_until(lambda: served(daemon, topic), 20, "it serves")
    assert daemon.stop() == 0


def test_far_too_few_descriptors_are_an_error_of_the_configuration():
    done = subprocess.run(["prlimit", "--nofile=300:300", daemon_binary(BUILD), "--dsn", "host=127.0.0.1 port=1"],
                          capture_output=True, text=True, timeout=60, check=False, env=clean_environment())
    assert done.returncode == 2
    assert "300 file descriptors are allowed" in done.stderr and "LimitNOFILE" in done.stderr
