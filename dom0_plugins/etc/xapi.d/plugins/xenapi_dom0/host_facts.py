# SPDX-License-Identifier: Apache-2.0
"""What XAPI and dom0 know about this host, and fields that an operator adds to it."""
import contextlib
import json
import os
import re
import tempfile

from xenapi_dom0 import commands, failures, locks, paths

CONFIG = "/usr/etc/xenhost.conf"
MAX_CONFIG = 64 * 1024  # bytes
INVENTORY = "/etc/xensource-inventory"
PCI_DEVICES = "/sys/bus/pci/devices"

_NUMBERS = ("cpu_count", "family", "model", "stepping")
_ADDRESS = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])\Z")


def own_uuid():
    """Return the UUID of the host whose dom0 this is."""
    try:
        with open(paths.host_path(INVENTORY), encoding="utf-8") as file:
            text = file.read(MAX_CONFIG)
    except (OSError, UnicodeError) as exc:
        raise failures.Failure(
            failures.COMMAND_FAILED, "read " + INVENTORY, exc
        ) from exc
    match = re.search(r"^INSTALLATION_UUID='?([0-9a-f-]{36})'?$", text, re.MULTILINE)
    if match is None or paths.UUID.match(match.group(1)) is None:
        raise failures.Failure(
            failures.COMMAND_FAILED, "read " + INVENTORY, "it does not name the host"
        )
    return match.group(1)


def of_host(session, ref):
    """Return a host's data, under the names that they have always had.

    :param session: xapi.Session
    :param ref: the host's reference
    """
    record = session.call("host.get_record", ref)
    metrics = session.call("host_metrics.get_record", record["metrics"])
    cpus = dict(record["cpu_info"])
    for name in _NUMBERS:
        with contextlib.suppress(KeyError, ValueError):
            cpus[name] = int(cpus[name])
    return {
        "enabled": record["enabled"],
        "host_memory": {
            "total": int(metrics["memory_total"]),
            "overhead": int(record["memory_overhead"]),
            "free": int(metrics["memory_free"]),
            "free-computed": int(session.call("host.compute_free_memory", ref)),
        },
        "host_uuid": record["uuid"],
        "host_name-label": record["name_label"],
        "host_name-description": record["name_description"],
        "host_hostname": record["hostname"],
        "host_ip_address": record["address"],
        "host_other-config": record["other_config"],
        "host_capabilities": record["capabilities"],
        "host_cpu_info": cpus,
    }


# --- fields of the operator -----------------------------------------------------------


def config():
    """Return the operator's fields: a dict of name to any JSON value."""
    try:
        with open(paths.host_path(CONFIG), "rb") as file:
            text = file.read(MAX_CONFIG + 1)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise failures.from_os_error(exc, "read " + CONFIG, CONFIG) from exc
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise failures.Failure(
            failures.COMMAND_FAILED, "read " + CONFIG, "it holds no JSON object"
        )
    return value


def set_config(key, value):
    """Keep a field of the operator; None: have none of that name."""
    with locks.held("config", "xenhost"):
        fields = config()
        if value is None:
            fields.pop(key, None)
        else:
            fields[key] = value
        try:
            text = json.dumps(fields, indent=1, sort_keys=True) + "\n"
        except RecursionError:
            text = None
        if text is None or len(text) > MAX_CONFIG:
            raise failures.Failure(
                failures.BAD_ARGUMENT, "value", "makes the file too long or too deep"
            )
        path = paths.host_path(CONFIG)
        try:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            _replace(path, text)
        except OSError as exc:
            raise failures.from_os_error(exc, "write " + CONFIG, CONFIG) from exc


def _replace(path, text):
    """Write a file anew at once; a reader sees the old one or the new one."""
    folder = os.path.dirname(path)
    prefix = "." + os.path.basename(path) + "."
    for name in os.listdir(folder):
        # Of a call that was killed; ours is the only one now, under the lock.
        if name.startswith(prefix):
            os.unlink(os.path.join(folder, name))
    descriptor, draft = tempfile.mkstemp(prefix=prefix, dir=folder)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(draft, 0o644)
    os.rename(draft, path)


# --- storage, time, PCI ---------------------------------------------------------------


def collecting(sr_uuid):
    """Say whether the garbage collector of an SR is at work."""
    try:
        out = commands.run(["cleanup.py", "-q", "-u", sr_uuid]).out
    except failures.Failure as exc:
        if exc.code != failures.COMMAND_MISSING:
            raise
        # Storage managers of today run it as a unit of systemd.
        unit = "SMGC@%s.service" % sr_uuid.replace("-", "\\x2d")
        state = commands.run(["systemctl", "is-active", unit], accept=range(16)).out
        return state.strip() in ("active", "activating", "deactivating", "reloading")
    match = re.search(r"Currently running: (True|False)", out)
    if match is None:
        raise failures.Failure(
            failures.COMMAND_FAILED, "ask the storage manager for its collector",
            "it did not say whether it is running",
        )
    return match.group(1) == "True"


def pci_type(address):
    """Return ``type-VF``, ``type-PF`` or ``type-PCI`` for a device of this host."""
    full = pci_address(address)
    folder = os.path.join(paths.host_path(PCI_DEVICES), full)
    try:
        names = os.listdir(folder)
    except OSError as exc:
        raise failures.Failure(failures.NOT_FOUND, "the PCI device " + full) from exc
    return _type(names)


def pci_address(text):
    """Return a PCI address with its domain, which may be left out where it is 0."""
    match = _ADDRESS.match(text.lower())
    if match is None:
        raise failures.Failure(
            failures.BAD_ARGUMENT, "pci_device", "is no address of a PCI device"
        )
    return "%s:%s" % (match.group(1) or "0000", match.group(2))


def pci_types():
    """Return all PCI devices: address to type, and of a VF its PF's address."""
    root = paths.host_path(PCI_DEVICES)
    found = {}
    try:
        addresses = os.listdir(root)
    except FileNotFoundError:
        addresses = []
    for address in sorted(addresses):
        folder = os.path.join(root, address)
        with contextlib.suppress(OSError):  # unplugged this moment
            names = os.listdir(folder)
            found[address] = {"type": _type(names), "physfn": None}
            if "physfn" in names:
                parent = os.path.realpath(os.path.join(folder, "physfn"))
                found[address]["physfn"] = os.path.basename(parent)
    return found


def _type(names):
    if "physfn" in names:
        return "type-VF"
    if any(re.match(r"virtfn[0-9]+\Z", name) for name in names):
        return "type-PF"
    return "type-PCI"
