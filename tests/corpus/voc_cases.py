"""Pascal VOC files and folders."""

from __future__ import annotations

from tests.annotations.tiny import voc_object, xml
from tests.corpus.case import Case, Given, Ingested
from tests.corpus.files import HEIGHT, WIDTH, jpeg

XML = xml("a.jpg", voc_object("cat"), width=WIDTH, height=HEIGHT)


def voc_given(data: bytes = XML) -> Given:
    """One image with its XML next to it."""
    return Given({"all/a.jpg": jpeg(), "all/a.xml": data}, {"images": "all", "annotations": "all"})


CASES = [
    Case("usual", voc_given, Ingested({"annotations.category": ["cat"], "annotations.bbox.x": [1.0]})),
    Case("byte-order-mark", lambda: voc_given(b"\xef\xbb\xbf" + XML), Ingested({"annotations.category": ["cat"]})),
]
