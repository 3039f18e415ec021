"""Cron lines: which Prefect takes, when they first come true, and what they do when the clocks change."""

from __future__ import annotations

import asyncio
from datetime import datetime
from zoneinfo import ZoneInfo

from prefect.schedules import Cron, Schedule

from shardlens.pipeline.errors import ConfigError

FIELDS = "minute, hour, day of month, month, day of week, as '30 2 * * *' for half past two each night"


def schedule(cron: str, timezone: str) -> Schedule:
    """Return the schedule as Prefect has it.

    Raises:
        ConfigError: `cron` is not a cron line of five fields.
    """
    fields = cron.split()
    if len(fields) > 5:
        raise ConfigError(
            f"cron {cron!r} has {len(fields)} fields, and seconds or years are no part of it: expected {FIELDS}"
        )
    try:
        return Cron(cron, timezone=timezone)
    except ValueError:
        raise ConfigError(f"cron {cron!r} is not a schedule: expected {FIELDS}") from None


def first_run(cron: str, timezone: str) -> datetime:
    """Return when a schedule first comes true from now on.

    Raises:
        ConfigError: never, as on the 31st of February.
    """
    from prefect.server.schemas.schedules import CronSchedule  # seconds, and only a schedule that begins needs it

    try:
        dates = asyncio.run(CronSchedule(cron=cron, timezone=timezone).get_dates(n=1))
    except ValueError:  # croniter's, which looks fifty years ahead
        dates = []
    if not dates:
        raise ConfigError(f"cron {cron!r} never comes true: no month that it names has such a day")
    return dates[0]


def clock_change_note(cron: str, timezone: str) -> str | None:
    """Say it where a schedule of several runs a day pauses in autumn: a repeated hour counts once. None for all others."""
    hours = cron.split()[1] if len(cron.split()) == 5 else "*"
    zone, year = ZoneInfo(timezone), datetime.now().year
    if hours.isdigit() or len({datetime(year, month, 1, tzinfo=zone).utcoffset() for month in range(1, 13)}) == 1:
        return None
    return (
        f"{timezone} has summer time: when clocks are set back, the hour that comes twice has runs once, so that they pause "
        "for up to two hours; in UTC they do not"
    )
