"""The list of models: a table that needs no torch and is true, and a model that is added by one file."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from shardlens.models import outline_table, outlines, zoo
from shardlens.models.errors import ModelError

OUTSIDE = '''
"""One convolution."""
from torch import Tensor, nn
from shardlens.models.spec import InputRule, ModelSpec


class One(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.layer(images)}


def _build(*, num_classes: int) -> nn.Module:
    return One(num_classes)


SPEC = ModelSpec("one", "semantic", _build, lambda model: InputRule(multiple=4), "https://arxiv.org/abs/0000.00000")
'''


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_table_is_true() -> None:
    assert outlines.present() == outline_table.MODULES, "python -m shardlens.models.outlines writes it again"
    listed = {each.model: each for each in outlines.outlines()}
    assert list(listed) == [spec.name for spec in zoo.SPECS]
    for spec in zoo.SPECS:
        try:
            found = outlines.measured(spec)
        except ModelError:
            continue
        if found.parameters is None and listed[spec.name].source == "segmentation_models_pytorch":
            continue  # the extra is not installed
        assert found == listed[spec.name], "python -m shardlens.models.outlines writes the table again"


def test_every_model_is_listed_once() -> None:
    assert set(Counter(spec.name for spec in zoo.SPECS).values()) == {1}
    assert len(zoo.MODELS) == len(zoo.SPECS) > 50


def test_the_list_is_made_without_torch() -> None:
    code = """
    import sys
    from shardlens.pipeline.cli import build_app
    build_app()(["models", "--json"], exit_on_error=False, result_action="return_value")
    assert not {"torch", "torchvision", "ray", "pyarrow.dataset"} & set(sys.modules), sorted(sys.modules)
    """
    assert len(json.loads(run(code))) == len(zoo.SPECS)


@pytest.mark.parametrize("folder", ["detection", "segmentation"])
def test_a_model_is_added_by_one_file(folder: str, tmp_path: Path) -> None:
    """In a folder beside the zoo's own, which becomes part of it for this test."""
    (tmp_path / "one.py").write_text(OUTSIDE)
    code = f"""
    import sys
    import shardlens.models.{folder} as folder
    folder.__path__.append(sys.argv[1])
    from shardlens.models import build, find
    from shardlens.models.outlines import outlines
    assert find("one").task == "semantic"
    assert build("one", 5).layer.out_channels == 5
    (row,) = [each for each in outlines() if each.model == "one"]
    print(row.parameters, row.input, len(outlines()))
    """
    assert run(code, str(tmp_path)).split() == ["84", "any", "by", "4", str(len(zoo.SPECS) + 1)]
