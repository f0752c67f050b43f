# SPDX-License-Identifier: Apache-2.0
"""Lay a release's files over this host, in a process that ssh started.

``xenapi-driver dom0 install`` sends this library, and then on standard input one line
of JSON and the files' contents, one after the other. Standard output gets one line of
JSON: what was done with which file.

The line: {"version": text, "dry_run": bool, "files": [{"path": below /, "size": bytes,
"mode": 493 or 420, "digest": SHA-256, "config": bool}, ...]}. The answer: {"host":
{...}, "rows": [[path, what, remark], ...], "answer": what the installed plugins said of
themselves} or {"failure": [code, parameter, ...]}.

A plugin's name is ours, whatever bore it before. Outside of the plugins' folder a file
is ours when an earlier installation laid it (see ``_Record``) or when it says so
(``MARKS``); another one is never touched.
"""
import contextlib
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import xmlrpc.client

from xenapi_dom0 import (
    commands,
    failures,
    inspection,
    locks,
    paths,
    plugin_folder,
)

PLUGINS = "etc/xapi.d/plugins"
RECORD = "/var/lib/xenapi-dom0/installed.json"
MARKS = (b"xenapi_dom0", b"xenapi-driver")
BESIDE = ".rpmnew"  # as rpm names it, and cron and others pass over it
MAX_BYTES = 16 * 1024 * 1024
PACKAGE = "xenapi-dom0-plugins"

NEW, UPDATED, UNCHANGED, REMOVED, KEPT, ENABLED = (
    "new", "updated", "unchanged", "removed", "kept", "enabled",
)

_PATH = re.compile(r"(etc|usr)(/[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*)+\Z")
_UNIT = re.compile(r"(?:etc|usr/lib)/systemd/system/([^/]+\.(?:service|timer|path))\Z")


class _File:
    """One file of the release."""

    def __init__(self, told, content):
        self.path = told["path"]
        self.mode = 0o755 if told["mode"] == 0o755 else 0o644
        self.digest = told["digest"]
        self.config = bool(told["config"])
        self.content = content
        self.place = paths.host_path("/" + self.path)


class _Record:
    """Which files earlier installations laid: path to their contents' digests."""

    def __init__(self):
        self._place = paths.host_path(RECORD)
        try:
            with open(self._place) as file:
                known = json.load(file)["files"]
            self.known = {
                path: [str(digest) for digest in digests]
                for path, digests in known.items() if _PATH.match(path)
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.known = {}

    def begin(self, files):
        """Add what is going to be laid, so that a killed call is no riddle."""
        both = {path: list(digests) for path, digests in self.known.items()}
        for file in files:
            digests = both.setdefault(file.path, [])
            if file.digest not in digests:
                digests.append(file.digest)
        self._write(both)

    def end(self, files):
        """Say what there is now."""
        self._write({file.path: [file.digest] for file in files})

    def _write(self, known):
        if known == self.known:
            return
        os.makedirs(os.path.dirname(self._place), 0o755, exist_ok=True)
        text = json.dumps({"files": known}, indent=1, sort_keys=True)
        put(self._place, text.encode("utf-8") + b"\n", 0o644)
        self.known = known


def receive(stream):
    """Return the request and its files, each of which came whole.

    :raises Failure: BAD_ARGUMENT; a connection that broke off is one
    """
    try:
        request = json.loads(stream.readline(1024 * 1024).decode("utf-8"))
        told = request["files"]
        if sum(one["size"] for one in told) > MAX_BYTES:
            raise ValueError
        files = [_File(one, stream.read(one["size"])) for one in told]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise failures.Failure(
            failures.BAD_ARGUMENT, "files", "the list of files did not come whole"
        ) from exc
    for file in files:
        if _PATH.match(file.path) is None:
            raise failures.Failure(
                failures.BAD_ARGUMENT, "files", "a path is not below /etc or /usr"
            )
        if hashlib.sha256(file.content).hexdigest() != file.digest:
            raise failures.Failure(
                failures.BAD_ARGUMENT, "files", file.path + " did not come whole"
            )
    return request, files


def install(files, dry_run):
    """Lay the files over the host and return rows of path, what, remark.

    :raises Failure: BUSY, NOT_FOUND, COMMAND_FAILED, NO_SPACE
    """
    folder = paths.host_path("/" + PLUGINS)
    if not os.path.isdir(folder):
        raise failures.Failure(
            failures.NOT_FOUND, "/" + PLUGINS + ", so this is no host with XAPI"
        )
    with locks.held("host", "installation"):
        record = _Record()
        if not dry_run:
            plugin_folder.sweep(os.path.dirname(folder))
            record.begin(files)
        ours = [file for file in files if file.path.startswith(PLUGINS + "/")]
        others = [file for file in files if not file.path.startswith(PLUGINS + "/")]
        rows = _lay_plugins(folder, ours, record, dry_run)
        rows += [_lay(file, record, dry_run) for file in others]
        rows += _remove(files, record, dry_run)
        rows += _units(files, rows, dry_run)
        if not dry_run:
            record.end([file for file in files if not _is_kept(file, rows)])
    return rows


def _is_kept(file, rows):
    return any(row[0] == file.path and row[1] == KEPT for row in rows)


def _lay_plugins(folder, files, record, dry_run):
    wanted = {
        file.path[len(PLUGINS) + 1:]: (file.content, file.mode) for file in files
    }
    rows = [[file.path, _compared(file), ""] for file in files]
    stale = _stale_in_library(folder, wanted)
    unwanted = []
    for path in sorted(set(record.known) - {file.path for file in files}):
        name = path[len(PLUGINS) + 1:]
        if not path.startswith(PLUGINS + "/") or "/" in name:
            continue
        found = _digest(paths.host_path("/" + path))
        if found in record.known[path]:
            unwanted.append(name)
            rows.append([path, REMOVED, "no longer part of the plugins"])
        elif found is not None:
            rows.append([path, KEPT, "was ours and was changed since"])
    rows += [[PLUGINS + "/" + name, REMOVED, ""] for name in stale]
    if all(row[1] in (UNCHANGED, KEPT) for row in rows) or dry_run:
        return rows
    plugin_folder.replace(folder, wanted, unwanted)
    return rows


def _stale_in_library(folder, wanted):
    """Return what is in our library's folder and is no file of the release."""
    library = os.path.join(folder, "xenapi_dom0")
    found = []
    for root, folders, names in os.walk(library):
        if "__pycache__" in folders:
            folders.remove("__pycache__")  # a Python that was started by hand
        found += [os.path.relpath(os.path.join(root, name), folder) for name in names]
    return sorted(set(found) - set(wanted))


def _lay(file, record, dry_run):
    """Lay one file outside of the plugins' folder; return its row."""
    what = _compared(file)
    if what == UNCHANGED:
        return [file.path, what, ""]
    if what == UPDATED:
        found = _digest(file.place)
        known = found == file.digest or found in record.known.get(file.path, ())
        foreign = not known and not _says_ours(file.place)
        if foreign or (file.config and not known):
            if not dry_run and _digest(file.place + BESIDE) != file.digest:
                put(file.place + BESIDE, file.content, file.mode)
            how = "it belongs to somebody else" if foreign else "it was changed"
            return [file.path, KEPT, how + "; ours is beside it, with " + BESIDE]
    if not dry_run:
        put(file.place, file.content, file.mode)
    return [file.path, what, ""]


def _remove(files, record, dry_run):
    """Remove what an earlier release laid outside of the plugins' folder."""
    rows = []
    for path in sorted(set(record.known) - {file.path for file in files}):
        if path.startswith(PLUGINS + "/"):
            continue
        place = paths.host_path("/" + path)
        found = _digest(place)
        if found is None:
            continue
        if found not in record.known[path]:
            rows.append([path, KEPT, "was ours and was changed since"])
            continue
        if not dry_run:
            os.unlink(place)
        rows.append([path, REMOVED, "no longer part of the plugins"])
    return rows


def _units(files, rows, dry_run):
    """Let systemd know of our units; enable new ones that our preset names.

    A unit that was there before stays as the operator has it. One that would run what
    somebody else put into the place of a file of ours is not enabled.
    """
    states = {row[0]: row[1] for row in rows}
    kept = ["/" + path for path in states if states[path] == KEPT]
    changed = [path for path in states if states[path] in (NEW, UPDATED, REMOVED)]
    # A scratch root has no systemd; the machine below it must not be asked.
    if not changed or not os.path.exists(paths.host_path("/usr/bin/systemctl")):
        return []
    units = [file for file in files if _UNIT.match(file.path)]
    if units and not dry_run:
        commands.run(["systemctl", "daemon-reload"])
    found = []
    for file in units:
        name = _UNIT.match(file.path).group(1)
        if any(path.encode("utf-8") in file.content for path in kept):
            found.append([name, KEPT, "not enabled, as what it runs is another's"])
        elif states[file.path] == NEW:
            if not dry_run:
                commands.run(["systemctl", "preset", name])
                _start(name)
            found.append([name, ENABLED, "as our preset says"])
        elif not dry_run:
            # It runs the plugins' library, which is another one now.
            commands.run(["systemctl", "--no-block", "try-restart", name])
    return found


def _start(name):
    enabled = commands.run(["systemctl", "--quiet", "is-enabled", name], accept=(0, 1))
    if enabled.code == 0:
        commands.run(["systemctl", "--no-block", "start", name])


def _compared(file):
    """Say what laying the file means: NEW, UPDATED or UNCHANGED."""
    try:
        found = os.lstat(file.place)
    except (FileNotFoundError, NotADirectoryError):
        return NEW
    same = (
        stat.S_ISREG(found.st_mode)
        and stat.S_IMODE(found.st_mode) == file.mode
        and (found.st_uid, found.st_gid) == (0, 0)
        and _digest(file.place) == file.digest
    )
    return UNCHANGED if same else UPDATED


def _digest(place):
    """Return the SHA-256 of a plain file; None where there is none."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        digest = hashlib.sha256()
        for chunk in iter(lambda: file.read(1 << 16), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _says_ours(place):
    try:
        with open(place, "rb") as file:
            content = file.read(MAX_BYTES)
    except OSError:
        return False
    return any(mark in content for mark in MARKS)


def put(place, content, mode):
    """Write a file in one step, whatever was at its place.

    :raises Failure: COMMAND_FAILED, NO_SPACE
    """
    beside = "%s.xenapi-driver.%d" % (place, os.getpid())
    try:
        os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        plugin_folder.write(beside, content, mode)
        os.rename(beside, place)
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise failures.from_os_error(exc, "write " + place, place) from exc


def about_host():
    """Return what tells this host from others, for the one who asked."""
    return {
        "uuid": inspection.inventory_uuid(),
        "name": os.uname().nodename,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "package": _package(),
    }


def _package():
    """Return the version of our RPM, where the plugins are from one, else ""."""
    try:
        said = commands.run(
            ["rpm", "-q", "--qf", "%{VERSION}", PACKAGE], accept=(0, 1)
        )
    except failures.Failure:
        return ""
    return said.out if said.code == 0 else ""


def said_by_plugins():
    """Start the version plugin as XAPI does and return its answer; None: it broke."""
    call = xmlrpc.client.dumps(("OpaqueRef:NULL", {"request": "{}"}), "get_version")
    plugin = paths.host_path("/" + PLUGINS + "/dom0_plugin_version")
    environment = dict(commands.ENVIRONMENT)
    if "XENAPI_DOM0_ROOT" in os.environ:
        environment["XENAPI_DOM0_ROOT"] = os.environ["XENAPI_DOM0_ROOT"]
    try:
        done = subprocess.run(
            [plugin, call], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, timeout=60, env=environment, cwd="/",
        )
        (answer,), _method = xmlrpc.client.loads(done.stdout)
        return json.loads(answer["Value"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError,
            xmlrpc.client.Error, xmlrpc.client.expat.ExpatError):
        return None


def main():
    """Answer the one request on standard input."""
    os.umask(0o022)
    answer = {"host": about_host()}
    try:
        if os.geteuid() != 0:
            raise failures.Failure(
                failures.NOT_PERMITTED, "install the plugins", "this is not root"
            )
        request, files = receive(sys.stdin.buffer)
        answer["rows"] = install(files, bool(request["dry_run"]))
        answer["answer"] = said_by_plugins()
    except failures.Failure as exc:
        answer["failure"] = [exc.code] + exc.params
    except OSError as exc:
        answer["failure"] = [failures.COMMAND_FAILED, "install the plugins", str(exc)]
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
