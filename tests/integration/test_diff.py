"""diff, apply and export by command line: what would change, field by field, and what is stored as YAML that goes in again."""

import json

import pytest
from harness.world import subscription

SECRET = "whsec_" + "QUJD" * 8
OTHER = "whsec_" + "REVG" * 8


@pytest.fixture(scope="module")
def stored(world):
    """Something of everything that a topology may say."""
    topology = {
        "topics": [{"name": "orders", "description": "yes: \"a\" # b"}, {"name": "10"}],
        "producers": [{"name": "shop", "check": {"endpoints": ["http://127.0.0.1:9/check"], "secret": SECRET,
                                                 "first_after": "90s", "jitter": 0.5}}],
        "subscriptions": [
            subscription("hook", "orders", {"http": {"url": "http://127.0.0.1:9/hook", "secret": SECRET,
                                                     "headers": {"X-Token": "t0k3n", "true": "null"}}},
                         retry={"max_attempts": 10, "intervals": ["1s", "1.5s"]}),
            subscription("rabbit", "orders", {"rabbitmq": {"url": "amqp://me:pa55w0rd@127.0.0.1:9/"}},
                         filter={"headers": {"kind": "1"}}),
            subscription("log", "10", {"log": {}})]}
    world.ctl.apply(topology)
    return topology


def test_an_export_is_yaml_that_changes_nothing(world, stored):
    text = world.ctl("export")
    assert text.startswith("topics:\n  - name: ") and "{" not in text.replace("{}", "")
    for word in (SECRET, "t0k3n", "pa55w0rd"):
        assert word not in text
    done = world.ctl.run("diff", "--prune", "-f", "-", stdin=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    epoch = world.ctl.json("export")["epoch"]
    assert "nothing to change" in world.ctl("apply", "--prune", "-f", "-", stdin=text)
    assert world.ctl.json("export")["epoch"] == epoch and world.ctl("export") == text


def test_an_edited_export_is_applied_and_says_each_field(world, stored):
    text = world.ctl("export")
    edited = text.replace("max_attempts: 10", "max_attempts: 5").replace("secret: \"***\"", f"secret: {OTHER}", 1)
    assert edited != text
    done = world.ctl.run("diff", "-f", "-", stdin=edited)
    assert done.returncode == 5 and not done.stderr
    assert done.stdout.splitlines() == ["update producer shop", "  check.secret: \"***\" -> \"***\"",
                                        "update subscription hook", "  retry.max_attempts: 10 -> 5"]
    assert world.ctl("export") == text
    assert world.ctl("apply", "-f", "-", stdin=edited) == done.stdout
    assert "max_attempts: 5" in world.ctl("export")
    assert "nothing to change" in world.ctl("apply", "-f", "-", stdin=edited)
    assert world.sql("SELECT spec->'check'->>'secret' FROM producer WHERE name = 'shop'") == [(OTHER,)]
    world.ctl.apply(stored)


def test_what_is_new_goes_and_stays_out(world, stored):
    text = world.ctl("export")
    more = text.replace("topics:\n", "topics:\n  - name: added\n", 1)
    lines = world.ctl.run("diff", "-f", "-", stdin=more).stdout.splitlines()
    assert lines == ["create topic added"]
    less = {"topics": stored["topics"][:1], "producers": stored["producers"], "subscriptions": stored["subscriptions"][:2]}
    done = world.ctl.run("diff", "--prune", "-f", "-", stdin=json.dumps(less))
    assert done.returncode == 5 and set(done.stdout.splitlines()) == {"delete topic 10", "delete subscription log"}
    done = world.ctl.run("diff", "-f", "-", stdin=json.dumps(less))
    assert done.returncode == 0 and not done.stdout
    answer = world.ctl.run("--json", "diff", "--prune", "-f", "-", stdin=json.dumps(less))
    assert answer.returncode == 5 and len(json.loads(answer.stdout)["changes"]) == 2


def test_prune_is_asked_about_only_when_something_goes(world, stored):
    world.ctl.apply({"topics": [{"name": "going"}]})
    whole = json.dumps(stored)
    done = world.ctl.run("apply", "--prune", "-f", "-", stdin=whole)
    assert done.returncode == 2 and "--yes" in done.stderr and "delete topic going" in done.stdout
    assert "going" in world.ctl("topics")
    assert "dry run" in world.ctl("apply", "--prune", "--dry-run", "-f", "-", stdin=whole)
    assert "delete topic going" in world.ctl("apply", "--prune", "--yes", "-f", "-", stdin=whole)
    assert "nothing to change" in world.ctl("apply", "--prune", "-f", "-", stdin=whole)


@pytest.mark.parametrize("text", ["topics: [", "topics:\n  - nmae: x\n"])
def test_diff_of_a_bad_file_is_no_difference(world, text):
    done = world.ctl.run("diff", "-f", "-", stdin=text)
    assert done.returncode == 2 and done.stderr
    assert world.ctl.run("diff").returncode == 2
    done = world.ctl.run("diff", "-f", "-", stdin="subscriptions:\n  - {name: x, topic: nowhere, sink: {log: {}}}\n")
    assert done.returncode == 1 and "INVALID_FIELD" in done.stderr
