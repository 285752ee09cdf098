"""libtxmsg as it is installed: its headers in C and C++, pkg-config, both forms of the library, what it exports, and that
every exported function is declared and explained."""

import contextlib
import os
import re
import subprocess
import time
import urllib.error
import urllib.request

import psycopg2
import pytest
import webhook
from harness import BUILD, TOP
from harness.client import CANCELLED, CHECK, CONFIRMED, message
from harness.ids import uuid7
from harness.recipes import recipes
from servers.process import free_port, wait_until

HEADERS = TOP / "client/include/txmsg"
LIBRARIES = ("libtxmsg", "libtxmsg-consumer", "libtxmsg-pq")
PROGRAM = """
#include <txmsg/txmsg.h>
int main(void) {
    txmsg_id id = {""};
    txmsg_message *m = txmsg_message_new("orders");
    int ok = m != NULL && txmsg_id_make(&id) == TXMSG_OK && txmsg_message_set_body(m, "x", 1) == TXMSG_OK;
    txmsg_message_free(m);
    return ok ? 0 : 1;
}
"""
COMPILERS = {"c11": ["cc", "-std=c11", "-x", "c"], "c++": ["c++", "-std=c++11", "-x", "c++"]}
OVER_LIBPQ = {"inbox.h", "local_tx.h", "pq.h"} # of libtxmsg-pq
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def run(*command, **more):
    done = subprocess.run([os.fspath(c) for c in command], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with the library installed below it, and the environment to find it."""
    root = tmp_path_factory.mktemp("installed")
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--tags", "devel,runtime,man", "--destdir", root)
    found, = root.rglob("libtxmsg.pc")
    libraries = found.parent.parent
    env = {**os.environ, "PKG_CONFIG_PATH": str(found.parent), "PKG_CONFIG_SYSROOT_DIR": str(root),
           "LD_LIBRARY_PATH": str(libraries)}
    return libraries, env


def flags(env, *what):
    return run("pkg-config", *what, "libtxmsg", env=env).split()


def symbol_map(library):
    return (TOP / f"client/{library}/{library}.map").read_text(encoding="utf-8")


def exported(library="libtxmsg"):
    return set(re.findall(r"^\s+(txmsg_\w+);", symbol_map(library), re.M))


def declarations():
    """Name of each exported function -> the comment before it."""
    found = {}
    for header in sorted(HEADERS.glob("*.h")):
        text = header.read_text(encoding="utf-8")
        for match in re.finditer(r"((?:^/\*(?:(?!\*/).)*\*/\n)?)^TXMSG_API[^;]*?\b(txmsg_\w+)\(", text, re.M | re.S):
            found[match[2]] = match[1]
    return found


@pytest.mark.parametrize("language", COMPILERS)
def test_a_program_builds_and_runs_with_the_shared_library(installed, tmp_path, language):
    libraries, env = installed
    program = tmp_path / "program"
    run(*COMPILERS[language], *STRICT, "-", *flags(env, "--cflags"), "-o", program, *flags(env, "--libs"),
        input=PROGRAM, env=env)
    assert re.search(r"libtxmsg\.so\.0 => " + re.escape(str(libraries)), run("ldd", program, env=env))
    run(program, env=env)


def test_a_program_builds_and_runs_with_the_static_library(installed, tmp_path):
    libraries, env = installed
    program = tmp_path / "program"
    private = [f for f in flags(env, "--static", "--libs") if f not in flags(env, "--libs")]
    run(*COMPILERS["c11"], *STRICT, "-", *flags(env, "--cflags"), "-o", program, "-x", "none", libraries / "libtxmsg.a",
        *private, input=PROGRAM, env=env)
    assert "libtxmsg" not in run("ldd", program)
    run(program)


@pytest.mark.parametrize("header", sorted(h.name for h in HEADERS.glob("*.h")))
@pytest.mark.parametrize("language", COMPILERS)
def test_each_header_stands_alone(installed, language, header):
    _, env = installed
    system = run("pkg-config", "--cflags", "libpq").split() if header in OVER_LIBPQ else []
    run(*COMPILERS[language], *STRICT, "-fsyntax-only", "-", *flags(env, "--cflags"), *system,
        input=f"#include <txmsg/{header}>\n#include <txmsg/{header}>\n", env=env)


def test_all_headers_are_installed(installed):
    libraries, _ = installed
    there = {h.name for h in next(p for p in libraries.parents if p.name != "lib").rglob("txmsg/*.h")}
    assert {h.name for h in HEADERS.glob("*.h")} <= there


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_else_is_exported(installed, library):
    """Not the generated code, not our rooms: they would collide with those of the application."""
    libraries, _ = installed
    version = symbol_map(library).split()[0]
    shared = run("nm", "-D", "--defined-only", libraries / f"{library}.so")
    assert {line.split()[-1] for line in shared.splitlines()} - {version} == \
        {f"{name}@@{version}" for name in exported(library)}
    static = run("nm", "-g", "--defined-only", libraries / f"{library}.a")
    assert set(re.findall(r"^[0-9a-f]+ \w (\w+)$", static, re.M)) == exported(library)


def test_every_exported_function_of_all_libraries_is_declared():
    assert set(declarations()) == set().union(*map(exported, LIBRARIES))


def test_every_exported_function_is_declared_and_explained():
    declared = declarations() # the other libraries have tests of their own
    own = {name for text in (HEADERS / "txmsg.h").read_text(encoding="utf-8").splitlines() if "#include" in text
           for name in re.findall(r"\b(txmsg_\w+)\(", (HEADERS / text.split("/")[1].rstrip('"')).read_text(encoding="utf-8"))
           if name in declared}
    assert own == exported()
    assert not [name for name in own if len(declared[name]) < 20], "functions without a comment"


def test_the_example_sends(installed, tmp_path, world):
    """As its head says, against a running service."""
    _, env = installed
    topic = world.topic(sink={"discard": {}})
    program = tmp_path / "send"
    run(*COMPILERS["c11"], *STRICT, TOP / "client/examples/c/send.c", "-x", "none", *flags(env, "--cflags", "--libs"),
        "-o", program, env=env)
    lines = run(program, topic, "tea", world.txmsgd.grpc, env=env).splitlines()
    assert lines[1].startswith("OK ")
    assert world.wait_state(lines[1].split()[1], 2)


@pytest.fixture
def check_http(installed, tmp_path, world):
    """The example that answers checks over HTTP, built as its head says and started on a database: its port."""
    _, env = installed
    program = tmp_path / "check_http"
    libraries = run("pkg-config", "--cflags", "--libs", "libtxmsg-consumer", "libtxmsg-pq", env=env).split() + \
        run("pkg-config", "--cflags", "--libs", "libmicrohttpd", "jansson", "libpq").split()
    run(*COMPILERS["c11"], "-D_DEFAULT_SOURCE", *STRICT, TOP / "client/examples/c/check_http.c", "-x", "none", *libraries,
        "-o", program, env=env)
    with contextlib.ExitStack() as started:
        def start(database, secret):
            at, port = psycopg2.extensions.parse_dsn(world.postgres.dsn(database)), free_port()
            there = {f"PG{name}": at[key] for name, key in
                     {"HOST": "host", "PORT": "port", "USER": "user", "DATABASE": "dbname"}.items()}
            process = subprocess.Popen([program, str(port)], stdin=subprocess.PIPE,
                                       env={**env, **there, "CHECK_SECRET": secret})
            started.callback(lambda: (process.stdin.close(), process.wait(30)))
            wait_until(lambda: post(port, b"", {}) == 401, 30, "it listens")
            return port

        yield start


def post(port, body, headers):
    """The status of a question; None: nobody is there."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/check", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def signed(secret, body):
    now = str(int(time.time()))
    return {"webhook-id": "1", "webhook-timestamp": now, "webhook-signature": webhook.sign(secret, "1", now, body)}


def test_the_example_answers_checks_over_http(check_http, world):
    """From the record of local transactions: what is there committed, what is not there never can any more."""
    database, secret, topic = f"{world.name}_record", webhook.new_secret(), world.topic(sink={"discard": {}})
    record = recipes("local-transaction-record.md", "PostgreSQL")
    world.postgres.create_database(database)
    port = check_http(database, secret)
    world.apply(producers=[{"name": "recorded", "check": {
        "endpoints": [f"http://127.0.0.1:{port}/check"], "secret": secret, "first_after": "1s", "initial": "1s"}}])
    ids = [uuid7(), uuid7()]
    with contextlib.closing(psycopg2.connect(world.postgres.dsn(database))) as db, db, db.cursor() as sql:
        for statement in record["schema"]:
            sql.execute(statement)
        sql.execute("INSERT INTO txmsg_local_tx VALUES (%s, 'COMMITTED')", (ids[0],))
    for tx in ids:
        world.client.prepare([message(topic)], tx=tx, producer="recorded")
    assert [world.wait_state(tx, state).origin for tx, state in zip(ids, (CONFIRMED, CANCELLED))] == [CHECK, CHECK]
    with contextlib.closing(psycopg2.connect(world.postgres.dsn(database))) as db, db.cursor() as sql:
        sql.execute("SELECT decision FROM txmsg_local_tx WHERE id = %s", (ids[1],))
        assert sql.fetchone() == ("ROLLED_BACK",)


def test_the_http_example_answers_nothing_in_doubt(check_http, world):
    secret = webhook.new_secret()
    port = check_http(f"{world.name}_that_is_not_there", secret)
    question = b'{"transactionId": "%s"}' % uuid7().encode()
    assert post(port, question, signed(secret, question)) == 503
    assert post(port, question, signed(webhook.new_secret(), question)) == 401
    assert post(port, b"{}", signed(secret, b"{}")) == 400


def test_the_man_page_reads_and_names_what_is_there(installed):
    """What it writes as a function is one that is exported."""
    page = (TOP / "client/libtxmsg.3").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(txmsg_\w+)\b(?= ?\()", page))
    assert named and named <= exported(), named - exported()
    libraries, _ = installed
    assert list(next(p for p in libraries.parents if p.name != "lib").rglob("libtxmsg.3*"))
