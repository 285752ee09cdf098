#!/usr/bin/python3
"""Models and code name their steps alike: each label or inline in small letters of tests/model/*.pml is the name of a
function, or of a prepared statement, of services/."""

import re

import tree

OWN = {"end", "again"} # words of Promela, or of a model's own control flow
ROOMS = ("store", "checkback", "forward", "txmsgd")
LABEL = re.compile(r"^\s*([a-z]\w*):(?!:)", re.M)
INLINE = re.compile(r"^inline ([a-z]\w*)\(", re.M)
FUNCTION = re.compile(r"^[a-z].*?\b(\w+)\([^;]*\{$", re.M)
STATEMENT = re.compile(r'\{"(\w+)",')
COMMENT = re.compile(r"/\*.*?\*/", re.S)


def main():
    code = set()
    for name in tree.files(".c"):
        if name.parts[0] == "services" and name.parts[1] in ROOMS:
            body = tree.text(name) or ""
            code |= set(STATEMENT.findall(body))
            code |= {m for m in FUNCTION.findall(re.sub(r",\n\s+", ", ", body))}
    faults, steps = [], 0
    for name in tree.files(".pml"):
        body = COMMENT.sub(lambda m: "\n" * m[0].count("\n"), tree.text(name) or "")
        for pattern in (LABEL, INLINE):
            for match in pattern.finditer(body):
                steps += match[1] not in OWN
                if match[1] not in code | OWN:
                    line = body.count("\n", 0, match.start(1)) + 1
                    faults.append(f"{name}:{line}: no function or statement {match[1]} in services/")
    if steps < 20:
        faults.append("the models have hardly a step: is this lint blind?")
    tree.end(faults, "steps that only the model knows")


if __name__ == "__main__":
    main()
