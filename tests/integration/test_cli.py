"""txmsgctl: tables for people, JSON for programs, exit codes for scripts."""

import concurrent.futures
import json

import pytest
from harness import BUILD
from harness.client import CANCELLED, CONFIRMED, PREPARED
from harness.ids import uuid7
from servers.process import free_port
from servers.txmsgd import Ctl


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


def test_prepare_confirm_get(world, client, topic, tmp_path):
    tx = uuid7()
    body = tmp_path / "body"
    body.write_bytes(b"\x00from a file")
    out = world.ctl("prepare", "--producer", "shop", "--topic", topic, "--body-file", body, "--key", "k1", "--header",
                    "colour=blue", "--header", "empty=", "--content-type", "text/plain", "--business-key", "order-1",
                    "--id", tx, "--check-after", "1h")
    assert tx in out and "prepared" in out
    stored = client.get(tx, bodies=True)
    assert (stored.state, stored.business_key) == (PREPARED, "order-1")
    assert stored.messages[0].message.body == b"\x00from a file"
    assert dict(stored.messages[0].message.headers) == {"colour": "blue", "empty": ""}
    assert tx in world.ctl("get", tx)
    assert "confirmed" in world.ctl("confirm", tx, "--producer", "shop")
    assert "confirmed" in world.ctl("get", tx)
    assert client.get(tx).state == CONFIRMED


def test_publish_without_an_id(world, client, topic):
    answer = world.ctl.json("publish", "--producer", "shop", "--topic", topic, "--body", "text")
    tx = find(answer, "transaction_id", "transactionId")
    stored = client.get(tx, bodies=True)
    assert (stored.state, stored.messages[0].message.body) == (CONFIRMED, b"text")


def find(value, *names):
    """The first member with one of these names, at any depth."""
    if isinstance(value, dict):
        for name in names:
            if name in value:
                return value[name]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            found = find(item, *names)
            if found is not None:
                return found
    return None


def test_cancel_with_a_reason(world, client, topic):
    tx = find(world.ctl.json("prepare", "--producer", "shop", "--topic", topic), "transaction_id", "transactionId")
    world.ctl("cancel", tx, "--producer", "shop", "--reason", "sold out")
    assert client.get(tx).state == CANCELLED
    assert client.get(tx).reason == "sold out"


def test_list(world, client, topic):
    tx = find(world.ctl.json("prepare", "--producer", "shop", "--topic", topic, "--business-key", "list-me"),
              "transaction_id", "transactionId")
    for filters in (["--producer", "shop", "--business-key", "list-me"], ["--topic", topic, "--state", "prepared"],
                    ["--since", "1h", "--limit", "100"]):
        assert tx in world.ctl("list", *filters)
        assert tx in json.dumps(world.ctl.json("list", *filters))
    assert tx not in world.ctl("list", "--topic", topic, "--state", "confirmed")
    client.cancel(tx)


def test_tables_fit_a_terminal(world, topic):
    world.ctl("publish", "--producer", "shop", "--topic", topic, "--business-key", "x" * 250)
    table = world.ctl("list", "--topic", topic)
    assert table.strip() and "\x1b" not in table
    assert "\t" not in table


def test_get_bodies(world, topic):
    tx = find(world.ctl.json("publish", "--producer", "shop", "--topic", topic, "--body", "look inside"),
              "transaction_id", "transactionId")
    assert "look inside" in world.ctl("get", tx, "--bodies")
    assert "look inside" not in world.ctl("get", tx)


def test_refused_is_1(world, topic):
    tx = uuid7()
    done = world.ctl.run("confirm", tx)
    assert done.returncode == 1 and not done.stdout
    assert "NOT_FOUND TRANSACTION_NOT_FOUND:" in done.stderr and len(done.stderr.splitlines()) <= 3
    done = world.ctl.run("publish", "--producer", "shop", "--topic", "no-such-topic")
    assert done.returncode == 1 and "TOPIC_NOT_FOUND" in done.stderr
    done = world.ctl.run("--json", "confirm", tx)
    assert done.returncode == 1


USAGE = [[], ["no-such-command"], ["confirm"], ["confirm", "--no-such-flag", "x"], ["publish"], ["get"],
         ["stuck", "resolve", "x"], ["stuck", "resolve", "x", "--decision", "maybe", "--reason", "r"],
         ["list", "--state", "nowhere"], ["prepare", "--producer", "shop", "--topic", "t", "--header", "noequals"],
         ["--timeout", "soon", "list"], ["dead", "redrive"], ["apply"], ["pause"], ["resume", "a", "b"],
         *[[*command, "--limit", bad] for command in (["list"], ["dead", "list"]) for bad in ("5x", "", "-1", "0", " 5", "9" * 20)]]


@pytest.mark.parametrize("args", USAGE, ids=" ".join)
def test_usage_is_2(world, args):
    done = world.ctl.run(*args)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.strip() and "\n\n\n" not in done.stderr


def test_help_is_0(world):
    done = world.ctl.run("--help")
    assert done.returncode == 0
    for command in ("migrate", "apply", "export", "prepare", "publish", "confirm", "cancel", "get", "list", "dead", "stuck"):
        assert command in done.stdout


def test_unreachable_is_3(world, site):
    nobody = Ctl(BUILD, server=f"127.0.0.1:{free_port()}")
    done = nobody.run("--timeout", "2s", "list")
    assert done.returncode == 3 and done.stderr.strip()
    done = world.ctl.run("migrate", "status", env={"TXMSG_DSN": f"host=127.0.0.1 port={free_port()} user=u dbname=d"})
    assert done.returncode == 3 and done.stderr.strip()


def test_apply_names_what_is_wrong(world):
    done = world.ctl.run("apply", "-f", "-", stdin="topics:\n  - name: fine\n  - nmae: typo\n")
    assert done.returncode in (1, 2) and "nmae" in done.stderr
    done = world.ctl.run("apply", "-f", "-", stdin="topics: [")
    assert done.returncode in (1, 2) and done.stderr.strip()
    done = world.ctl.run("apply", "-f", "/no/such/file")
    assert done.returncode == 2 and "/no/such/file" in done.stderr
    assert "fine" not in world.ctl("export")


def test_apply_yaml_as_people_write_it(world, client, tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text("""
# comments and block style
topics:
  - name: yaml
producers:
  - name: yaml
    check:
      endpoints: ["http://127.0.0.1:9/check"]
      first_after: 90s
      factor: 1.5
      include_body: true
subscriptions:
  - name: yaml-log
    topic: yaml
    sink: {log: {}}
    retry:
      max_attempts: 3
      initial: 250ms
""", encoding="utf-8")
    assert "yaml-log" in world.ctl("apply", "-f", path)
    world.wait_applied()
    exported = world.ctl("export")
    assert "yaml-log" in exported and "90s" in exported
    again = world.ctl("apply", "-f", "-", stdin=exported)
    assert "yaml-log" not in again
    assert find(world.ctl.json("publish", "--producer", "yaml", "--topic", "yaml"), "transaction_id", "transactionId")


class TestMigrate:
    @pytest.fixture
    def empty(self, world):
        name = f"{world.name}_{next(world.serial)}"
        return Ctl(BUILD, dsn=world.postgres.create_database(name))

    def test_up_is_idempotent(self, empty):
        assert empty.run("migrate", "status").returncode in (0, 1)
        assert empty("migrate", "plan").strip()
        empty("migrate", "up")
        status = empty("migrate", "status")
        empty("migrate", "up")
        assert empty("migrate", "status") == status

    def test_flag_beats_environment(self, world, empty):
        done = world.ctl.run("migrate", "up", "--dsn", empty.dsn, env={"TXMSG_DSN": "host=127.0.0.1 port=1"})
        assert done.returncode == 0, done.stderr

    def test_two_at_once(self, empty):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            codes = [d.returncode for d in pool.map(lambda _: empty.run("migrate", "up"), range(4))]
        assert codes == [0] * 4


def test_lists_without_a_limit_go_to_the_last_page(world):
    """More topics than one page holds: all are listed, in one table and in one JSON document."""
    names = [f"page-{i:04}" for i in range(1005)]
    world.ctl.apply({"topics": [{"name": name} for name in names]})
    table = world.ctl.run("topics")
    assert table.returncode == 0 and not table.stderr
    assert [line.split()[0] for line in table.stdout.splitlines() if line.startswith("page-")] == names
    answer = world.ctl.json("topics")
    assert [t["name"] for t in answer["topics"] if t["name"].startswith("page-")] == names
    assert "next_page_token" not in answer or not answer["next_page_token"]
