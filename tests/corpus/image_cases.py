"""Image files: names, orientation tags, depths, damage."""

from __future__ import annotations

from tests.corpus.case import Case, Given, Ingested, Predicted
from tests.corpus.files import jpeg

CASES = [
    Case("usual", lambda: Given({"images/a.jpg": jpeg()}), Predicted(["ok"])),
    Case(
        "truncated",
        lambda: Given({"images/a.jpg": jpeg(), "images/b.jpg": jpeg(1)[:900]}),
        Predicted(["ok", r"decode ImageError: .*"]),
    ),
    Case(
        "no-image",
        lambda: Given({"images/a.jpg": jpeg(), "images/b.jpg": b"text"}),
        Ingested({"images.flags": [[], ["unreadable-image"]]}, {"unreadable-image": 1}),
    ),
]
