"""COCO instances files."""

from __future__ import annotations

from tests.corpus.case import Case, Ingested, Refused
from tests.corpus.files import coco_given, entry, jpeg, json_given, note

CASES = [
    Case("usual", coco_given, Ingested({"images.file_name": ["a.jpg"], "annotations.category": ["cat"]})),
    Case("byte-order-mark", lambda: json_given(b"\xef\xbb\xbf" + coco_given().files["instances.json"]), Ingested()),
    Case("empty-file", lambda: json_given(b""), Refused(r"instances\.json is empty: expected a JSON object")),
    Case("utf-16", lambda: json_given("{}".encode("utf-16")), Refused(r"is not JSON: byte 0 is 0xff, expected UTF-8")),
    Case(
        "leads-out",
        lambda: coco_given([entry(), entry(2, "../b.jpg")]),
        Ingested({"images.file_name": ["a.jpg"]}, {"outside-root": 1}),
    ),
    Case(
        "missing-image",
        lambda: coco_given([entry(), entry(2, "b.jpg")]),
        Ingested({"images.flags": [[], ["missing-image"]]}, {"missing-image": 1}),
    ),
    Case(
        "unknown-category",
        lambda: coco_given(annotations=[note(category_id=5)]),
        Ingested({"annotations.category_id": [None], "annotations.category": ["5"]}, {"unknown-category": 1}),
    ),
    Case(
        "odd-name",
        lambda: coco_given([entry(file_name="a b#%é漢.jpg")], files={"images/a b#%é漢.jpg": jpeg()}),
        Ingested({"images.width": [80]}),
    ),
]
