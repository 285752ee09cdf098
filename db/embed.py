#!/usr/bin/env python3
"""Turns db/migrations/NNNN_name.sql into C: the table `migrations` of services/store/migrate.h.

    embed.py OUT.c FILE.sql...

The build fails here rather than a database later: numbers run from 1 without gaps, every file of the folder is listed,
the text is plain UTF-8 without carriage returns, and no migration opens or ends a transaction of its own.
"""

import pathlib
import re
import sys

NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
TRANSACTION = re.compile(r"^\s*(BEGIN|START\s+TRANSACTION|COMMIT|ROLLBACK)\s*;", re.I | re.M)
SERVES = re.compile(r"^-- serves:(.*)$", re.M)


def fail(text):
    sys.exit(f"embed.py: {text}")


def check(path, version, text):
    if "\0" in text or "\r" in text:
        fail(f"{path.name}: holds a NUL or a carriage return")
    if not text.endswith("\n"):
        fail(f"{path.name}: does not end with a newline")
    if TRANSACTION.search(text):
        fail(f"{path.name}: begins or ends a transaction; each migration already runs in one")
    for serves in SERVES.findall(text):
        if not re.fullmatch(r" [1-9]\d*", serves) or int(serves) > version:
            fail(f"{path.name}: '-- serves: N' needs a schema version from 1 to {version}")


def read(paths):
    found = []
    for path in paths:
        m = NAME.fullmatch(path.name)
        if not m:
            fail(f"{path.name}: the name is not NNNN_name.sql in lower case")
        found.append((int(m[1]), m[2], path))
    found.sort()
    for i, (version, _, path) in enumerate(found, 1):
        if version != i:
            fail(f"{path.name}: version {version} stands where {i} is expected (numbers run from 1 without gaps)")
    listed = {p.resolve() for p in paths}
    for folder in {p.parent for p in listed}:
        for path in sorted(folder.glob("*.sql")):
            if path not in listed:
                fail(f"{path.name}: not listed in db/meson.build")
    texts = []
    for version, name, path in found:
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as e:
            fail(f"{path.name}: {e}")
        check(path, version, text)
        texts.append((version, name, text))
    return texts


def literal(line):
    out = []
    for byte in line.encode("utf-8"):
        c = chr(byte)
        if c in '"\\?':
            out.append("\\" + c)
        elif c == "\n":
            out.append("\\n")
        elif 32 <= byte < 127:
            out.append(c)
        else:
            out.append(f"\\{byte:03o}")
    return '        "' + "".join(out) + '"'


def main():
    if len(sys.argv) < 3:
        fail("usage: embed.py OUT.c FILE.sql...")
    lines = ["/* Generated from db/migrations by db/embed.py. */", '#include "store/migrate.h"', "",
             "const struct migration migrations[] = {"]
    for version, name, text in read([pathlib.Path(a) for a in sys.argv[2:]]):
        lines.append(f'    {{{version}, "{name}",')
        lines += [literal(line) for line in text.splitlines(keepends=True)]
        lines[-1] += "},"
    lines += ["    {0, NULL, NULL},", "};", ""]
    pathlib.Path(sys.argv[1]).write_text("\n".join(lines), encoding="ascii")


if __name__ == "__main__":
    main()
