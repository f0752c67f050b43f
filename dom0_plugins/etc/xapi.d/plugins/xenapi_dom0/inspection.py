# SPDX-License-Identifier: Apache-2.0
"""What is there on this host, and what not, of what the driver needs in dom0.

Facts only: what they mean and what to do is said by ``xenapi-driver dom0 check``, which
asks the plugin ``preparation`` for them, or starts this module over ssh where there
are no plugins yet. Nothing is changed.
"""
import contextlib
import hashlib
import json
import os
import re
import stat
import sys

from xenapi_dom0 import arguments, commands, failures, paths, xapi

PLUGINS = "/etc/xapi.d/plugins"
IMAGES = "/images"
KERNEL_FOLDERS = ("/boot/guest", "/var/lib/xcp/guest")
LOG_KEY = "/local/logconsole/@"
OVSDB_PORT, TUNNEL_PORT = 6640, 4789
MAX_PATHS = 1000
MAX_FILE = 4 * 1024 * 1024
MAX_PEERS = 64  # hosts of a pool
SSH_SECONDS = 5

ARGUMENTS = ("paths", "sr_path", "host_uuid")
_PATH = re.compile(r"(etc|usr)(/[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*)+\Z")


def look(request, session):
    """Return the facts as JSON data.

    :param request: may name ``paths`` of files (below /, without the slash) that are
        to be described, the SR's ``sr_path``, and this host's ``host_uuid``
    :param session: xapi.Session, None where there is none
    """
    arguments.only(request, ARGUMENTS)
    wanted = _paths(request)
    given = arguments.optional(request, "sr_path", arguments.sr_directory)
    uuid = arguments.optional(request, "host_uuid", arguments.uuid) or inventory_uuid()
    known = pool(session, uuid)
    storage = given or known.get("storage")
    return {
        "uuid": uuid,
        "name": os.uname().nodename,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "files": {path: _described(path) for path in wanted},
        "plugins": _names(),
        "images": _images(storage),
        "kernels": {path: _folder(path) for path in KERNEL_FOLDERS},
        "toolstack": known.get("toolstack", ""),
        "iso": known.get("iso"),
        "trust": _trust(known.get("peers")),
        "ovsdb": _listeners(OVSDB_PORT),
        "firewall": {
            str(port): _accepted(kind, port)
            for kind, port in (("tcp", OVSDB_PORT), ("udp", TUNNEL_PORT))
        },
        "blacklists": _blacklists(),
        "conntrack": _has("conntrack"),
        "console": _console(),
    }


def _paths(request):
    if request.get("paths") is None:
        return []
    found = arguments.listed(request, "paths", MAX_PATHS)
    if any(not isinstance(path, str) or not _PATH.match(path) for path in found):
        raise failures.Failure(
            failures.BAD_ARGUMENT, "paths", "names what is not below /etc or /usr"
        )
    return found


def inventory_uuid():
    """Return the host's UUID as XAPI knows it, "" where it is not written down."""
    try:
        with open(paths.host_path("/etc/xensource-inventory")) as inventory:
            text = inventory.read()
    except (OSError, ValueError):
        return ""
    match = re.search(r"^INSTALLATION_UUID='([0-9a-f-]{36})'", text, re.MULTILINE)
    return match.group(1) if match else ""


def _described(path):
    """Return [SHA-256, mode, uid, gid] of a plain file; None: there is none."""
    place = paths.host_path("/" + path)
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE:
            return None
        digest = hashlib.sha256(file.read()).hexdigest()
    return [digest, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid]


def _names():
    """Return what is in the plugins' folder; None: there is no such folder."""
    try:
        return sorted(os.listdir(paths.host_path(PLUGINS)))
    except OSError:
        return None


def _folder(path):
    """Return what a folder is: kind, where it leads, whether on dom0's root disk."""
    place = paths.host_path(path)
    linked = os.path.islink(place)
    if not os.path.isdir(place):
        broken = os.path.lexists(place)
        return {"kind": "broken" if broken else "missing", "linked": linked}
    return {
        "kind": "folder",
        "linked": linked,
        "on_root_disk": os.stat(place).st_dev == os.stat(paths.host_path("/")).st_dev,
    }


def _images(storage):
    """Return the same about /images, and whether it is on the SR's file system."""
    found = _folder(IMAGES)
    found["sr"] = None if storage is None else os.path.basename(storage)
    found["on_sr"] = None
    if found["kind"] == "folder" and storage is not None:
        place = os.stat(paths.host_path(IMAGES))
        # One file system alone is not enough in a scratch root, and is on a host.
        found["on_sr"] = place.st_dev == os.stat(storage).st_dev
    return found


def pool(session, uuid):
    """Return what XAPI says: storage, iso, peers, toolstack; less where it does not."""
    if session is None:
        return {}
    with contextlib.suppress(failures.Failure, KeyError, OSError):
        ours = session.call("host.get_by_uuid", uuid)
        hosts = session.call("host.get_all_records")
        version = hosts[ours]["software_version"]
        return {
            "toolstack": version.get("xapi_build", ""),
            "peers": sorted(
                record["address"] for ref, record in hosts.items() if ref != ours
            )[:MAX_PEERS],
            "iso": _iso_library(session, ours),
            "storage": _default_sr(session),
        }
    return {}


def _iso_library(session, ours):
    """Return [UUID, plugged here] of the ISO SR that the driver takes; [] for none."""
    for record in session.call("SR.get_all_records").values():
        key = record["other_config"].get("i18n-key")
        if record["content_type"] == "iso" and key == "local-storage-iso":
            pbds = [session.call("PBD.get_record", ref) for ref in record["PBDs"]]
            here = [pbd for pbd in pbds if pbd["host"] == ours]
            return [record["uuid"], any(pbd["currently_attached"] for pbd in here)]
    return []


def _default_sr(session):
    """Return the folder of the pool's default SR, None where it is not file-based."""
    (pool,) = session.call("pool.get_all_records").values()
    uuid = session.call("SR.get_uuid", pool["default_SR"])
    try:
        return paths.sr_directory("%s/%s" % (paths.SR_MOUNTS, uuid))
    except failures.Failure:
        return None


def _trust(peers):
    """Return address to "" or why ssh does not get there; None: peers not known."""
    if peers is None:
        return None
    found = {}
    for address in peers:
        try:
            arguments.host_name({"host": address}, "host")
            found[address] = _reached(address)
        except failures.Failure as exc:
            found[address] = ", ".join(exc.params)
    return found


def _reached(address):
    folder = paths.host_path("/root/.ssh")
    known = os.path.join(folder, "known_hosts")
    said = _ssh(address, known, "yes")
    if "host key is known" in said.err:
        # A transfer trusts a host that was never met; nothing is remembered here.
        said = _ssh(address, "/dev/null", "no")
    lines = said.err.strip().splitlines()
    return "" if said.code == 0 else (lines[-1] if lines else "it said nothing")


def _ssh(address, known, strict):
    settings = [
        "BatchMode=yes", "ConnectTimeout=%d" % SSH_SECONDS,
        "UserKnownHostsFile=" + known, "StrictHostKeyChecking=" + strict,
    ]
    argv = ["ssh", "-x", "-T"]
    for setting in settings:
        argv += ["-o", setting]
    for name in ("id_ed25519", "id_ecdsa", "id_rsa"):
        key = paths.host_path("/root/.ssh/" + name)
        if os.path.isfile(key):
            argv += ["-i", key]
    return commands.run(
        argv + ["-l", "root", "--", address, "true"], timeout=3 * SSH_SECONDS,
        accept=range(256),
    )


def _listeners(port):
    """Return the addresses on which something listens to a TCP port, as /proc has."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(paths.host_path("/proc/net/" + name)) as table:
                sockets = [line.split() for line in table.readlines()[1:]]
        except OSError:
            continue
        for fields in sockets:
            address, _colon, number = fields[1].rpartition(":")
            if int(number, 16) == port and fields[3] == "0A":  # it listens
                found.add(address)
    return sorted(found)


def _accepted(kind, port):
    """Say whether a rule of the host lets the port in; None: there are no rules."""
    try:
        said = commands.run(["iptables", "-w", "-S"]).out
    except failures.Failure:
        return None
    rules = said.splitlines()
    if "-P INPUT ACCEPT" in rules and len(rules) == 3:
        return True  # nothing is filtered at all
    rule = re.compile(
        r"-A .*-p %s .*--dports? (?:\S+,)?%d\b.*-j ACCEPT" % (kind, port)
    )
    return any(rule.search(line) for line in rules)


def _blacklists():
    folder = paths.host_path("/etc/modprobe.d")
    with contextlib.suppress(OSError):
        return sorted(
            name for name in os.listdir(folder) if name.startswith("blacklist-bridge")
        )
    return []


def _has(program):
    try:
        commands.find(program)
    except failures.Failure:
        return False
    return True


def _console():
    """Return where xenconsoled writes guests' consoles; "": nowhere; None: unknown."""
    try:
        said = commands.run(["xenstore-read", LOG_KEY], accept=(0, 1))
    except failures.Failure:
        return None
    return said.out.strip() if said.code == 0 else ""


def main():
    """Answer the request on standard input, one line of JSON, with one of facts."""
    try:
        request = json.loads(sys.stdin.buffer.readline().decode("utf-8"))
        with contextlib.ExitStack() as stack:
            try:
                session = stack.enter_context(xapi.local_login())
            except failures.Failure:
                session = None  # the toolstack is down: the rest can be seen
            answer = look(request, session)
    except failures.Failure as exc:
        answer = {"failure": [exc.code] + exc.params}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
