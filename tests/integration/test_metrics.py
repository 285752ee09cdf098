"""What /metrics serves, and the alert rules that stand on it. promtool is Prometheus' own reader of both."""

import re
import subprocess

import pytest
from harness import TOP
from harness.client import message
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import metric, subscription
from servers.process import wait_until

PLACE = TOP / "deploy/prometheus"
RULES = PLACE / "txmsg.rules.yml"
PAGE = TOP / "deploy/README.md"
# The names that the service promises.
PROMISED = {"txmsg_oldest_undecided_seconds": set(), "txmsg_oldest_undelivered_seconds": {"subscription"},
            "txmsg_requests_total": {"method", "code"}, "txmsg_request_seconds": {"method"},
            "txmsg_decisions_total": {"decision", "origin"}, "txmsg_checks_total": {"producer", "result"},
            "txmsg_attempts_total": {"subscription", "result"}, "txmsg_delivery_seconds": {"subscription"},
            "txmsg_dead_letters": {"subscription"}, "txmsg_stuck": set(), "txmsg_lane_takeovers_total": set(),
            "txmsg_possible_duplicates_total": set(), "txmsg_group_commit_size": set(), "txmsg_store_errors_total": {"class"}}
# Every label there is. What others name (subscriptions, producers) is bounded; the rest are words of ours.
LABELS = {"subscription", "producer", "method", "code", "decision", "origin", "result", "reason", "class", "resolution", "of",
          "source", "le"}


def promtool(*args, stdin=None):
    return subprocess.run(["promtool", *map(str, args)], input=stdin, capture_output=True, text=True, timeout=120, check=False,
                          cwd=PLACE)


RULE = re.compile(r"- alert: (?P<alert>\w+)\n +expr: (?P<expr>.*?)\n(?: +for: \w+\n)? +labels: \{severity: (?P<severity>\w+)\}\n"
                  r" +annotations:\n +summary: (?P<summary>[^\n]+)\n +description: (?P<description>[^\n]+)\n +runbook: (?P<runbook>\S+)\n", re.S)


def rules():
    """The alerts as dicts. promtool reads the YAML; here its one layout is enough."""
    body = RULES.read_text()
    found = [m.groupdict() for m in RULE.finditer(body)]
    assert len(found) == body.count("- alert: ")
    return found


def names(text):
    return {m[1]: m[2] for m in re.finditer(r"^# TYPE (\w+) (\w+)$", text, re.M)}


def series(text):
    """(name, labels) of every sample."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()
            yield name, dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or ""))


def family(name):
    return re.sub(r"_(bucket|sum|count)$", "", name) if not name.endswith("_total") else name


@pytest.fixture(scope="module")
def text(world):
    """/metrics of a daemon that has delivered, failed to deliver, given up and asked."""
    endpoint, good = world.check_endpoint(), world.sink()
    world.apply(topics=["orders"], producers=[
        {"name": "shop", "check": {"endpoints": [endpoint.url("/check")], "first_after": "1s", "initial": "1s", "timeout": "2s"}}],
        subscriptions=[subscription("good", "orders", good), subscription("fails", "orders", world.sink(reply=Reply(503))),
                       subscription("refuses", "orders", world.sink(reply=Reply(410)))])
    decided, asked = uuid7(), uuid7()
    world.client.publish([message("orders")], tx=decided)
    endpoint.decide(asked, "COMMITTED")
    world.client.prepare([message("orders")], tx=asked)
    good.wait_for(asked)
    wait_until(lambda: metric(world.txmsgd, "txmsg_dead_letters", subscription="refuses") == 2 and
               metric(world.txmsgd, "txmsg_attempts_total", subscription="fails", result="retry") > 2 and
               metric(world.txmsgd, "txmsg_checks_total", producer="shop", result="committed") == 1, 60, "all of it is counted")
    return world.txmsgd.get("/metrics")[1]


def test_promtool_has_no_complaints_about_metrics(text):
    done = promtool("check", "metrics", stdin=text)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_promised_names_are_served(text):
    served = names(text)
    assert not set(PROMISED) - set(served)
    labels = {}
    for name, some in series(text):
        labels.setdefault(family(name), set()).update(some)
    for name, some in PROMISED.items():
        assert labels.get(name, set()) - {"le"} == some, name


def test_labels_are_bounded(world, text):
    used = {label for _, labels in series(text) for label in labels}
    assert used <= LABELS, "a new label: is it bounded?"
    known = {"subscription": {"good", "fails", "refuses", ""}, "producer": {"shop"}}
    for name, labels in series(text):
        for label, expected in known.items():
            assert labels.get(label, "") in expected | {""}, (name, labels)
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-7", text), "an id is no label"


def test_readiness_is_a_number(world, text):
    assert metric(world.txmsgd, "txmsg_ready") == 1


def test_rules_hold():
    for args in (("check", "rules", RULES.name), ("test", "rules", "txmsg.rules.test.yml")):
        done = promtool(*args)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_both_tests():
    tests = set(re.findall(r"^  - name: (.*)$", (PLACE / "txmsg.rules.test.yml").read_text(), re.M))
    for rule in rules():
        assert {f"{rule['alert']} fires", f"{rule['alert']} does not fire"} <= tests


def test_rules_use_what_is_served(text):
    served = names(text)
    for rule in rules():
        used = set(re.findall(r"\btxmsg_\w+", rule["expr"]))
        assert used <= set(served), (rule["alert"], used - set(served))
        for name, labels in re.findall(r"\b(txmsg_\w+)\{([^}]*)\}", rule["expr"]):
            have = {label for n, some in series(text) if n == name for label in some}
            assert set(re.findall(r"(\w+)(?:=|!)", labels)) <= have, (rule["alert"], labels)


def test_rules_say_what_to_do():
    """Severity, summary, description; and the section that the runbook names has a line for the alert."""
    page = PAGE.read_text()
    heads = list(re.finditer(r"^#+ (.*)$", page, re.M))
    sections = {re.sub(r"[^\w\- ]", "", h[1].lower()).replace(" ", "-"):
                page[h.end():heads[i + 1].start() if i + 1 < len(heads) else None] for i, h in enumerate(heads)}
    for rule in rules():
        assert rule["severity"] in ("critical", "warning")
        file, _, anchor = rule["runbook"].partition("#")
        assert (TOP / file) == PAGE and f"`{rule['alert']}`" in sections[anchor], rule["alert"]


def test_rules_fail_when_broken(tmp_path):
    """The rule tests can fail: each alert that is made never to fire, or always, is noticed."""
    (tmp_path / "txmsg.rules.test.yml").write_text((PLACE / "txmsg.rules.test.yml").read_text())
    for expr in ("vector(0) > 1", "vector(1)"):
        body = re.sub(r"( expr: ).*?(?=\n +(?:for|labels):)", rf"\1{expr}", RULES.read_text(), flags=re.S)
        (tmp_path / RULES.name).write_text(body)
        done = promtool("test", "rules", tmp_path / "txmsg.rules.test.yml")
        failed = set(re.findall(r'ALERTS\{alertname=\\?"(\w+)', done.stdout + done.stderr))
        assert done.returncode != 0 and failed == {rule["alert"] for rule in rules()}, done.stdout + done.stderr
