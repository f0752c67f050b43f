# SPDX-License-Identifier: Apache-2.0
"""Transfers that are tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from oslo_log import log as logging

from xenapi_driver import exceptions

LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


def until_moved(attempts: int, attempt: Callable[[], Result]) -> Result:
    """Do it again while a transfer breaks, with pauses that double.

    Nova's client begins with another image service each time.

    :param attempts: in all, 1 or more
    :raises exceptions.TransferFailed: of the last attempt
    """
    pause = FIRST_PAUSE_SECONDS
    for left in reversed(range(attempts)):
        try:
            return attempt()
        except exceptions.TransferFailed as exc:
            if not left:
                raise
            LOG.warning("%(error)s Trying again in %(pause).1f s.",
                        {"error": exc, "pause": pause})  # fmt: skip
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    raise AssertionError("the last attempt returns or raises")
