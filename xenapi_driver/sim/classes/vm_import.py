# SPDX-License-Identifier: Apache-2.0
"""Class VM: archives that the host fetches by itself."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from urllib.parse import unquote, urlsplit

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.storage import disks
from xenapi_driver.sim.xva import vm_archive
from xenapi_driver.sim.xva.ova_import import Choices

_TIMEOUT = 60  # seconds without a byte


class _Download:
    """The body of an answer, as a source of an archive."""

    def __init__(self, answer: HTTPResponse) -> None:
        self._answer = answer
        told = answer.headers.get("Content-Length", "")
        self.length = int(told) if told.isdigit() else None

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some."""
        return self._answer.read1(size)

    def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        parts = []
        while size > 0 and (data := self.read(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


def _request(url: str) -> urllib.request.Request:
    """Return what to ask for; user and password may stand in the URL.

    :raises Failure: INVALID_VALUE
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failure("INVALID_VALUE", "url", url)
    place = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(  # noqa: S310 (checked above)
        parts._replace(netloc=place).geturl()
    )
    if parts.username is not None:
        text = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        basic = base64.b64encode(text.encode()).decode()
        request.add_header("Authorization", f"Basic {basic}")
    return request


@message("VM.import", blocking=True)
def import_from(
    call: Call, url: str, sr: str, full_restore: bool, force: bool
) -> list[str]:
    """Make the VMs of an archive that another server has."""
    with call.db.changed:
        call.db.row("SR", sr)
        disks.require_attached(call.world, sr)
    choices = Choices(sr, full_restore, force)
    try:
        with urllib.request.urlopen(  # noqa: S310 (http or https, checked)
            _request(url), timeout=_TIMEOUT
        ) as answer:
            return vm_archive.receive(call, _Download(answer), choices)
    except (urllib.error.URLError, HTTPException, OSError) as error:
        raise Failure("IMPORT_ERROR", str(error)) from error
