"""`shardlens doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

from shardlens.pipeline.cli.console import Flat, Output
from shardlens.pipeline.doctor import DoctorConfig, Finding, examine


def doctor(
    *,
    config: Annotated[DoctorConfig, Flat] = DoctorConfig(),  # noqa: B008 - frozen
    output: Annotated[Output, Flat] = Output(),  # noqa: B008 - frozen
) -> None:
    """Say what of Ray, GPU, storage and Prefect can be reached, and how to mend what can't; exit status 1 if something can't."""
    findings = []
    for finding in examine(config):
        findings.append(finding)
        if not output.json:
            print(line(finding), flush=True)
    if output.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    sys.exit(int(any(finding.state == "fail" for finding in findings)))


def line(finding: Finding) -> str:
    """Write a finding, its remedy below it."""
    line = f"{finding.state:<4}  {finding.part:<9}  {finding.found}"
    return f"{line}\n                 {finding.remedy}" if finding.remedy else line
