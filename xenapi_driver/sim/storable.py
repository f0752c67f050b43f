# SPDX-License-Identifier: Apache-2.0
"""What a host's database takes: text that XML can hold, and keys that are not empty."""

import re
from typing import Any

from xenapi_driver.sim.failure import internal_error

# XML 1.0, production 2: characters that no document may hold.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def check(value: Any) -> None:
    """Refuse what cannot be stored in a field.

    :raises Failure: INTERNAL_ERROR, as a real host's database does it
    """
    if isinstance(value, str):
        if _FORBIDDEN.search(value):
            raise internal_error("Db_exn.Invalid_value")
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "":
                raise internal_error("Db_exn.Empty_key_in_map")
            check(key)
            check(item)
    elif isinstance(value, list):
        for item in value:
            check(item)


def shortened(value: Any) -> Any:
    """Return a new object's value up to where it can be stored."""
    if isinstance(value, str):
        found = _FORBIDDEN.search(value)
        return value[: found.start()] if found else value
    return value
