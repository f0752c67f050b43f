# SPDX-License-Identifier: Apache-2.0
"""The one way in which a simulated host refuses a call."""


class Failure(Exception):
    """XAPI's error answer.

    :ivar description: the ErrorDescription, a list of str, code first
    """

    def __init__(self, code: str, *params: str) -> None:
        self.description: list[str] = [code, *params]
        super().__init__(" ".join(self.description))

    @property
    def code(self) -> str:
        """Return the error code, such as ``HANDLE_INVALID``."""
        return self.description[0]


class ConnectionCut(ConnectionResetError):
    """The caller gets no answer: the connection ends instead."""


def internal_error(text: str) -> Failure:
    """Return what XAPI answers to an exception in its own code."""
    return Failure("INTERNAL_ERROR", text)


def handle_invalid(cls: str, ref: str) -> Failure:
    """Return the answer to a reference that names nothing."""
    return Failure("HANDLE_INVALID", cls, ref)
