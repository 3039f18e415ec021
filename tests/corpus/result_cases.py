"""COCO results files made elsewhere."""

from __future__ import annotations

from tests.corpus.case import Case, Imported, Refused, Scored
from tests.corpus.files import result, results_given

CASES = [
    Case("usual", lambda: results_given([result()]), Scored({"bbox AP": 1.0})),
    Case("none", lambda: results_given([]), Imported({"score": []})),
    Case("score-is-text", lambda: results_given([result(score="high")]), Refused(r"\[0\]: score is str 'high'")),
    Case(
        "truncated", lambda: results_given(b'[{"image_id": 1,'), Refused(r"results\.json, line 1, column \d+: not JSON")
    ),
]
