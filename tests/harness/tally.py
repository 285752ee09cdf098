#!/usr/bin/python3
"""Counts test results: reads JUnit XML files, keeps a running sum in a file.

    tally.py SUM add PASSED FAILED [SKIPPED]
    tally.py SUM junit CODE FILE       CODE: how the program that wrote it ended; if that was badly and the file names no
                                       failure (a crash, no file at all), it counts as one
    tally.py SUM total                 prints the closing line; exit 1 if anything failed
"""

import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def read(path):
    text = path.read_text(encoding="ascii") if path.exists() else "0 0 0"
    return [int(n) for n in text.split()]


def junit(code, path):
    """(passed, failed, skipped) of a JUnit file, whichever program wrote it."""
    passed = failed = skipped = 0
    try:
        cases = ElementTree.parse(path).getroot().iter("testcase")
        for case in cases:
            kinds = {child.tag for child in case}
            if kinds & {"failure", "error"}:
                failed += 1
            elif "skipped" in kinds:
                skipped += 1
            else:
                passed += 1
    except (OSError, ElementTree.ParseError) as error:
        print(error)
    if not failed and (code or not passed):
        failed = 1
    return passed, failed, skipped


def main():
    path, what, rest = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    total = read(path)
    if what == "total":
        passed, failed, skipped = total
        print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
        return 1 if failed or not passed else 0
    added = [int(n) for n in rest] if what == "add" else junit(int(rest[0]), rest[1])
    total = [a + b for a, b in zip(total, [*added, 0][:3])]
    path.write_text(" ".join(map(str, total)), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
