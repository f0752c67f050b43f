# SPDX-License-Identifier: Apache-2.0
"""What the two dialects of XAPI's protocol have in common.

Both give the same values for the same answer: an int is decimal text, as XML-RPC
carries it (the record classes convert), a date is text such as
``20260821T02:00:23Z``, void is "". Both raise ``XenAPI.Failure`` with the same
``details``: the error's code, then its parameters, all of them str.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from xenapi_driver.xapi.transport import Answer

# Characters that no XML 1.0 document may hold (XML 1.0, section 2.2, "Char").
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Takes path, content type and body of a request to the host.
Carry = Callable[[str, str, bytes], Answer]


class Dialect(Protocol):
    """A way to write calls and to read their answers.

    :ivar name: for people
    """

    @property
    def name(self) -> str: ...

    def exchange(self, carry: Carry, method: str, params: Sequence[Any]) -> Any:
        """Carry out one call, with one request, and return its value.

        :raises XenAPI.Failure: the host refused; ``details`` is a list of str
        :raises BadAnswer: what came back is none of XAPI
        :raises NoSuchDialect: and shows that this host does not know the dialect
        :raises TypeError: a parameter is None, or of a type that XAPI has not
        :raises ValueError: a text holds characters that XML cannot carry
        """


def outgoing(value: Any) -> Any:
    """Return ``value`` with every int as decimal text, as XAPI wants it.

    :raises TypeError: for None and for anything that XAPI has no type for
    :raises ValueError: for text with characters that XML cannot carry
    """
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if ILLEGAL.search(value):
            raise ValueError("XAPI cannot take text with control characters in it.")
        return value
    if isinstance(value, Mapping):
        return {outgoing(str(key)): outgoing(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [outgoing(item) for item in value]
    raise TypeError(f"XAPI has no type for {type(value).__name__}.")
