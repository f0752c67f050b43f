# SPDX-License-Identifier: Apache-2.0
"""The web pages with which a host refuses a request ("XAPI today", section 1.1)."""

from html import escape

_REASONS = {
    400: ("Bad Request", "bad request"),
    401: ("Unauthorized", "unauthorised"),
    403: ("Forbidden", "forbidden"),
    404: ("Not Found", "not found"),
    408: ("Request Timeout", "request timeout"),
    413: ("Request Entity Too Large", "request entity too large"),
    431: ("Request Header Fields Too Large", "request header fields too large"),
    500: ("Internal Error", "internal server error"),
    501: ("Not Implemented", "method not implemented"),
    503: ("Service Unavailable", "service unavailable"),
}
_ADVICE = {
    400: "The HTTP request was malformed. Please correct and retry.",
    401: "Please check your credentials and retry.",
    403: "Access to the requested resource is forbidden.",
    500: "An unexpected error occurred; please wait a while and try again. If the"
    " problem persists, please contact your support representative.",
}


class Refusal(Exception):
    """A request that ends in one of these pages.

    :ivar status: of HTTP
    :ivar text: what a 500 says of itself
    :ivar realm: of a 401, the name of the handler
    """

    def __init__(self, status: int, text: str = "", realm: str = "") -> None:
        super().__init__(f"HTTP {status} {text}".strip())
        self.status, self.text, self.realm = status, text, realm

    def head(self) -> list[tuple[str, str]]:
        """Return the header that goes with it, if any."""
        if self.status != 401:
            return []
        return [("WWW-Authenticate", f'Basic realm="{self.realm}"')]

    def page(self) -> bytes:
        """Return the web page."""
        words = _REASONS[self.status][1]
        more = ""
        if self.status == 500:
            more = f"<h1> Additional information </h1>{escape(self.text)}"
        advice = _ADVICE.get(self.status, "")
        heading = f"<h1>HTTP {self.status} {words}</h1>"
        return f"<html><body>{heading}{advice}{more}</body></html>".encode()


def reason(status: int) -> str:
    """Return the words of a status line."""
    return {200: "OK", 302: "Found"}.get(status) or _REASONS[status][0]
