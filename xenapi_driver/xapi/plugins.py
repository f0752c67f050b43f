# SPDX-License-Identifier: Apache-2.0
"""Our dom0 plugins: a JSON object in, a JSON value out, on any host of ours.

On XAPI's wire both are strings. The argument map has ``request``, the JSON text, or
``packed``, the same made small, because dom0 gets it as one argument of a process;
and ``call``, the label of the task, where the plugin is to tell its progress.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from xenapi_driver.xapi import errors, host, plugin_errors
from xenapi_driver.xapi.client import Client
from xenapi_driver.xapi.task import CALL_LABEL

# The plugin interface that this release was written for. A host may have a
# later minor version: it only adds.
REQUIRED = (3, 1)

VERSION_PLUGIN = "dom0_plugin_version"

# Codes with which our plugins refuse or give up (dom0_plugins/, failures). Another
# code in a plugin's answer is XAPI's own, or of a plugin that is not ours.
CODES = frozenset(plugin_errors.BY_CODE)

# Of these, another attempt may succeed.
RETRYABLE = frozenset({"BUSY", "CHECKSUM_MISMATCH", "IMAGE_TRANSFER_FAILED"})

# From here on a request is packed: XML escapes can make text of it six times longer.
_PLAIN_BYTES = 16 * 1024
# Linux takes 128 KiB as one argument (MAX_ARG_STRLEN), XAPI 300 KiB as one call; the
# envelope around ours has a few hundred bytes.
LONGEST_BYTES = 120 * 1024


@dataclasses.dataclass(frozen=True)
class Installed:
    """What the plugins of a host said of themselves.

    :ivar version: of their interface, such as ``3.1``
    :ivar features: what can be called, as ``<plugin>.<function>``
    :ivar python: version of the interpreter that runs them
    :ivar package: version of the release that they came with; "" from a source tree
    """

    version: str
    features: frozenset[str]
    python: str
    package: str


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
    :raises PluginError: the plugin refused or failed, as the subclass of its code
    :raises PluginMissing: the host does not have it
    :raises PluginFailure: it crashed
    """
    name = f"{plugin}.{fn}"
    args = _packed(request, name)
    try:
        if long:
            if progress is not None:
                args[CALL_LABEL] = session.label()
            text = host.call_plugin_task(
                session, session.host_ref, plugin, fn, args, progress=progress
            )
        else:
            text = host.call_plugin(session, session.host_ref, plugin, fn, args)
    except errors.MissingPlugin as exc:
        raise errors.PluginMissing(plugin, version_text(REQUIRED)) from exc
    except errors.XapiFailure as exc:
        if exc.code in CODES:
            raise plugin_errors.failure(exc.code, exc.params, name) from exc
        raise
    try:
        return json.loads(text)
    except ValueError as exc:
        raise errors.PluginError(
            "BAD_ANSWER", ("its answer is not JSON",), name
        ) from exc


def _packed(request: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return the argument map of a request, within what a host takes.

    :raises BadPluginRequest: it is too long, packed too
    """
    text = json.dumps(dict(request))
    if len(text) <= _PLAIN_BYTES:
        return {"request": text}
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    if len(packed) > LONGEST_BYTES:
        reason = f"has {len(packed)} bytes, packed; a host takes {LONGEST_BYTES}"
        raise plugin_errors.failure("BAD_ARGUMENT", ("request", reason), name)
    return {"packed": packed}


def check_version(session: Client) -> Installed:
    """Return what the plugins on our host are, which we can work with.

    :raises PluginMissing: there are none
    :raises PluginTooOld: same major version and at least our minor is needed
    :raises PluginUnfit: they do not start there, as without Python 3.6
    """
    required = version_text(REQUIRED)
    try:
        answer = call(session, VERSION_PLUGIN, "get_version", {}, long=False)
        found = str(answer["version"])
        major, minor = (int(part) for part in found.split(".")[:2])
        installed = Installed(
            version=found,
            features=frozenset(answer.get("features", ())),
            python=str(answer.get("python", "")),
            package=str(answer.get("package") or ""),
        )
    except errors.PluginError as exc:
        # The retired driver's plugin of that name answers with a Python pickle,
        # or refuses our request.
        raise errors.PluginTooOld("2.x or earlier", required) from exc
    except errors.PluginFailure as exc:
        raise _unfit(exc, required) from exc
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise errors.PluginTooOld("unknown", required) from exc
    if major != REQUIRED[0] or minor < REQUIRED[1]:
        raise errors.PluginTooOld(found, required)
    return installed


def _unfit(exc: errors.PluginFailure, required: str) -> errors.Advised:
    """Return what a plugin of versions that broke is to be told as.

    The retired driver's needs a Python that current hosts do not have, or breaks on
    our request in its own ways.
    """
    said = exc.params[-1].strip().splitlines() if exc.params else []
    if any("pickle" in line or "KeyError" in line for line in said):
        return errors.PluginTooOld("2.x or earlier", required)
    return plugin_errors.PluginUnfit(said[-1] if said else "")


def version_text(version: tuple[int, int]) -> str:
    """Return ``3.0`` for ``(3, 0)``."""
    return ".".join(map(str, version))
