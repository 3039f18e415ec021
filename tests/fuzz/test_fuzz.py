"""Ten thousand mutated files, each in a child with 4 GB and 10 s."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.long
def test_a_mutated_file_gives_rows_a_reason_or_an_explained_error() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "10000"]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=threads, capture_output=True, text=True, timeout=3600, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-6000:]
