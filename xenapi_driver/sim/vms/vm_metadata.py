# SPDX-License-Identifier: Apache-2.0
"""A VM's record as the text that hosts keep of it in a snapshot.

An S-expression: names and values in single quotes, quotes inside escaped with a
backslash, sets and maps as nested lists in a text of their own. Where a field belongs
to a group, two underscores stand between group and name, as in hosts' databases.
"""

import re
from typing import Any

from xenapi_driver.sim.registry import Row

_GROUPS = ("name", "memory", "VCPUs", "actions", "PV", "HVM")
_PAIR = re.compile(r"\('((?:[^'\\]|\\.)*)' '((?:[^'\\]|\\.)*)'\)")
_ESCAPED = re.compile(r"\\(.)")


def _stored_name(name: str) -> str:
    group, _, rest = name.partition("_")
    return f"{group}__{rest}" if rest and group in _GROUPS else name


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        pairs = (f"({_quoted(str(k))} {_quoted(_text(v))})" for k, v in value.items())
        return f"({' '.join(pairs)})"
    if isinstance(value, (list, tuple, set)):
        return f"({' '.join(_quoted(_text(item)) for item in value)})"
    return str(value)


def write(row: Row) -> str:
    """Return the text of a record."""
    names = sorted(row, key=_stored_name, reverse=True)
    pairs = (f"('{_stored_name(name)}' {_quoted(_text(row[name]))})" for name in names)
    return f"({' '.join(pairs)})"


def read(text: str) -> dict[str, str]:
    """Return the values of a text by field name, sets and maps as text still."""
    return {
        name.replace("__", "_"): _ESCAPED.sub(r"\1", value)
        for name, value in _PAIR.findall(text)
    }
