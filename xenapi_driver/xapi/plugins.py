# SPDX-License-Identifier: Apache-2.0
"""Our dom0 plugins: a JSON object in, a JSON value out, on any host of ours.

On XAPI's wire both are strings: the argument map has one key, ``request``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from xenapi_driver.xapi import errors, host
from xenapi_driver.xapi.client import Client

# The plugin interface that this release was written for. A host may have a
# later minor version: it only adds.
REQUIRED = (3, 0)

VERSION_PLUGIN = "dom0_plugin_version"

# Codes with which our plugins refuse or give up (dom0_plugins/, serve). Another
# code in a plugin's answer is XAPI's own, or of a plugin that is not ours.
CODES = frozenset({
    "BAD_ARGUMENT",
    "CHECKSUM_MISMATCH",
    "COMMAND_FAILED",
    "IMAGE_CORRUPT",
    "IMAGE_NOT_FOUND",
    "IMAGE_TOO_LARGE",
    "IMAGE_TRANSFER_FAILED",
    "NO_SPACE",
    "UNKNOWN_XENAPI_PLUGIN_FUNCTION",
})  # fmt: skip

# Of these, another attempt may succeed.
RETRYABLE = frozenset({"CHECKSUM_MISMATCH", "IMAGE_TRANSFER_FAILED"})


def call(
    session: Client,
    plugin: str,
    fn: str,
    request: Mapping[str, Any],
    *,
    long: bool = True,
    progress: Callable[[float], None] | None = None,
) -> Any:
    """Run ``fn`` of a plugin on our host and return its JSON value.

    :param long: it may outlast a read time-out, so it runs as a task; without,
        it is one plain request
    :param progress: called with 0.0 to 1.0; only for a task
    :raises PluginError: the plugin refused or failed, by a code of its own
    :raises PluginMissing: the host does not have it
    :raises PluginFailure: it crashed
    """
    name = f"{plugin}.{fn}"
    args = {"request": json.dumps(dict(request))}
    try:
        if long:
            text = host.call_plugin_task(
                session, session.host_ref, plugin, fn, args, progress=progress
            )
        else:
            text = host.call_plugin(session, session.host_ref, plugin, fn, args)
    except errors.MissingPlugin as exc:
        raise errors.PluginMissing(plugin, version_text(REQUIRED)) from exc
    except errors.XapiFailure as exc:
        if exc.code in CODES:
            raise errors.PluginError(exc.code, exc.params, name) from exc
        raise
    try:
        return json.loads(text)
    except ValueError as exc:
        raise errors.PluginError(
            "BAD_ANSWER", ("its answer is not JSON",), name
        ) from exc


def check_version(session: Client) -> str:
    """Return the version of the plugins on our host, which we can work with.

    :raises PluginMissing: there are none
    :raises PluginTooOld: same major version and at least our minor is needed
    """
    required = version_text(REQUIRED)
    try:
        answer = call(session, VERSION_PLUGIN, "get_version", {}, long=False)
        found = str(answer["version"])
        major, minor = (int(part) for part in found.split(".")[:2])
    except errors.PluginError as exc:
        # The retired driver's plugin of that name answers with a Python pickle,
        # or refuses our request.
        raise errors.PluginTooOld("2.x or earlier", required) from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise errors.PluginTooOld("unknown", required) from exc
    if major != REQUIRED[0] or minor < REQUIRED[1]:
        raise errors.PluginTooOld(found, required)
    return found


def version_text(version: tuple[int, int]) -> str:
    """Return ``3.0`` for ``(3, 0)``."""
    return ".".join(map(str, version))
