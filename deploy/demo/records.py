"""What a consumer has done, in a SQLite file of its own: one row for each message, whatever number of times it came."""

import sqlite3
import threading

SCHEMA = """
CREATE TABLE IF NOT EXISTS record (message_id text PRIMARY KEY, body text NOT NULL, received_at real NOT NULL);
CREATE TABLE IF NOT EXISTS refusal (message_id text PRIMARY KEY, count integer NOT NULL);
"""


class Records:
    def __init__(self, path):
        self.db = sqlite3.connect(path, timeout=10, check_same_thread=False, isolation_level=None)
        self.lock = threading.Lock()
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.executescript(SCHEMA)

    def add(self, message_id, body, now):
        """False if the message is there already: a duplicate, which is done without doing anything."""
        sql = "INSERT INTO record VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        with self.lock:
            return self.db.execute(sql, (message_id, body, now)).rowcount == 1

    def refuse(self, message_id, times):
        """True, and counted, until the message was refused so many times."""
        sql = ("INSERT INTO refusal VALUES (?, 1) ON CONFLICT (message_id) DO UPDATE SET count = count + 1 "
               "WHERE count < ?")
        with self.lock:
            return times > 0 and self.db.execute(sql, (message_id, times)).rowcount == 1

    def of_transaction(self, transaction_id):
        """Its messages that were recorded, as (id, time), and the number of refusals."""
        rows = self.db.execute("SELECT message_id, received_at FROM record WHERE substr(message_id, 1, 36) = ? ORDER BY 1",
                               (transaction_id,)).fetchall()
        refused = self.db.execute("SELECT coalesce(sum(count), 0) FROM refusal WHERE substr(message_id, 1, 36) = ?",
                                  (transaction_id,))
        return rows, refused.fetchone()[0]
