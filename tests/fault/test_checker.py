"""The checker objects: a good history passes, and every lie that is told in it is seen, under its invariant."""

import json

import pytest

from . import checker, content
from .evidence import Evidence

T0 = 1000.0       # of the histories' clock
WALL = 1.8e9      # of the database's clock at T0
LANE = 7


def tx_of(number):
    return f"0190a000-0000-7000-8000-{number:012x}"


class Case:
    """A small run, good as it is made. Histories are lists of events, tables lists of rows; tests bend them."""

    def __init__(self):
        self.histories = {name: [] for name in ("producers", "checks", "nemesis", "samples", *content.HTTP, *content.RABBIT)}
        self.tables = {name: [] for name in ("message", "decision", "lane_log", "check_due", "delivery_due", "dead_letter", "attempt", "told")}
        self.tables["subscription"] = [
            {"id": i + 1, "name": name, "topic": topic, "state": "active"}
            for i, (name, topic) in enumerate((n, t) for t, names in content.SUBSCRIPTIONS.items() for n in names)]
        self.log = ""
        self.serial = 0
        self.fact("nemesis", 0, "clock", wall=WALL)
        self._story()

    # --- writing ---

    def fact(self, name, t, f, **fields):
        self.histories[name].append({"t": T0 + t, "e": "fact", "f": f, **fields})

    def op(self, name, begin, end, f, how="ok", result=None, **fields):
        """An operation; answers its two events, to be bent."""
        self.serial += 1
        events = ({"t": T0 + begin, "e": "invoke", "op": self.serial, "f": f, **fields},
                  {"t": T0 + end, "e": how, "op": self.serial, **(result or {})})
        self.histories[name] += events
        return events

    def call(self, begin, f, t, how="ok", **result):
        fields = {"tx": t.tx}
        if f in ("prepare", "publish"):
            fields |= {"producer": t.producer, "v": 0, "messages": t.messages, "key": t.business_key}
        elif f == "cancel":
            fields["producer"] = t.producer
        return self.op("producers", begin, begin + 0.01, f, how, result, **fields)

    def store(self, t, at):
        for n, ((topic, _), sha) in enumerate(zip(t.messages, t.digests())):
            self.tables["message"].append({"tx": t.tx, "n": n, "total": len(t.messages), "producer": t.producer, "topic": topic,
                                           "business_key": t.business_key, "check_after": 1000, "at": WALL + at,
                                           "sha": sha + "0" * 40})

    def entry(self, at, kind="D", **fields):
        lane = [r for r in self.tables["lane_log"] if r["lane"] == LANE]
        row = {"lane": LANE, "seq": len(lane) + 1, "kind": kind, "at": WALL + at, "prep": None, "conf": None, "cnt": None,
               "sub_cnt": None, "prog": None, **fields}
        self.tables["lane_log"].append(row)
        return row

    def decide(self, t, row, verdict=1, origin=1):
        self.tables["decision"].append({"tx": t.tx, "verdict": verdict, "origin": origin, "producer": t.producer, "lane": LANE,
                                        "seq": row["seq"], "at": row["at"]})

    def deliver(self, name, begin, t, n=0, attempt=1, how="ok"):
        return self.op(name, begin, begin + 0.01, "deliver", how, m=f"{t.tx}.{n}", attempt=attempt, sha=t.digests()[n])

    def tell(self, t, n, name, outcome="delivered"):
        self.tables["told"].append({"tx": tx_of(1000 + len(self.tables["told"])), "outcome": outcome, "m": f"{t.tx}.{n}", "sub": name})

    def _story(self):
        """Confirmed, cancelled, decided by a check, STUCK, and cancelled before it came. Each is an attribute."""
        def make(number, truth="c", producer="shop", topics=("news",)):
            return content.Transaction(tx_of(number), producer, truth, [[topic, 100] for topic in topics], 0, str(number))

        self.confirmed, self.cancelled = make(1, producer=content.TELLER, topics=("news", "events")), make(2, "r")
        self.checked, self.stuck, self.tomb = make(3), make(4, "u", "bank"), make(5, "r")
        for i, t in enumerate((self.confirmed, self.cancelled, self.checked, self.stuck)):
            self.call(1 + i, "prepare", t, state="PREPARED")
            self.store(t, 1 + i)
            self.entry(1 + i, prep=[t.tx], cnt=[1, 0, 0, 0])
        self.confirm = self.call(10, "confirm", self.confirmed, state="CONFIRMED", origin="RPC")
        self.decide(self.confirmed, self.entry(10, conf=[self.confirmed.tx], cnt=[0, 1, 0, 0]))
        self.cancel = self.call(11, "cancel", self.cancelled, state="CANCELLED", origin="RPC")
        self.decide(self.cancelled, self.entry(11, cnt=[0, 0, 1, 0]), verdict=2)
        self.question = self.op("checks", 12, 12.01, "check", tx=self.checked.tx, at="shop", producer="shop", count=1,
                                result={"mood": "answer", "answer": "COMMITTED"})
        self.decide(self.checked, self.entry(12.1, conf=[self.checked.tx], cnt=[0, 1, 0, 0]), origin=2)
        for i in range(3):
            self.op("checks", 13 + 2 * i, 13.01 + 2 * i, "check", tx=self.stuck.tx, at="bank", producer="bank", count=i + 1,
                    result={"mood": "answer", "answer": "UNKNOWN"})
        self.tables["check_due"].append({"tx": self.stuck.tx, "producer": "bank", "tries": 3, "unknowns": 3, "failures": 0, "state": 1})
        self.call(20, "cancel", self.tomb, state="CANCELLED", origin="RPC")
        self.tables["message"].append({"tx": self.tomb.tx, "n": 0, "total": 0, "producer": "shop", "topic": None, "business_key": None,
                                       "check_after": 0, "at": WALL + 20, "sha": None})
        self.decide(self.tomb, self.entry(20, cnt=[0, 0, 0, 1]), verdict=2)
        self.call(21, "prepare", self.tomb, "fail", code="FAILED_PRECONDITION", reason="DECIDED_OTHERWISE", decision="ROLLED_BACK",
                  origin="RPC")
        self.arrival = self.deliver("news-rabbit", 10.1, self.confirmed)
        self.deliver("news-rabbit", 12.2, self.checked)
        self.deliver("events-http", 10.1, self.confirmed, 1)
        self.deliver("strict", 10.1, self.confirmed, 1)
        ids = {row["name"]: row["id"] for row in self.tables["subscription"]}
        for n, name in ((0, "news-rabbit"), (1, "events-http"), (1, "strict")):
            self.tell(self.confirmed, n, name)
        self.counts = [ids["news-rabbit"], 2, 0, 0, 0, ids["events-http"], 1, 0, 0, 0, ids["strict"], 1, 0, 0, 0]
        self.last = self.entry(22, sub_cnt=self.counts, prog=[ids["strict"], 5, 0])
        for t, f in ((30, "calm"), (40, "load ends")):
            self.fact("nemesis", t, f)
        self.fact("checks", 45, "open")

    def write(self, directory):
        (directory / "run.json").write_text(json.dumps({"seed": 1, "replicas": 2, "slow": 1, "dead_after": 3, "sanitized": False}))
        (directory / "replica0.log").write_text(self.log)
        (directory / "tables").mkdir()
        for place, files in ((directory, self.histories), (directory / "tables", self.tables)):
            for name, lines in files.items():
                (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return Evidence(directory)


@pytest.fixture
def case():
    return Case()


@pytest.fixture
def objects(case, tmp_path):
    """Asserts that the checker, given the bent case, says something with `words` under that invariant."""
    def judge(invariant, words):
        found = checker.findings(case.write(tmp_path))
        assert any(number == invariant and words in text for number, text in found), found

    return judge


def rows(case, table, t):
    return [row for row in case.tables[table] if row["tx"] == t.tx]


def drop(case, table, t):
    case.tables[table] = [row for row in case.tables[table] if row["tx"] != t.tx]


def test_good_history_passes(case, tmp_path):
    assert checker.findings(case.write(tmp_path)) == []


# --- 1, 2, 3: what was answered ---


def test_lost_prepare(case, objects):
    drop(case, "message", case.stuck)
    objects(1, "lost")


def test_lost_confirm(case, objects):
    drop(case, "decision", case.confirmed)
    objects(1, "lost decision")


def test_phantom(case, objects):
    case.store(content.Transaction(tx_of(99), "shop", "c", [["news", 100]]), 5)
    objects(1, "phantom")


def test_stale_read(case, objects):
    case.call(25, "get", case.confirmed, state="PREPARED")
    objects(1, "forgot a decision")


def test_not_found_after_ok(case, objects):
    case.call(25, "confirm", case.stuck, "fail", code="NOT_FOUND", reason="TRANSACTION_NOT_FOUND")
    objects(1, "lost")


def test_unexpected_answer(case, objects):
    case.call(25, "confirm", case.confirmed, "info", code="INTERNAL")
    objects(1, "nobody expects")


def test_cancelled_by_nobody(case, objects):
    case.call(25, "confirm", case.confirmed, "info", code="CANCELLED")[0]["at"] = 0
    objects(1, "nobody expects")


def test_daemon_that_dies(case, objects):
    case.log = "assertion failed: x (a.c:1, f)\n"
    objects(1, "assertion failed")


def test_ok_for_other_content(case, objects):
    case.call(25, "prepare", case.confirmed, state="CONFIRMED", origin="RPC")[0]["v"] = 1
    objects(2, "other content")


def test_same_content_refused(case, objects):
    case.call(25, "prepare", case.confirmed, "fail", code="ALREADY_EXISTS", reason="CONTENT_DIFFERS")
    objects(2, "it is not")


def test_blended_messages(case, objects):
    case.tables["message"].remove(rows(case, "message", case.confirmed)[1])
    objects(2, "of 2")


def test_both_decisions_answered(case, objects):
    case.call(25, "cancel", case.confirmed, state="CANCELLED", origin="RPC")
    objects(3, "contrary")


def test_refusal_that_names_another_decision(case, objects):
    case.call(25, "cancel", case.confirmed, "fail", code="FAILED_PRECONDITION", reason="DECIDED_OTHERWISE", decision="COMMITTED",
              origin="CHECK")
    objects(3, "names another decision")


def test_decided_by_nobody(case, objects):
    for event in case.confirm:
        case.histories["producers"].remove(event)
    objects(3, "by no call")


def test_confirmed_twice_in_the_log(case, objects):
    case.entry(23, conf=[case.confirmed.tx])
    objects(3, "by two entries")


def test_tombstone_opened(case, objects):
    case.call(25, "prepare", case.tomb, state="PREPARED")
    objects(3, "opened what is cancelled")


# --- 4, 5, 6: deliveries ---


def test_cancelled_message_delivered(case, objects):
    case.deliver("news-rabbit", 25, case.cancelled)
    objects(4, "never committed")


def test_undecided_message_delivered(case, objects):
    case.deliver("news-rabbit", 25, case.stuck)
    objects(4, "never committed")


def test_delivered_before_the_decision(case, objects):
    case.arrival[0]["t"] = T0 + 9
    objects(4, "before its decision")


def test_confirmed_unknown_to_the_log(case, objects):
    case.tables["lane_log"][4]["conf"] = None
    objects(4, "no lane knows")


def test_message_never_delivered(case, objects):
    for event in case.arrival:
        case.histories["news-rabbit"].remove(event)
    objects(5, "never got")


def test_refused_is_not_delivered(case, objects):
    case.arrival[1]["e"] = "fail"
    objects(5, "never got")


def test_counter_that_lies(case, objects):
    case.counts[1] = 3
    objects(5, "were confirmed for it")


def test_transactions_miscounted(case, objects):
    case.tables["lane_log"][0]["cnt"] = [2, 0, 0, 0]
    objects(5, "the counters say")


def test_dead_without_a_reason(case, objects):
    case.tables["dead_letter"].append({"sub": case.counts[0], "tx": case.confirmed.tx, "n": 0, "attempts": 1, "error": "x",
                                       "sha": case.confirmed.digests()[0]})
    objects(5, "nobody refused it")


def test_dead_after_it_was_accepted(case, objects):
    case.tables["dead_letter"].append({"sub": case.counts[10], "tx": case.confirmed.tx, "n": 1, "attempts": 6, "error": "status 500",
                                       "sha": case.confirmed.digests()[1]})
    objects(5, "which is a dead letter")


def test_other_bytes(case, objects):
    case.arrival[0]["sha"] = "0" * 24
    objects(6, "other bytes")


def test_repeated_without_a_fault(case, objects):
    case.deliver("news-rabbit", 25, case.confirmed)
    objects(6, "without any fault")


def test_repeated_without_a_takeover(case, objects):
    case.op("nemesis", 24, 24.1, "kill", who="replica0")
    case.deliver("news-rabbit", 25, case.confirmed)
    objects(6, "taken over 0 times")


def test_repeated_after_a_takeover_is_allowed(case, tmp_path):
    case.op("nemesis", 24, 24.1, "kill", who="replica0")
    case.entry(24.5, "S")
    case.deliver("news-rabbit", 25, case.confirmed)
    assert checker.findings(case.write(tmp_path)) == []


def test_attempt_that_is_not_recorded(case, objects):
    case.op("nemesis", 24, 24.1, "kill", who="replica0")
    case.deliver("news-rabbit", 25, case.confirmed, attempt=2)
    objects(6, "attempt 1 is not recorded")


# --- 7: lanes ---


def test_data_behind_a_seal(case, objects):
    case.entry(25, "S")
    case.entry(26)
    objects(7, "behind a seal")


def test_gap_in_the_log(case, objects):
    case.last["seq"] += 1
    objects(7, "gaps")


def test_cursor_goes_back(case, objects):
    case.entry(25, prog=[case.last["prog"][0], 4, 0])
    objects(7, "goes back")


# --- 8: checks ---


def test_verdict_that_nobody_gave(case, objects):
    case.question[1]["answer"] = "UNKNOWN"
    objects(8, "nobody answered so")


@pytest.mark.parametrize("mood", ["404", "500", "html", "other", "hang"])
def test_verdict_from_what_is_none(case, objects, mood):
    case.question[1].pop("answer")
    case.question[1]["mood"] = mood
    objects(8, "nobody answered so")


def test_asked_too_early(case, objects):
    case.question[0]["t"] = T0 + 3.5
    objects(8, "at the age of")


def test_asked_long_after_the_decision(case, objects):
    case.op("checks", 40, 40.1, "check", tx=case.confirmed.tx, at="shop", producer="shop", count=9, result={"mood": "500"})
    objects(8, "after it was decided")


def test_asked_without_a_pause(case, objects):
    case.op("checks", 17.2, 17.3, "check", tx=case.stuck.tx, at="bank", producer="bank", count=4, result={"mood": "500"})
    objects(8, "asked again after")


def test_unreachable_counted_as_unknown(case, objects):
    for event in case.histories["checks"]:
        if event.get("answer") == "UNKNOWN":
            event.pop("answer")
            break
    objects(8, "UNKNOWNs were counted")


def test_stuck_too_early(case, objects):
    case.tables["check_due"][0]["unknowns"] = 2
    objects(8, "STUCK after 2")


def test_forgotten_by_the_checks(case, objects):
    case.tables["check_due"].clear()
    objects(8, "neither decided nor STUCK")


def test_prepared_unknown_to_the_log(case, objects):
    case.tables["lane_log"][3]["prep"] = None
    objects(8, "no lane knows")


# --- 10, 11, 12 ---


def test_late_beside_the_dead(case, objects):
    case.fact("nemesis", 5, "calm")
    case.histories["nemesis"].sort(key=lambda event: event["f"] != "clock" and event["t"])
    for event in case.arrival:
        event["t"] += 60
    objects(10, "after its OK")


def test_stored_though_refused(case, objects):
    case.confirm[1].update(e="fail", code="UNAVAILABLE", reason="STORE_UNAVAILABLE")
    objects(11, "answered as not stored")


def test_too_much_memory(case, objects):
    case.fact("samples", 5, "sample", who="replica0", pid=1, rss=5000, threads=9)
    objects(11, "5000 MB")


def test_ok_without_a_database(case, objects):
    case.fact("nemesis", 9.9, "down", who="postgres")
    case.fact("nemesis", 10.9, "coming up", who="postgres")
    objects(12, "OK while the database was down")


def test_never_at_rest(case, objects):
    case.fact("nemesis", 50, "unrest", what="not within 120 s", left=[])
    objects(12, "not in time")


def test_call_without_a_certain_answer(case, objects):
    case.fact("producers", 50, "unsettled", kind="confirm", tx=case.stuck.tx)
    objects(12, "certain answer")


def test_cut_history_is_read(case, tmp_path):
    case.write(tmp_path)
    with open(tmp_path / "producers.jsonl", "a", encoding="utf-8") as file:
        file.write('{"t":1')
    assert checker.findings(Evidence(tmp_path)) == []


# --- outcome events ---


def test_delivery_that_nobody_was_told_of(case, objects):
    case.tables["told"].pop()
    objects(5, "is delivered, and told was []")


def test_delivery_told_twice(case, objects):
    case.tell(case.confirmed, 1, "strict")
    objects(5, "told was ['delivered', 'delivered']")


def test_delivery_told_as_dead(case, objects):
    case.tables["told"][0]["outcome"] = "dead"
    objects(5, "is delivered, and told was ['dead']")


def test_told_of_what_was_cancelled(case, objects):
    case.tell(case.cancelled, 0, "news-rabbit")
    objects(4, "not committed")
