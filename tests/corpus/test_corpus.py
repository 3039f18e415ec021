"""Every case of the corpus through the commands' own functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus import coco_cases, image_cases, mask_cases, result_cases, tar_cases, voc_cases
from tests.corpus.case import Case, Work

SUBJECTS = {
    "coco": coco_cases.CASES,
    "voc": voc_cases.CASES,
    "masks": mask_cases.CASES,
    "tars": tar_cases.CASES,
    "images": image_cases.CASES,
    "results": result_cases.CASES,
}
ALL = [pytest.param(case, id=f"{subject}-{case.name}") for subject, cases in SUBJECTS.items() for case in cases]


@pytest.mark.parametrize("case", ALL)
def test_the_commands_make_of_it_what_is_right(case: Case, tmp_path: Path) -> None:
    case.expect.check(Work(case.make(), tmp_path))


def test_names_are_given_once() -> None:
    for cases in SUBJECTS.values():
        names = [case.name for case in cases]
        assert len(set(names)) == len(names)
