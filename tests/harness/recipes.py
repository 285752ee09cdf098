"""SQL out of the pages of client/: the statements that people copy are those that the tests run."""

import re

from . import TOP

BLOCK = re.compile(r"^```sql\n-- ([^\n]+)\n(.*?)^```", re.M | re.S)


def recipes(page, heading):
    """{name: [statements]} of the SQL blocks under a heading of a page of client/, up to the next heading. The first line
    of a block is a comment that names it."""
    text = (TOP / "client" / page).read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.M | re.S)
    assert found, f"{page} has no heading {heading!r}"
    blocks = {name: [s.strip() for s in body.split(";\n") if s.strip()] for name, body in BLOCK.findall(found[2])}
    assert blocks, f"{page}: no SQL under {heading!r}"
    return {name: [s.rstrip(";") for s in statements] for name, statements in blocks.items()}
