# SPDX-License-Identifier: Apache-2.0
"""What ``/etc/xapi.conf`` says, as far as it is anybody's business."""
from xenapi_dom0 import failures, paths

FILE = "/etc/xapi.conf"
MAX_SIZE = 1024 * 1024  # bytes
# Folders, time limits and switches that tell how a host behaves. Whatever can be a
# secret, or lead to one, is none of them.
READABLE = frozenset([
    "completed_task_timeout",
    "domain_shutdown_ack_timeout",
    "domain_shutdown_total_timeout",
    "guest_liveness_timeout",
    "host_heartbeat_interval",
    "hvmloader",
    "inactive_session_timeout",
    "inventory",
    "log",
    "migration_timeout",
    "nowatchdog",
    "pending_task_timeout",
    "sm-dir",
    "sm-plugins",
    "tools-sr-dir",
    "use-event-next",
    "use-xenopsd",
    "vm_call_plugin_interval",
    "wait_memory_target_timeout",
    "xapi-extensions-root",
    "xapi-hooks-root",
    "xapi-plugins-root",
    "xenopsd-queues",
])


def value(key):
    """Return the value that the file sets for one of READABLE, "" where it has none."""
    found = ""
    for line in _lines():
        name, equals, text = line.partition("#")[0].partition("=")
        if equals and name.strip() == key:
            # xapi takes the last.
            found = text.strip()
    return found


def _lines():
    try:
        with open(paths.host_path(FILE), encoding="utf-8", errors="replace") as file:
            return file.read(MAX_SIZE).splitlines()
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise failures.from_os_error(exc, "read " + FILE, FILE) from exc
