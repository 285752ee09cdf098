"""The disk of the database is full: a real one, a small file system in memory. Needs the right to mount it."""

import contextlib
import os
import shutil
import subprocess

import grpc
import pytest
from harness.client import Client, error_of, message, publish_request
from harness.ids import uuid7
from harness.world import POSTGRES, metric
from servers.postgres import Postgres
from servers.process import wait_until

SIZE_MB, BODY = 48, b"x" * 200_000


@contextlib.contextmanager
def small_disk(path, user):
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "txmsg-test", path], check=False,
                          stderr=subprocess.PIPE)
    if made.returncode:
        pytest.skip(f"cannot mount: {made.stderr.decode().strip()}")
    try:
        if user:
            shutil.chown(path, user)
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_disk_full(site):
    """Tables lie on the small disk, WAL does not. When it is full nothing is answered OK that is not stored; when there is room again
    all goes on by itself."""
    with contextlib.ExitStack() as stack:
        postgres = Postgres(site.base / "postgres-full", POSTGRES)
        disk = stack.enter_context(small_disk(site.base / "small", postgres.user))
        postgres.start()
        stack.callback(postgres.close)
        postgres.psql(f"CREATE TABLESPACE small LOCATION '{disk}'")
        postgres.psql("ALTER SYSTEM SET default_tablespace = 'small'")
        postgres.psql("SELECT pg_reload_conf()")
        world = site.world("full", postgres=postgres)
        stack.callback(world.close)
        world.start()
        topic = world.topic(nowhere={"discard": {}})
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (8 << 20))
        stored, open_ = [], None
        client = Client(world.txmsgd.grpc)

        def publish(tx):
            client.messages.Publish(publish_request([message(topic, BODY)], tx=tx), timeout=20)
            stored.append(tx)

        while open_ is None and len(stored) < 1000:
            tx = uuid7()
            try:
                publish(tx)
            except grpc.RpcError as error:
                found = error_of(error)
                assert (found.code, found.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE"), found
                assert "53100" in world.txmsgd.log.read_text(encoding="utf-8"), "for another reason"
                open_ = tx
        assert open_, "the disk never was full"
        assert metric(world.txmsgd, "txmsg_store_errors_total", **{"class": "unavailable"}) > 0
        assert world.sql("SELECT count(*) FROM message WHERE tx = %s::uuid", open_)[0][0] == 0
        ballast.unlink()

        def again():
            try:
                publish(open_)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                return False
            return True

        wait_until(again, 60, "there is room again, and it is stored")
        rows = {str(tx) for (tx,) in world.sql("SELECT tx FROM decision")}
        assert rows == set(stored), "what is stored is what was answered OK"
        client.close()
