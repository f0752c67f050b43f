# SPDX-License-Identifier: Apache-2.0
"""Marks of disks that are being made, by which a killed service's are found.

Where the driver chooses a disk's UUID (a dom0 plugin makes it), the UUID itself says
which host's service chose it and in which run of the service: that means nothing any
more once the disk has a name. Where the host chooses, a key in other_config says the
same, which is gone when the disk is complete; it may have its name from the beginning,
which saves a request.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid

from xenapi_driver.xapi import vdi

MAKER_KEY = "nova-fetched-by"

# Which run of the service this is: 8 hexadecimal digits.
RUN = secrets.token_hex(4)

_CHECK_DIGITS = 8


def new_uuid(host_uuid: str) -> str:
    """Return a random UUID (version 4) of which :func:`run_of` knows the maker.

    58 of its bits are random, which is plenty within one run of one service.

    :param host_uuid: of the host that the service manages
    """
    digits = f"{RUN}{secrets.randbits(16):04x}4{secrets.randbits(12):03x}"
    digits += f"{'89ab'[secrets.randbits(2)]}{secrets.randbits(28):07x}"
    return str(uuid.UUID(digits + _check(digits, host_uuid)))


def keys(host_uuid: str) -> dict[str, str]:
    """Return the other_config of a disk that the host is asked to make.

    It is like no other, so that a call whose answer was lost is found again by it.
    """
    return {MAKER_KEY: f"{host_uuid}/{RUN}/{secrets.token_hex(8)}"}


def run_of(record: vdi.VdiRecord, host_uuid: str) -> str | None:
    """Return the run of our service that began to make a disk.

    None where it is complete, or not one that the service of this host makes.
    """
    if not record.managed:
        return None
    if MAKER_KEY in record.other_config:
        maker, run, *_ = *record.other_config[MAKER_KEY].split("/"), ""
        return run if maker == host_uuid else None
    if record.name_label:
        return None
    digits = record.uuid.replace("-", "")
    known = digits[-_CHECK_DIGITS:] == _check(digits[:-_CHECK_DIGITS], host_uuid)
    return digits[: len(RUN)] if known else None


def _check(digits: str, host_uuid: str) -> str:
    text = f"{host_uuid} {digits}".encode()
    return hashlib.sha256(text).hexdigest()[:_CHECK_DIGITS]
