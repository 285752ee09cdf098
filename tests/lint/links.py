#!/usr/bin/python3
"""Links between pages lead somewhere: the file is there, and the heading too. Paths in backquotes that look like files of
the project are held to the same."""

import re

import tree

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*?) *#*$", re.M)
CODE = re.compile(r"^```.*?^```", re.M | re.S)


def anchor(heading):
    plain = re.sub(r"[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")


def main():
    faults = []
    for name in tree.files(".md"):
        body = CODE.sub("", tree.text(name) or "")
        for target in LINK.findall(body):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            path, _, fragment = target.partition("#")
            page = tree.TOP / name if not path else (tree.TOP / name).parent / path
            if not page.exists():
                faults.append(f"{name}: {target} is not there")
            elif fragment and page.suffix == ".md":
                anchors = {anchor(h) for h in HEADING.findall(CODE.sub("", page.read_text(encoding="utf-8")))}
                if fragment not in anchors:
                    faults.append(f"{name}: {target} names no heading")
    tree.end(faults, "links that lead nowhere")


if __name__ == "__main__":
    main()
