# SPDX-License-Identifier: Apache-2.0
"""A disk that exists only if it could be filled."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from oslo_log import log as logging

from xenapi_driver.images import fresh
from xenapi_driver.xapi import errors, vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

SECTOR = 512  # what disks consist of

# A host that was told to give up a transfer lets the disk go a little later.
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.2


@contextlib.contextmanager
def being_filled(
    home: Home,
    size: int,
    sr_ref: str | None = None,
    name: str = "",
    keys: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Make a disk and give its reference; it goes if the block fails.

    :param size: bytes, which are rounded up to whole sectors
    :param sr_ref: of another SR than the servers' disks'
    :param name: "" for one that gets its name when it is complete
    :param keys: its other_config; None for one that is given its own later
    :raises errors.XapiError: the host refused
    """
    whole = -(-size // SECTOR) * SECTOR
    marks = fresh.keys(home.host.uuid) if keys is None else keys
    record = vdi.new_record(sr_ref or home.sr.ref, whole, name, other_config=marks)
    try:
        ref = vdi.create(home.session, record)
    except errors.XapiError:
        if keys is None:
            _discard_unseen(home, record)
        raise
    try:
        yield ref
    except BaseException:
        _discard(home, ref)
        raise


def _discard_unseen(home: Home, record: Mapping[str, Any]) -> None:
    """Destroy a disk that the host made before it failed; its marks are like no other.

    Never raises what the host says, for something came first.
    """
    try:
        found = vdi.in_sr(home.session, record["SR"])
    except errors.XapiError as exc:
        LOG.warning("A disk may be left in SR %(sr)s: %(reason)s",
                    {"sr": home.sr_uuid, "reason": exc})  # fmt: skip
        return
    for one in found:
        if one.other_config == record["other_config"]:
            _discard(home, one.ref)


def _discard(home: Home, ref: str) -> None:
    """Destroy the disk; never raises what the host says, for something came first."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            vdi.destroy(home.session, ref)
            return
        except (errors.VdiInUse, errors.OtherOperationInProgress) as exc:
            if time.monotonic() > deadline:
                reason: errors.XapiError = exc
                break
        except errors.XapiError as exc:
            reason = exc
            break
        time.sleep(_PAUSE_SECONDS)
    LOG.warning("A disk that could not be filled may be left in SR %(sr)s: %(reason)s",
                {"sr": home.sr_uuid, "reason": reason})  # fmt: skip
