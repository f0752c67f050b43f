# SPDX-License-Identifier: Apache-2.0
"""As much of a host's ``xe`` as the pages of the documentation use.

``python xe.py URL USER PASSWORD COMMAND [--minimal] [NAME=VALUE ...]``. Names are those
of the record's fields as xe writes them, ``-`` for ``_``; what the API refuses ends the
program.
"""

from __future__ import annotations

import sys
from typing import Any

import XenAPI


def main(url: str, user: str, password: str, command: str, *words: str) -> None:
    """Run one command and print what xe would."""
    session = XenAPI.Session(url)
    session.login_with_password(user, password, "1.0", "xe")
    kind, _, verb = command.partition("-")
    pairs = dict(word.split("=", 1) for word in words if word != "--minimal")
    api = getattr(session.xenapi, kind if kind == "host" else kind.upper())
    try:
        if verb == "list":
            listed(api, pairs, "--minimal" in words)
        elif verb == "param-set":
            change(api, pairs)
        elif command == "sr-create":
            create_sr(session.xenapi, pairs)
        else:
            raise SystemExit(f"xe {command} is not known here")
    finally:
        session.logout()


def listed(api: Any, wanted: dict, minimal: bool) -> None:
    """Print the UUIDs of the objects whose fields have these values."""
    fields = {name.replace("-", "_"): value for name, value in wanted.items()}
    found = [
        record["uuid"]
        for record in api.get_all_records().values()
        if all(str(record[name]) == value for name, value in fields.items())
    ]
    print(",".join(found) if minimal else "\n".join(found))


def change(api: Any, given: dict) -> None:
    """Set keys of maps; xe leaves the others alone, as this does."""
    ref = api.get_by_uuid(given.pop("uuid"))
    for name, value in given.items():
        field, _, key = name.partition(":")
        field = field.replace("-", "_")
        getattr(api, f"remove_from_{field}")(ref, key)
        getattr(api, f"add_to_{field}")(ref, key, value)


def create_sr(api: Any, given: dict) -> None:
    """Make an SR and print its UUID."""
    host = api.host.get_by_uuid(given.pop("host-uuid"))
    begin = "device-config:"
    device = {k.removeprefix(begin): v for k, v in given.items() if k.startswith(begin)}
    sr = api.SR.create(
        *(host, device, "0", given["name-label"], "", given["type"]),
        *(given["content-type"], given["shared"] == "true", {}),
    )
    print(api.SR.get_uuid(sr))


if __name__ == "__main__":
    main(*sys.argv[1:])
