"""COCO results files made elsewhere."""

from __future__ import annotations

from typing import Any

from tests.corpus.case import Case, Given, Imported, Refused, Scored
from tests.corpus.files import HEIGHT, WIDTH, coco_given, entry, note, result, results_given


def labels_given(dataset: tuple[str, ...], *theirs: str) -> Given:
    """Results with the category names `theirs`, for a dataset with the names `dataset` in the same order."""
    listed = tuple(enumerate(dataset, 1))
    boxes = [[10 * i, 10, 8, 8] for i in range(1, len(dataset) + 1)]
    notes = [note(i, category_id=i, bbox=bbox) for (i, _), bbox in zip(listed, boxes, strict=True)]
    document = {
        "images": [entry()],
        "categories": [{"id": 100 - i, "name": name} for i, name in enumerate(theirs, 1)],
        "annotations": [result(category_id=100 - i, bbox=boxes[i - 1]) for i in range(1, len(theirs) + 1)],
    }
    return results_given(document, coco_given(annotations=notes, categories=listed))


def rle(counts: Any) -> dict[str, Any]:
    """A segmentation of these counts."""
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def category(name: Any, number: Any = 1) -> dict[str, Any]:
    """A category of a document."""
    return {"id": number, "name": name}


CASES = [
    Case("usual", lambda: results_given([result()]), Scored({"bbox AP": 1.0})),
    Case("none", lambda: results_given([]), Imported({"score": []})),
    Case("score-is-text", lambda: results_given([result(score="high")]), Refused(r"\[0\]: score is str 'high'")),
    Case(
        "truncated", lambda: results_given(b'[{"image_id": 1,'), Refused(r"results\.json, line 1, column \d+: not JSON")
    ),
    Case("sofa-and-couch", lambda: labels_given(("sofa", "couch"), "sofa", "couch"), Scored({"bbox AP": 1.0})),
    Case("case-apart", lambda: labels_given(("RBC", "rbc"), "RBC", "rbc"), Scored({"bbox AP": 1.0})),
    Case(
        "doubt", lambda: labels_given(("RBC", "rbc"), "Rbc"), Refused(r"'Rbc' could be any of the categories 1 'RBC'")
    ),
    Case("spelled-alike", lambda: labels_given(("dining table",), "Dining_Table"), Scored({"bbox AP": 1.0})),
    Case(
        "two-of-a-name", lambda: labels_given(("cat", "cat"), "cat"), Refused("'cat' could be any of the categories 1")
    ),
    Case("same-names-in-order", lambda: labels_given(("cat", "cat"), "cat", "cat"), Scored({"bbox AP": 1.0})),
    Case(
        "category-lacking",
        lambda: results_given([result(), result(category_id=80)]),
        Imported({"category_id": [1, None], "category": ["cat", "80"]}),
    ),
    Case("whole-floats", lambda: results_given([result(image_id=1.0, category_id=1.0)]), Scored({"bbox AP": 1.0})),
    Case(
        "counts-in-counts", lambda: results_given([result(segmentation=rle([1, [2]]))]), Refused(r"RLE counts \[1, \[2")
    ),
    Case(
        "long-number", lambda: results_given(b'[{"image_id": ' + b"9" * 5000 + b"}]"), Refused("image_id is float inf")
    ),
    Case("nested", lambda: results_given(b"[" * 10_000), Refused("nested too deep")),
    Case("nested-inside", lambda: results_given(b'[{"a": ' + b"[" * 10_000), Refused("nested too deep")),
    Case("entry-is-list", lambda: results_given([[]]), Refused(r"\[0\] is list \[\], expected an object")),
    Case(
        "image-is-number", lambda: results_given({"images": [5], "annotations": []}), Refused(r"images\[0\] is int 5")
    ),
    Case("no-such-image", lambda: results_given([result(image_id=7)]), Refused("image_id 7 is none of the 1 images")),
    Case(
        "lone-surrogate",
        lambda: results_given({"categories": [category("\ud800"), category("cat", 2)], "annotations": [result()]}),
        Imported({"category": ["\ufffd"]}),
    ),
    Case("corners-for-sides", lambda: results_given([result(bbox=[30, 30, -5, 5])]), Refused("not corners")),
]
