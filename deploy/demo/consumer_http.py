#!/usr/bin/python3
"""An HTTP consumer: takes what txmsg posts, records each message once, in a SQLite file of its own.

A message whose body asks for it ("refuse_first": 2) is refused so many times before it is taken: the rehearsal of a
consumer that is out of order for a while.
"""

import argparse
import http.server
import json
import os
import sys
import time

import records
import webhook


class Handler(http.server.BaseHTTPRequestHandler):
    store = None
    secret = ""
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not webhook.verify(self.secret, self.headers, body):
            return self.answer(401)
        message_id = self.headers["webhook-id"] # the same for every attempt, so it tells duplicates
        try:
            refuse = int(json.loads(body).get("refuse_first", 0))
        except (ValueError, AttributeError):
            refuse = 0
        if self.store.refuse(message_id, refuse):
            return self.answer(503)
        self.store.add(message_id, body.decode(errors="replace"), time.time())
        return self.answer(204) # only after it is recorded; a duplicate is as good as done

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main():
    parser = argparse.ArgumentParser(description="demo HTTP consumer")
    parser.add_argument("--records", required=True, help="SQLite file")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    Handler.store, Handler.secret = records.Records(args.records), os.environ["CONSUMER_SECRET"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    print(f"HTTP consumer: listening on {args.port}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
