"""Thousands of connections, garbage, slow and dead peers: others are served all the while, and memory comes to an end."""

import contextlib
import os
import resource
import socket
import threading

import grpc
import pytest
from harness import http2
from harness.client import CONFIRMED, Client, message
from harness.ids import uuid7
from harness.system import memory, metric
from servers.process import wait_until

MIB = 1 << 20
# Both sides are on this machine: each process needs a descriptor for every connection, and some for itself.
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
CROWD = min(10000, HARD - 3000)
GARBAGE = 64 * MIB
OPTIONS = {"grpc.connections": CROWD + 50, "grpc.handshake_timeout": "120s"}


@pytest.fixture(scope="module", autouse=True)
def many_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (HARD, HARD))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


class Bystander:
    """A caller that publishes without a pause, over one connection and over new ones; every call must succeed."""

    def __init__(self, daemon, topic):
        self.daemon, self.topic = daemon, topic
        self.done, self.faults, self.ending = 0, [], threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        stays = Client(self.daemon.grpc)
        while not self.ending.is_set():
            comes = Client(self.daemon.grpc)
            try:
                for client in (stays, comes):
                    assert client.publish([message(self.topic)], tx=uuid7()).state == CONFIRMED
                self.done += 1
            except grpc.RpcError as error:
                self.faults.append(error)
            finally:
                comes.close()
        stays.close()

    def __enter__(self):
        self.thread.start()
        self.goes_on()
        return self

    def goes_on(self, rounds=3):
        until = self.done + rounds
        wait_until(lambda: self.done >= until or self.faults, 60, "the bystander is served")
        assert not self.faults, self.faults[0]

    def __exit__(self, *_):
        self.ending.set()
        self.thread.join(60)
        assert not self.faults, self.faults[0]


@contextlib.contextmanager
def crowd(port, n, hello):
    opened = []
    try:
        for i in range(n):
            s = socket.create_connection(("127.0.0.1", port), timeout=30)
            opened.append(s)
            s.sendall(hello(i))
        yield opened
    finally:
        for s in opened:
            s.close()


def test_ten_thousand_connections(world, topic):
    """A third says nothing, a third stops within the preface, a third in the middle of a call."""
    daemon = world.txmsgd
    part = [b"", http2.PREFACE[:10], http2.PREFACE + http2.settings() + http2.call(1, "/x", b"")[:40]]
    before = memory(daemon.process.pid)[0]
    with Bystander(daemon, topic) as bystander:
        with crowd(daemon.grpc_port, CROWD, lambda i: part[i % 3]) as opened:
            wait_until(lambda: metric(daemon, "txmsg_grpc_connections") >= CROWD * 0.6, 30, "they are there")
            bystander.goes_on(5)
            assert daemon.get("/healthz")[0] == 200
            used = memory(daemon.process.pid)[0] - before
        print(f"{len(opened)} connections: {used // MIB} MiB")
        assert used < CROWD * 100_000, f"{used // MIB} MiB for {CROWD} connections"
        wait_until(lambda: metric(daemon, "txmsg_grpc_connections") < 100, 60, "they are gone")
        bystander.goes_on()


@pytest.mark.parametrize("port", ["grpc_port", "http_port"])
@pytest.mark.parametrize("after", ["nothing", "a good beginning"])
def test_garbage(world, topic, port, after):
    """64 MiB over the four of noise, each over as many connections as the daemon likes to end."""
    daemon = world.txmsgd
    good = {"nothing": b"", "a good beginning": http2.PREFACE + http2.settings() if port == "grpc_port" else
            b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"}[after]
    noise = os.urandom(MIB)
    with Bystander(daemon, topic) as bystander:
        sent = 0
        while sent < GARBAGE // 4:
            with socket.create_connection(("127.0.0.1", getattr(daemon, port)), timeout=30) as s:
                with contextlib.suppress(ConnectionError):
                    s.sendall(good)
                    for i in range(0, MIB, 16384):
                        s.sendall(noise[i:i + 16384])
                        sent += 16384
                sent += 16384
        bystander.goes_on()
    assert daemon.get("/healthz")[0] == 200


def test_slow_senders(world, topic):
    """A byte at a time, to both ports; that of HTTP closes after a while, others wait until then at most."""
    daemon = world.txmsgd
    whole = http2.PREFACE + http2.settings() + http2.call(1, "/grpc.health.v1.Health/Check", b"")
    with Bystander(daemon, topic) as bystander, crowd(daemon.grpc_port, 200, lambda i: b"") as slow:
        for byte in whole:
            for s in slow:
                with contextlib.suppress(ConnectionError):
                    s.sendall(bytes([byte]))
        bystander.goes_on()
        assert daemon.get("/metrics")[0] == 200


def test_dead_peers(world):
    """Those who do not answer a ping are closed (grpc.keepalive): a half-open connection ends the same way."""
    daemon = world.daemon("pinging", {"grpc.keepalive": "1s"}).start()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(http2.Connection(daemon.grpc_port)) for _ in range(20)]
        for c in silent:
            c.send(http2.frame(http2.SETTINGS, b"", http2.ACK) + http2.frame(
                http2.HEADERS, http2.headers_of("/txmsg.v1.MessageService/Prepare"), http2.END_HEADERS, 1))
        for c in silent:
            with pytest.raises(ConnectionError):
                while True:
                    c.read()
    assert daemon.stop() == 0
