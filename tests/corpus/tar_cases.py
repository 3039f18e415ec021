"""Images in tars."""

from __future__ import annotations

from tests.annotations.tiny import tar
from tests.corpus.case import Case, Given, Ingested, Refused
from tests.corpus.files import jpeg

CASES = [
    Case(
        "usual",
        lambda: Given({"images/0.tar": tar({"a.jpg": jpeg()})}),
        Ingested({"images.file_name": ["a.jpg"], "images.width": [80]}),
    ),
    Case(
        "compressed",
        lambda: Given({"a.tgz": b"\x1f\x8b"}, {"images": "a.tgz"}),
        Refused(r"a\.tgz is a compressed tar"),
    ),
]
