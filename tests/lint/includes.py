#!/usr/bin/python3
"""Rooms depend on lower rooms only, and each third-party library has its one room.

    base <- core <- loop <- store, rpc, http, webclient <- message, admin, checkback, forward, relay <- txmsgd
"""

import re

import tree

LEVELS = [["base"], ["core"], ["loop"], ["store", "rpc", "http", "webclient"],
          ["message", "admin", "checkback", "forward", "relay"], ["txmsgd"]]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
CLIENT_MAY = {"base", "core", "loop", "rpc"} # the library and the command line use the client half of rpc
CLIENT_EXTRA = {"store"}                     # `txmsgctl migrate` talks to the database itself

THIRD_PARTY = { # header: rooms
    r"grpc/": {"rpc", "client"},
    r"libpq-fe\.h|postgres_ext\.h": {"store", "relay", "client"},
    r"curl/": {"webclient"},
    r"jansson\.h|yaml\.h|openssl/": {"base"},
    r"uv\.h": {"loop"}, # others through loop/loop.h
    r"rabbitmq-c/|amqp\.h|amqp_\w+\.h": {"forward"},
    r"microhttpd\.h": {"http"},
    r"protobuf-c/": {"rpc", "message", "admin", "checkback", "forward", "client"},
}
GENERATED = {"rpc", "message", "admin", "checkback", "forward", "client"} # may include *.pb-c.h and the descriptor set
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)


def fault_of(room, own, quote, header):
    if room == "tests": # they look at everything
        return None
    if quote == "<":
        for pattern, rooms in THIRD_PARTY.items():
            if re.match(pattern, header):
                return None if room in rooms else f"<{header}> belongs to {', '.join(sorted(rooms))}"
        return None
    if header.endswith(".pb-c.h") or header == "proto_descriptor_set.h":
        return None if room in GENERATED else f"generated code belongs to {', '.join(sorted(GENERATED))}"
    target = header.split("/")[0] if "/" in header else None
    if target is None:
        return None if (own.parent / header).exists() or room in ("client", "tests", "txmsgd", "store") else \
            f'"{header}": name the room, as in "base/bytes.h"'
    if target == room or target not in LEVEL:
        return None
    if room == "client":
        return None if target in CLIENT_MAY | CLIENT_EXTRA else f"client may not include {target}"
    if LEVEL[target] >= LEVEL[room]:
        return f"{room} may not include {target}, which is not below it"
    if header.endswith("_private.h"):
        return f"{header} is private to {target}"
    return None


def main():
    faults = []
    for name in tree.files(".c", ".h"):
        top = name.parts[0]
        room = name.parts[1] if top == "services" else top
        if name.parts[:2] == ("client", "examples"): # applications: they use what they like
            continue
        if top == "tests" and name.parts[1] == "unit": # the tests of a room are of that room
            room = name.name.split("_")[0]
        if room not in LEVEL and room not in ("client", "tests"):
            continue
        body = tree.text(name) or ""
        for match in INCLUDE.finditer(body):
            fault = fault_of(room, tree.TOP / name, *match.groups())
            if fault:
                faults.append(f"{name}:{body.count(chr(10), 0, match.start()) + 1}: {fault}")
    tree.end(faults, "includes against the direction of the rooms")


if __name__ == "__main__":
    main()
