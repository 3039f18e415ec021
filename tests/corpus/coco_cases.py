"""COCO instances files."""

from __future__ import annotations

import json

from tests.corpus.case import Case, Ingested, Refused
from tests.corpus.files import coco_given, entry, jpeg, json_given, note

TOP = (1 << 63) - 1
TWO = {"images/a.jpg": jpeg(), "images/b.jpg": jpeg(1)}
TWO_OF_A_NAME = {"images/a.jpg": jpeg(), "images/x/b.jpg": jpeg(1), "images/y/b.jpg": jpeg(2)}

CASES: list[Case] = [
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
    Case(
        "crowd-as-text", lambda: coco_given(annotations=[note(iscrowd="0")]), Ingested({"annotations.iscrowd": [False]})
    ),
    Case(
        "crowd-as-true", lambda: coco_given(annotations=[note(iscrowd="1")]), Ingested({"annotations.iscrowd": [True]})
    ),
    Case(
        "crowd-unreadable",
        lambda: coco_given(annotations=[note(iscrowd="maybe")]),
        Ingested({"annotations.iscrowd": [False]}, {"unreadable-flag": 1}),
    ),
    Case(
        "one-polygon-bad",
        lambda: coco_given(annotations=[note(segmentation=[[10, 10, 30, 10, 30, 30, 10, 30], [1, 2, 3, 4]], area=...)]),
        Ingested({"annotations.area": [400], "annotations.flags": [["bad-polygon"]]}, {"bad-polygon": 1}),
    ),
    Case(
        "two-categories-of-a-name",
        lambda: coco_given(
            annotations=[note(category_id=2), note(2, category_id=5)], categories=((2, "cat"), (5, "cat"))
        ),
        Ingested({"annotations.category_id": [2, 5]}, {"duplicate-category-name": 1}),
    ),
    Case(
        "text-ids",
        lambda: coco_given([entry("im")], [note("an", image_id="im", category_id="ca")], [("ca", "cat")]),
        Ingested({"images.source_id": ["im"], "annotations.source_id": ["an"], "annotations.category": ["cat"]}),
    ),
    Case(
        "whole-floats",
        lambda: coco_given([entry(1.0)], [note(1.0, image_id=1.0, category_id=1.0)], [(1.0, "cat")]),
        Ingested({"images.image_id": [1], "annotations.category": ["cat"]}),
    ),
    Case(
        "category-null",
        lambda: coco_given(annotations=[note(category_id=None), note(2)]),
        Ingested({"annotations.category": [None, "cat"]}, {"unknown-category": 1}),
    ),
    Case(
        "annotation-without-id",
        lambda: coco_given(annotations=[note(...), note(2)]),
        Ingested({"annotations.annotation_id": [2, 3]}, {"unreadable-id": 1}),
    ),
    Case(
        "no-categories",
        lambda: json_given(json.dumps({"images": [entry()], "annotations": [note()]}).encode()),
        Ingested({"annotations.category": ["class 1"]}, {"unnamed-category": 1}),
    ),
    Case(
        "image-info-alone",
        lambda: json_given(json.dumps({"images": [entry()], "categories": [{"id": 1, "name": "cat"}]}).encode()),
        Ingested({"images.flags": [["image-without-annotation"]]}, {"image-without-annotation": 1}),
    ),
    Case(
        "thirty-digits",
        lambda: coco_given(annotations=[note(bbox=[10**30, 1, 1, 1]), note(2, area=10**30), note(3, image_id=10**30)]),
        Ingested({"annotations.area": [400, 400]}, {"unreadable-box": 1, "unreadable-area": 1, "unknown-image": 1}),
    ),
    Case(
        "true-for-numbers",
        lambda: coco_given([entry(width=True)], [note(bbox=[True, 1, 2, 3], area=True), note(True)]),
        Ingested({"images.width": [80]}, {"unreadable-box": 1, "unreadable-area": 1, "unreadable-id": 1}),
    ),
    Case(
        "counts-in-counts",
        lambda: coco_given(annotations=[note(segmentation={"size": [60, 80], "counts": [1, [2]]})]),
        Ingested({"annotations.flags": [["bad-mask"]]}, {"bad-mask": 1}),
    ),
    Case(
        "counts-of-another-sum",
        lambda: coco_given(annotations=[note(segmentation={"size": [60, 80], "counts": [1, 2, 3]})]),
        Ingested({"annotations.flags": [["bad-mask"]]}, {"bad-mask": 1}),
    ),
    Case(
        "lone-surrogate",
        lambda: coco_given([entry(), entry(2, "\ud800.jpg")], categories=[(1, "\udfff")]),
        Ingested({"categories.name": ["\ufffd"]}, {"missing-image": 1}),
    ),
    Case("nested", lambda: json_given(b'{"images": ' + b"[" * 10_000), Refused("nested too deep")),
    Case("nested-info", lambda: json_given(b'{"info": ' + b'{"a":' * 10_000), Refused("nested too deep")),
    Case(
        "long-number",
        lambda: json_given(coco_given().files["instances.json"].replace(b": 400", b": " + b"4" * 5000)),
        Ingested({"annotations.area": [float("inf")]}),
    ),
    Case(
        "last-id-twice",
        lambda: coco_given(
            [entry(TOP), entry(TOP, "b.jpg")], [note(TOP, image_id=TOP), note(TOP, image_id=TOP)], files=TWO
        ),
        Ingested({"images.image_id": [1, TOP]}, {"duplicate-image-id": 1, "duplicate-annotation-id": 1}),
    ),
    Case(
        "first-id",
        lambda: coco_given([entry(-TOP - 1)], [note(-TOP - 1, image_id=-TOP - 1)]),
        Ingested({"images.image_id": [1]}, {"unreadable-id": 1, "unknown-image": 1}),
    ),
    Case("list", lambda: json_given(b"[]"), Refused("holds a JSON list, expected an object with images")),
    Case("another-object", lambda: json_given(b'{"annotations": []}'), Refused("has no key 'images'")),
    Case(
        "entries-of-other-types",
        lambda: coco_given([entry(), 5, None, []], [note(), "x", 5.5]),
        Ingested({"images.image_id": [1], "annotations.annotation_id": [1]}, {"unreadable-entry": 5}),
    ),
    Case(
        "every-name-refused",
        lambda: coco_given([entry(file_name="/home/u/b.jpg")]),
        Refused("every file_name of its 1"),
    ),
    Case(
        "every-name-a-url", lambda: coco_given([entry(file_name="http://h/b.jpg")]), Refused("every file_name of its 1")
    ),
    Case(
        "all-images-absent",
        lambda: coco_given(files={"images/notes.txt": b""}),
        Ingested({"images.width": [80]}, {"missing-image": 1, "no-images": 1}),
    ),
    Case(
        "all-images-absent-predict",
        lambda: coco_given(categories=[(1, "disc")], files={"images/notes.txt": b""}),
        Refused("none of the 1 images of dataset corpus was there", predict=True),
    ),
    Case("extra-folder", lambda: coco_given([entry(file_name="v/a.jpg")]), Refused("a.jpg could be it, --match-names")),
    *(
        Case(
            f"match-{kind}",
            lambda name=name, file=file: coco_given(
                [entry(file_name=name)], files={f"images/{file}": jpeg()}, match_names=True
            ),
            Ingested({"images.width": [80]}, {"matched-name": 1}),
        )
        for kind, name, file in (
            ("backslash", "v\\a.jpg", "v/a.jpg"),
            ("escape", "a%20b.jpg", "a b.jpg"),
            ("case", "A.JPG", "a.jpg"),
            ("nfd", "e\u0301.jpg", "\u00e9.jpg"),
            ("nfc", "\u00e9.jpg", "e\u0301.jpg"),
            ("extra-folder", "coco/v/a.jpg", "a.jpg"),
            ("missing-folder", "a.jpg", "coco/v/a.jpg"),
            ("drive", "C:\\x\\a.jpg", "a.jpg"),
            ("absolute", "/home/u/a.jpg", "a.jpg"),
            ("url", "https://host/a.jpg", "a.jpg"),
        )
    ),
    Case(
        "match-is-doubtful",
        lambda: coco_given([entry(), entry(2, "b.jpg")], files=TWO_OF_A_NAME, match_names=True),
        Ingested({"images.flags": [[], ["missing-image"]]}, {"missing-image": 1, "unlisted-image": 2}),
    ),
    Case(
        "unlisted",
        lambda: coco_given(files=TWO),
        Ingested({"images.file_name": ["a.jpg"]}, {"unlisted-image": 1}),
    ),
    Case(
        "unlisted-kept",
        lambda: coco_given(files=TWO, unlisted="keep"),
        Ingested({"images.flags": [[], ["unlisted-image"]]}, {"unlisted-image": 1}),
    ),
    Case(
        "region",
        lambda: coco_given(
            annotations=[note(kind="region", bbox=..., segmentation={"size": [60, 80], "counts": [4800]})]
        ),
        Ingested({"annotations.kind": ["region"], "annotations.bbox": [None]}),
    ),
]
