"""Images in tars."""

from __future__ import annotations

from tests.annotations.tiny import png, tar
from tests.corpus.case import Case, Given, Ingested, Refused
from tests.corpus.files import jpeg
from tests.corpus.mask_cases import square

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
    Case(
        "truncated-among-good",
        lambda: Given({"images/0.tar": tar({"a.jpg": jpeg()}), "images/1.tar": tar({"b.jpg": jpeg(1)})[:900]}),
        Ingested({"images.file_name": ["a.jpg"]}, {"damaged-tar": 1}),
    ),
    Case(
        "compressed-among-good",
        lambda: Given({"images/0.tar": tar({"a.jpg": jpeg()}), "images/1.tar.gz": b"\x1f\x8b"}),
        Ingested({"images.file_name": ["a.jpg"]}, {"compressed-tar": 1}),
    ),
    Case(
        "images-and-masks",
        lambda: Given({"x.tar": tar({"images/a.jpg": jpeg(), "masks/a.png": png(square(1))})}, {"images": "x.tar"}),
        Ingested({"images.file_name": ["images/a.jpg"], "annotations.kind": ["region"]}),
    ),
    Case(
        "webdataset-masks",
        lambda: Given({"x.tar": tar({"0.jpg": jpeg(), "0.seg.png": png(square(1))})}, {"images": "x.tar"}),
        Ingested({"images.file_name": ["0.jpg"], "annotations.kind": ["region"]}),
    ),
    Case(
        "pairs-in-two-tars-of-the-same-names",
        lambda: Given({f"images/{i}.tar": tar({"a.jpg": jpeg(i), "a.seg.png": png(square(i + 1))}) for i in range(2)}),
        Ingested({"annotations.category_id": [1, 2]}, {"duplicate-file-name": 1}),
    ),
]
