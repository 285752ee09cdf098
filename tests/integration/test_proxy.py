"""deploy/nginx/txmsg.conf: calls and errors come through it as they are, and hostile HTTP/2 does not."""

import multiprocessing
import ssl
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2
from harness import TOP, hostile
from harness.client import CONFIRMED, Client, message, prepare_request, refused, result_state
from harness.ids import uuid7
from harness.system import memory
from servers.process import Process, free_port, run, wait_until

MIB = 1 << 20
MAIN = """daemon off; master_process off; pid {here}/nginx.pid; error_log {here}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
    include {here}/txmsg.conf;
}}
"""


class Nginx:
    """nginx with the configuration as it is, but for addresses and the place of the certificate."""

    def __init__(self, directory, upstream):
        self.directory = directory
        self.port = free_port()
        directory.mkdir()
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", directory / "server.key",
             "-out", directory / "server.crt"])
        text = (TOP / "deploy/nginx/txmsg.conf").read_text()
        for old, new in (("127.0.0.1:7400", f"127.0.0.1:{upstream}"), ("listen 7443", f"listen 127.0.0.1:{self.port}"),
                         ("/etc/txmsg/tls", str(directory))):
            assert text.count(old) >= 1, old
            text = text.replace(old, new)
        (directory / "txmsg.conf").write_text(text)
        (directory / "nginx.conf").write_text(MAIN.format(here=directory))
        run(["nginx", "-t", "-p", directory, "-c", directory / "nginx.conf"])
        self.process = Process("nginx", ["nginx", "-p", directory, "-c", directory / "nginx.conf"],
                               directory / "nginx.log")

    def context(self):
        context = ssl.create_default_context(cafile=self.directory / "server.crt")
        context.set_alpn_protocols(["h2"])
        return context

    def channel(self):
        credentials = grpc.ssl_channel_credentials((self.directory / "server.crt").read_bytes())
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 64 * MIB),
            ("grpc.max_receive_message_length", 64 * MIB)])


class ProxyClient(Client):
    def __init__(self, nginx):
        super().__init__("127.0.0.1:1")
        self.channel.close()
        self.use(nginx.channel())


@pytest.fixture(scope="module")
def nginx(world):
    proxy = Nginx(world.directory / "nginx", world.txmsgd.grpc_port)
    yield proxy
    proxy.process.stop()


@pytest.fixture(scope="module")
def proxied(nginx):
    made = ProxyClient(nginx)
    wait_until(lambda: made.health.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True), 20, "it is served")
    yield made
    made.close()


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


def test_calls(proxied, topic):
    tx = uuid7()
    assert proxied.publish([message(topic, b"x" * 1_000_000)], tx=tx).state == CONFIRMED
    assert proxied.get(tx, bodies=True).messages[0].message.body == b"x" * 1_000_000
    requests = [prepare_request([message(topic, b"x" * 1_000_000)], tx=uuid7()) for _ in range(8)]
    assert len([result_state(r) for r in proxied.batch(requests)]) == 8
    for _ in range(300):
        assert proxied.publish([message(topic)], tx=uuid7()).state == CONFIRMED


def test_errors_keep_their_details(proxied, topic):
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        proxied.get(uuid7())
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        proxied.publish([message(topic)], tx="nonsense")


def test_a_stream(proxied):
    call = proxied.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(call).status == health_pb2.HealthCheckResponse.SERVING
    call.cancel()


def test_nobody_behind_it(world, tmp_path_factory):
    proxy = Nginx(tmp_path_factory.mktemp("away") / "nginx", free_port())
    client = ProxyClient(proxy)
    try:
        def answer():
            try:
                client.health.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
            except grpc.RpcError as error:
                return error
        error = wait_until(answer, 20, "an answer")
        assert error.code() == grpc.StatusCode.UNAVAILABLE and "busy or away" in error.details()
    finally:
        client.close()
        proxy.process.stop()


def attack(name, port, crt, seconds):
    context = ssl.create_default_context(cafile=crt)
    context.set_alpn_protocols(["h2"])
    hostile.ATTACKS[name](port, time.monotonic() + seconds, context)


@pytest.mark.parametrize("name", ["continuation", "hpack_string", "hpack_bomb", "rapid_reset", "unread_answers"])
def test_attacks_end_at_the_proxy(world, nginx, proxied, topic, name):
    """The daemon does not grow, and others are served through the same proxy meanwhile."""
    daemon = world.txmsgd
    before = memory(daemon.process.pid)[0]
    attacker = multiprocessing.get_context("spawn").Process(
        target=attack, args=(name, nginx.port, nginx.directory / "server.crt", 2), daemon=True)
    attacker.start()
    served = 0
    while attacker.is_alive():
        try:
            assert proxied.publish([message(topic)], tx=uuid7()).state == CONFIRMED
            served += 1
        except grpc.RpcError as error: # the one connection of the proxy's own that an attack shares may be closed
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    attacker.join()
    assert attacker.exitcode == 0 and served > 0
    assert memory(daemon.process.pid)[0] - before < 128 * MIB # without the proxy it is several hundred
    daemon.process.check_alive()
