"""Addresses that are not connected to: of check endpoints and of consumers, over every protocol. It is an error that says so, never a verdict."""

import os
import re
import shutil
import socket
import subprocess

import pika
import pytest
from harness import BUILD
from harness.checks import CheckServer
from harness.client import CONFIRMED, DELIVERY, PREPARED, message
from harness.consumers import ConsumerServer
from harness.ids import uuid7
from harness.peers import Proxy
from harness.world import subscription
from servers.process import ServerError, wait_until

OPTIONS = {"web.allow": ""}


def undecided(world, client, endpoint):
    topic, name, tx = world.topic(nowhere={"discard": {}}), world.unique("p"), uuid7()
    world.apply(producers=[{"name": name, "check": {"endpoints": [endpoint], "first_after": "1s", "initial": "1s",
                                                    "max": "1s", "max_unknowns": 1, "timeout": "2s"}}])
    client.prepare([message(topic)], tx=tx, producer=name)
    wait_until(lambda: world.sql("SELECT failures FROM check_due WHERE tx = %s", tx)[:1] >= [(2,)], 30, "it was tried twice")
    view = client.get(tx)
    assert (view.state, view.checks.unknowns) == (PREPARED, 0)
    return tx, view.checks.last_error


def test_check_endpoint_on_loopback(world, client):
    endpoint = world.check_endpoint()
    tx, error = undecided(world, client, endpoint.url("/check"))
    assert "address 127.0.0.1 is loopback: not allowed" in error
    assert not endpoint.got()
    assert client.confirm(tx).state == CONFIRMED


@pytest.mark.parametrize("host, what", [("169.254.169.254", "link-local"), ("[fe80::1]", "link-local"),
                                        ("[fd00:ec2::254]", "cloud metadata"), ("0.0.0.0", "of this network"),
                                        ("[::ffff:169.254.169.254]", "link-local"), ("10.1.2.3", "private")])
def test_check_endpoint_elsewhere(world, client, host, what):
    tx, error = undecided(world, client, f"http://{host}:9/check")
    assert what in error and "not allowed" in error
    client.cancel(tx)


def test_http_consumer(world, client):
    sink, topic = world.sink(), world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink)])
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    delivery = world.wait_delivery(tx, topic, DELIVERY["RETRYING"])
    assert "address 127.0.0.1 is loopback: not allowed" in delivery.last_error
    assert not sink.got()


def test_grpc_check_endpoint(world, client):
    server = CheckServer()
    try:
        for endpoint in (server.url, server.url.replace("127.0.0.1", "localhost"), server.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
            tx, error = undecided(world, client, endpoint)
            assert "127.0.0.1 is loopback: not allowed" in error or "::1 is loopback: not allowed" in error, endpoint
            client.cancel(tx)
        assert not server.checks
    finally:
        server.close()


@pytest.mark.parametrize("host, what", [("169.254.169.254", "link-local"), ("[fd00:ec2::254]", "cloud metadata"), ("10.1.2.3", "private")])
def test_grpc_check_endpoint_elsewhere(world, client, host, what):
    tx, error = undecided(world, client, f"grpc://{host}:9")
    assert what in error and "not allowed" in error
    client.cancel(tx)


def listener():
    """A port where every connection counts."""
    return socket.create_server(("127.0.0.1", 0))


def connected(server):
    server.settimeout(0)
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("kind", ["grpc", "rabbitmq", "amqps"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_consumer(world, client, kind, host):
    """It is said in the delivery, and nobody was connected to."""
    with listener() as server:
        port, topic = server.getsockname()[1], world.unique("t")
        scheme = "amqps" if kind == "amqps" else "amqp"
        sink = {"grpc": {"endpoints": [f"grpc://{host}:{port}"]}} if kind == "grpc" else {"rabbitmq": {"url": f"{scheme}://a:b@{host}:{port}"}}
        world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink)])
        tx = client.publish([message(topic)], tx=uuid7()).transaction_id
        delivery = world.wait_delivery(tx, topic, DELIVERY["RETRYING"])
        assert re.search(r"address (127.0.0.1|::1) is loopback: not allowed", delivery.last_error)
        assert not connected(server)


def test_allowed_by_the_list(site):
    """One network of two; and what is link-local stays closed though the list names it."""
    world = site.world("guard_list", {"web.allow": "127.0.0.0/8, 169.254.0.0/16"}).start()
    try:
        topic, sink = world.unique("t"), world.sink()
        world.apply(topics=[topic], producers=["shop"], subscriptions=[
            subscription(topic, topic, sink), subscription(f"{topic}-far", topic, {"http": {"url": "http://10.9.8.7:9/"}}),
            subscription(f"{topic}-local", topic, {"http": {"url": "http://169.254.1.2:9/"}}),
            subscription(f"{topic}-grpc", topic, {"grpc": {"endpoints": ["grpc://169.254.1.2:9"]}}),
            subscription(f"{topic}-rabbit", topic, {"rabbitmq": {"url": "amqp://a:b@169.254.1.2:9"}})])
        tx = world.client.publish([message(topic)], tx=uuid7()).transaction_id
        sink.wait_for(tx)
        assert "private: not allowed" in world.wait_delivery(tx, f"{topic}-far", DELIVERY["RETRYING"]).last_error
        for name in ("local", "grpc", "rabbit"):
            assert "link-local: not allowed" in world.wait_delivery(tx, f"{topic}-{name}", DELIVERY["RETRYING"]).last_error
    finally:
        world.close()


def test_a_list_that_is_wrong(site):
    world = site.world("guard_wrong", {"web.allow": "10.0.0.0/8, localhost"})
    with pytest.raises(ServerError, match="web.allow: localhost is not a network"):
        world.start()
    world.closing.clear() # it has ended
    world.close()


RESOLVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);
/* A name whose address changes when a file appears. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **ret) {
    lookup *next = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    if (name && !strcmp(name, "rebind.test") && !(hints && hints->ai_flags & AI_NUMERICHOST))
        name = access(getenv("REBIND_FILE"), F_OK) == 0 ? "169.254.169.254" : "127.0.0.1";
    return next(name, service, hints, ret);
}
"""


@pytest.fixture
def rebinding(site, tmp_path, monkeypatch):
    """A world whose resolver answers for rebind.test with an address that is allowed, until `turn` is called."""
    if not shutil.which("cc"):
        pytest.skip("there is no compiler for the resolver")
    if "libasan" in (needed := subprocess.run(["ldd", BUILD / "services/txmsgd/txmsgd"], capture_output=True, text=True).stdout) or "libtsan" in needed:
        pytest.skip("a sanitizer must be loaded first")
    source, library, turned = tmp_path / "resolver.c", tmp_path / "resolver.so", tmp_path / "turned"
    source.write_text(RESOLVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", os.fspath(library))
    monkeypatch.setenv("REBIND_FILE", os.fspath(turned))
    world = site.world("rebind", {"web.allow": "127.0.0.0/8"}).start()
    monkeypatch.delenv("LD_PRELOAD")
    world.turn = turned.touch
    try:
        yield world
    finally:
        world.close()


@pytest.mark.parametrize("kind", ["grpc", "rabbitmq"])
def test_a_name_that_changes_its_address(rebinding, site, kind):
    """It leads to a good address first. Then it leads to one that is never connected to, and the connection ends: no other is made."""
    world, topic = rebinding, rebinding.unique("t")
    if kind == "grpc":
        consumer = ConsumerServer()
        proxy = Proxy(consumer.port)
        sink = {"grpc": {"endpoints": [f"grpc://rebind.test:{proxy.port}"]}}
    else:
        consumer = pika.BlockingConnection(pika.URLParameters(site.rabbit.url()))
        consumer.channel().queue_declare(topic)
        proxy = Proxy(site.rabbit.port)
        url = site.rabbit.url().replace(f"127.0.0.1:{site.rabbit.port}", f"rebind.test:{proxy.port}")
        sink = {"rabbitmq": {"url": url, "routing_key": topic}}
    retry = {"initial": "200ms", "max": "200ms", "max_attempts": 1000}
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink, retry=retry)])

    def publish():
        return world.client.publish([message(topic)], tx=uuid7()).transaction_id

    def error(tx):
        return world.client.get(tx).messages[0].deliveries[0].last_error

    try:
        world.wait_delivery(publish(), topic, DELIVERY["DELIVERED"])
        world.turn()
        proxy.cut()
        tx = publish()
        wait_until(lambda: "address 169.254.169.254 is link-local: not allowed" in error(tx), 90, "the new address is refused")
    finally:
        proxy.close()
        consumer.close()
