#!/usr/bin/python3
"""What does not belong into a file: paths of one machine, hosts of package registries, marks of unfinished work, merge
conflicts, tabs and blanks where they hurt, sleeping as synchronisation in tests."""

import re

import tree

EVERYWHERE = {
    r"(?<![\w.$}~)])/(?:work|home|root|Users|farm)/\w": "a path of one machine",
    r"\b(?:pypi\.org|pythonhosted\.org|(?:deb|security|snapshot)\.debian\.org|registry\.npmjs\.org|crates\.io|"
    r"proxy\.golang\.org|repo1?\.maven\.org)\b": "the host of a package registry",
    r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b": "a mark of unfinished work",
    r"^(?:<{7}|={7}|>{7})(?: |$)": "a merge conflict",
    r"\r": "a carriage return",
    r"[ \t]+$": "blanks at the end of a line",
}
IN_C = {r"\t": "a tab"}
IN_TESTS = {r"\b(?:time\.sleep|usleep|nanosleep|sleep)\s*\(": "a sleep: wait for a condition instead"}
SELF = {"tests/lint/words.py"}


def main():
    faults = []
    for name in tree.files():
        if str(name) in SELF:
            continue
        body = tree.text(name)
        if body is None:
            continue
        rules = dict(EVERYWHERE)
        if name.suffix in (".c", ".h"):
            rules.update(IN_C)
        if name.parts[0] == "tests" and (name.suffix == ".py" or name.parts[1] == "unit"):
            rules.update(IN_TESTS)
        for pattern, what in rules.items():
            for match in re.finditer(pattern, body, re.M):
                faults.append(f"{name}:{body.count(chr(10), 0, match.start()) + 1}: {what}: {match[0].strip()!r}")
        if body and not body.endswith("\n"):
            faults.append(f"{name}: no line break at its end")
    tree.end(faults, "places")


if __name__ == "__main__":
    main()
