# SPDX-License-Identifier: Apache-2.0
"""What the head of an HTTP request says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

from xenapi_driver.sim.doors.refusals import Refusal

# A length is below 2**63.
_DIGITS = 19


@dataclass(frozen=True)
class Request:
    """A request's line and headers; the headers' names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    version: str = "HTTP/1.1"

    @property
    def path(self) -> str:
        """Return the path without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """Return the query's arguments.

        :raises Refusal: 400, an argument without a value, which hosts cannot read
        """
        text = self.target.partition("?")[2]
        if any("=" not in part for part in text.split("&") if part):
            raise Refusal(400)
        return dict(parse_qsl(text, keep_blank_values=True)) if text else {}

    @property
    def cookies(self) -> dict[str, str]:
        """Return the cookies, {} when they make no sense."""
        text = self.headers.get("cookie")
        if text is None:
            return {}
        try:
            found = SimpleCookie(text)
        except CookieError:
            return {}
        return {name: morsel.value for name, morsel in found.items()}

    @property
    def length(self) -> int | None:
        """Return the bytes of the body; None: an upload without an announcement.

        :raises Refusal: 400, it is no number
        """
        text = self.headers.get("content-length")
        if text is None:
            return None if self.method in ("PUT", "POST") else 0
        if not text.isdecimal() or len(text) > _DIGITS:
            raise Refusal(400)
        return int(text)

    @property
    def is_chunked(self) -> bool:
        """Return whether the body comes in HTTP's chunks, which a host cannot read."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def keeps_alive(self) -> bool:
        """Return whether the caller wants to ask again on the same connection."""
        wanted = self.headers.get("connection", "").lower()
        if self.version == "HTTP/1.0":
            return "keep-alive" in wanted
        return "close" not in wanted


def parse(head: bytes) -> Request:
    """Return the request of a head as it was sent.

    :raises Refusal: 400
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise Refusal(400)
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Refusal(400)
        headers[name.lower()] = value.strip()
    method, target, version = words
    if target.startswith(("http://", "https://")):
        # What a proxy is sent: only the path matters here.
        target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
    return Request(method, target, headers, version)
