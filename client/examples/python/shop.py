"""A producer with a check endpoint, and a consumer with an inbox, through generated stubs; SQLite for both."""

import concurrent.futures
import os
import sqlite3
import sys
import time
import uuid

import grpc
from txmsg.v1 import check_service_pb2 as check_pb, check_service_pb2_grpc as check_rpc
from txmsg.v1 import consumer_service_pb2 as consumer_pb, consumer_service_pb2_grpc as consumer_rpc
from txmsg.v1 import message_service_pb2 as pb, message_service_pb2_grpc as rpc, transaction_pb2 as tx

PRODUCER, TOPIC = os.environ.get("PRODUCER", "shop"), os.environ.get("TOPIC", "orders")


def database():
    db = sqlite3.connect(os.environ.get("DATABASE", "shop.db"), isolation_level=None, timeout=1)
    db.execute("PRAGMA synchronous = FULL")
    db.executescript("""
        CREATE TABLE IF NOT EXISTS txmsg_local_tx (id text PRIMARY KEY, decision text NOT NULL) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, item text NOT NULL);
        CREATE TABLE IF NOT EXISTS inbox (message_id text PRIMARY KEY);
        CREATE TABLE IF NOT EXISTS sold (item text PRIMARY KEY, n int NOT NULL);
    """)
    return db


# --- the producer ---

def uuid7():
    v = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return str(uuid.UUID(int=v & ~(0xF << 76) & ~(3 << 62) | 7 << 76 | 2 << 62))


def call(method, request):
    for pause in (0.1, 0.5, 2, None):  # the same id each time, so a repeat is harmless
        try:
            return method(request, timeout=5)
        except grpc.RpcError as e:
            if pause is None or e.code().name not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"):
                raise
            time.sleep(pause)


def order(item, how="commit", id=None):
    id = id or uuid7()
    txmsg = rpc.MessageServiceStub(grpc.insecure_channel(os.environ.get("TXMSG_SERVER", "127.0.0.1:7400")))
    message = tx.Message(topic=TOPIC, content_type="text/plain", body=item.encode())
    call(txmsg.Prepare, pb.PrepareRequest(transaction_id=id, producer=PRODUCER, messages=[message]))
    print(id, flush=True)
    db = database()
    db.execute("BEGIN IMMEDIATE")
    # First of all: if a check came before us, its row is there, and this fails; closing the connection rolls back.
    db.execute("INSERT INTO txmsg_local_tx VALUES (?, 'COMMITTED')", (id,))
    db.execute("INSERT INTO orders VALUES (?, ?)", (id, item))
    if how == "crash":
        os._exit(3)
    if how == "roll-back":
        db.execute("ROLLBACK")
        call(txmsg.Cancel, pb.CancelRequest(transaction_id=id, producer=PRODUCER))
        return
    db.execute("COMMIT")  # if this fails send nothing: the check finds out
    if how != "lose-confirm":
        call(txmsg.Confirm, pb.ConfirmRequest(transaction_id=id, producer=PRODUCER))


class Checks(check_rpc.CheckServiceServicer):
    def Check(self, request, context):
        id = request.transaction_id
        try:
            db = database()
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO txmsg_local_tx VALUES (?, 'ROLLED_BACK') ON CONFLICT (id) DO NOTHING", (id,))
            decision, = db.execute("SELECT decision FROM txmsg_local_tx WHERE id = ?", (id,)).fetchone()
            db.execute("COMMIT")
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                context.abort(grpc.StatusCode.UNAVAILABLE, "database")  # no answer: asked again
            decision = "UNKNOWN"  # a local transaction still runs
        return check_pb.CheckResponse(transaction_id=id, decision=f"CHECK_VERDICT_{decision}")


# --- the consumer ---

class Consumer(consumer_rpc.ConsumerServiceServicer):
    def Deliver(self, request, context):
        outcome = consumer_pb.DeliverResponse.Outcome
        item = request.message.body.decode(errors="replace")
        if not item:
            return consumer_pb.DeliverResponse(outcome=outcome.OUTCOME_REJECT, reason="no item")  # a dead letter at once
        try:
            db = database()
            db.execute("BEGIN IMMEDIATE")
            if db.execute("INSERT INTO inbox VALUES (?) ON CONFLICT DO NOTHING", (request.message_id,)).rowcount == 1:
                db.execute("INSERT INTO sold VALUES (?, 1) ON CONFLICT (item) DO UPDATE SET n = n + 1", (item,))
            db.execute("COMMIT")  # not in the inbox before, or nothing to do
        except sqlite3.OperationalError:
            return consumer_pb.DeliverResponse(outcome=outcome.OUTCOME_RETRY, reason="database")
        return consumer_pb.DeliverResponse(outcome=outcome.OUTCOME_ACK)


def serve(add, service):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    add(service, server)
    server.add_insecure_port(f"127.0.0.1:{os.environ.get('PORT', '9000')}")
    server.start()
    server.wait_for_termination()


if sys.argv[1:2] == ["checks"]:
    serve(check_rpc.add_CheckServiceServicer_to_server, Checks())
elif sys.argv[1:2] == ["consumer"]:
    serve(consumer_rpc.add_ConsumerServiceServicer_to_server, Consumer())
elif sys.argv[1:2] == ["order"] and len(sys.argv) > 2:
    order(*sys.argv[2:])
else:
    sys.exit("checks | consumer | order ITEM [commit|lose-confirm|roll-back|crash [ID]]")
