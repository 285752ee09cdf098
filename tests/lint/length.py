#!/usr/bin/python3
"""A file of more than 700 lines has become more than one thing."""

import tree

LIMIT = 700


def main():
    faults = []
    for name in tree.files(".c", ".h", ".py", ".sql", ".sh", ".proto", ".js"):
        lines = (tree.text(name) or "").count("\n")
        if lines > LIMIT and name.parts[0] not in ("proto", "third_party"):
            faults.append(f"{name}: {lines} lines")
    tree.end(faults, f"files of more than {LIMIT} lines")


if __name__ == "__main__":
    main()
