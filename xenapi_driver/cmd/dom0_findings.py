# SPDX-License-Identifier: Apache-2.0
"""What the facts about a dom0 mean, one check after the other, each with its remedy.

The facts are what ``xenapi_dom0/inspection.py`` saw there. Only what keeps the plugins
from working is *failed*; what some feature needs is *warning* and says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from xenapi_driver.cmd.examination import (
    FAILED,
    INSTALL,
    NOT_CHECKED,
    OK,
    WARNING,
    Row,
)
from xenapi_driver.dom0.tree import PLUGINS, RELEASE, Entry

Facts = Mapping[str, Any]
# State, seen, remedy: a row without the name of its check.
Findings = Iterator[tuple[str, str, str]]

CHECKS = (
    *("python", "plugins", "files", "images", "guest kernels", "ssh trust"),
    *("ISO SR", "Open vSwitch", "firewall", "bridges", "conntrack", "console logs"),
)

# From this toolstack on kernels of guests may lie in the new folder alone, and no
# longer behind a link (reference of XAPI 24.20).
_NEW_KERNELS = (24, 20)
_KERNELS = {False: "/boot/guest", True: "/var/lib/xcp/guest"}
PREPARE = "xenapi-driver dom0 prepare --only"
_SHOWN = 3  # names of files in one row


def rows(facts: Facts, laid: Sequence[Entry], version: str) -> list[Row]:
    """Return a row or several for each check but ``plugins``.

    :param laid: what the release lays over a host
    :param version: of the package
    """
    looks: dict[str, Callable[[], Findings]] = {
        "python": lambda: _python(facts),
        "files": lambda: _files(facts, laid, version),
        "images": lambda: _images(facts),
        "guest kernels": lambda: _kernels(facts),
        "ssh trust": lambda: _trust(facts),
        "ISO SR": lambda: _iso(facts),
        "Open vSwitch": lambda: _ovsdb(facts),
        "firewall": lambda: _firewall(facts),
        "bridges": lambda: _bridges(facts),
        "conntrack": lambda: _conntrack(facts),
        "console logs": lambda: _console(facts),
    }
    return [Row(name, *found) for name, look in looks.items() for found in look()]


def unseen(reason: str) -> list[Row]:
    """Return the rows of all that waits for ``plugins``."""
    rest = [check for check in CHECKS if check != "plugins"]
    return [Row(check, NOT_CHECKED, reason, "") for check in rest]


def _python(facts: Facts) -> Findings:
    yield OK, f"Python {facts['python']} in dom0 of {facts['name']}", ""


def _files(facts: Facts, laid: Sequence[Entry], version: str) -> Findings:
    if facts["plugins"] is None:
        yield FAILED, f"there is no /{PLUGINS}", "this is no host with XAPI: choose one"
        return
    found = facts["files"]
    remedy = f"lay them anew with {INSTALL}"
    ours = [entry for entry in laid if entry.path != RELEASE]
    plugins = [entry for entry in ours if entry.plugin]
    lacking = [entry for entry in plugins if found.get(entry.path) is None]
    twins = [entry for entry in lacking if entry.twin_of]
    missing = [entry for entry in lacking if not entry.twin_of]
    there = [entry for entry in ours if found.get(entry.path) is not None]
    count = 0
    for state, words, wrong in (
        (FAILED, "missing", missing),
        (WARNING, "missing under the name with .py", twins),
        (
            FAILED,
            "not executable",
            [e for e in there if e.mode == 0o755 and not found[e.path][1] & 0o100],
        ),
        (
            FAILED,
            "not root's alone to write to",
            [e for e in there if found[e.path][2] != 0 or found[e.path][1] & 0o022],
        ),
        (
            WARNING,
            f"other than in xenapi-driver {version}",
            [e for e in there if found[e.path][0] != e.digest and not e.config],
        ),
        (
            WARNING,
            "missing outside of the plugins' folder",
            [e for e in ours if not e.plugin and found.get(e.path) is None],
        ),
    ):
        if wrong:
            count += 1
            yield state, f"{words}: {_some([e.path for e in wrong])}", remedy
    for entry in there:
        if entry.config and found[entry.path][0] != entry.digest:
            count += 1
            told = f"/{entry.path} is another's, or was changed"
            if entry.mode == 0o755:
                advice = f'have it call ours: /{entry.path}.rpmnew "$@"'
                yield WARNING, told, advice
            else:
                yield OK, told, ""
    if not count:
        yield OK, f"{len(ours)} files, as delivered", ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"/{name}" for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _images(facts: Facts) -> Findings:
    images = facts["images"]
    place = f"/run/sr-mount/{images['sr'] or 'SR'}/os-images"
    remedy = (
        f"have it made ({PREPARE} images), or make it a link (mkdir -p {place}; ln -s "
        f"{place} /images)"
    )
    if images["kind"] != "folder":
        how = "is not there" if images["kind"] == "missing" else "leads nowhere"
        yield WARNING, f"/images {how}, so servers cannot be resized to here", remedy
    elif images["on_sr"] is False:
        yield (
            WARNING,
            f"/images is on another file system than SR {images['sr']}, so servers "
            "cannot be resized to here",
            remedy,
        )
    elif images["on_sr"] is None:
        yield (
            WARNING,
            "/images is there; which file-based SR it has to be on is not known",
            "run this with the configuration of nova-compute (--config-file)",
        )
    else:
        yield OK, f"/images is on SR {images['sr']}", ""


def _kernels(facts: Facts) -> Findings:
    version = _numbers(facts["toolstack"])
    folder = _KERNELS[version >= _NEW_KERNELS] if version else _existing(facts)
    found = facts["kernels"][folder]
    if found["kind"] != "folder":
        yield (
            WARNING,
            f"{folder} is not there, so images with a kernel (ami) cannot be booted",
            f"have it made ({PREPARE} kernels)",
        )
    elif folder == _KERNELS[True] and found["linked"]:
        yield (
            WARNING,
            f"{folder} is a link, which this host refuses",
            "make it a folder; to keep it on an SR, mount one there with --bind",
        )
    elif found["on_root_disk"]:
        yield (
            OK,
            f"{folder}, on dom0's own disk, which kernels left over could fill",
            "",
        )
    else:
        yield OK, f"{folder}", ""


def _existing(facts: Facts) -> str:
    new = _KERNELS[True]
    return new if facts["kernels"][new]["kind"] == "folder" else _KERNELS[False]


def _trust(facts: Facts) -> Findings:
    trust = facts["trust"]
    if trust is None:
        yield NOT_CHECKED, "XAPI does not say which hosts the pool has", ""
        return
    for address, reason in trust.items():
        if reason:
            yield (
                WARNING,
                f"root here does not reach root@{address} by ssh ({reason}), so disks "
                "do not move there with a server",
                "add /root/.ssh/id_rsa.pub of this host to /root/.ssh/authorized_keys "
                "there (ssh-keygen makes one)",
            )
    if not any(trust.values()):
        told = f"root here reaches {', '.join(trust)}"
        yield OK, told if trust else "the pool has no other host", ""


def _iso(facts: Facts) -> Findings:
    remedy = (
        "make one and mark it (xe sr-param-set uuid=UUID "
        "other-config:i18n-key=local-storage-iso)"
    )
    if facts["iso"] is None:
        yield NOT_CHECKED, "XAPI does not say which SRs there are", ""
    elif not facts["iso"]:
        yield WARNING, "no ISO SR is marked, so ISO images cannot be booted", remedy
    elif not facts["iso"][1]:
        yield (
            WARNING,
            f"ISO SR {facts['iso'][0]} is not plugged into this host",
            "plug it (xe pbd-plug, with the UUID that xe pbd-list has for both)",
        )
    else:
        yield OK, f"ISO SR {facts['iso'][0]}", ""


def _ovsdb(facts: Facts) -> Findings:
    if facts["ovsdb"]:
        yield OK, "listens on TCP port 6640", ""
    else:
        yield (
            WARNING,
            "nothing listens on TCP port 6640, by which Neutron's agent reaches "
            "Open vSwitch",
            f"let it listen ({PREPARE} ovsdb)",
        )


def _firewall(facts: Facts) -> Findings:
    needs = {"6640": "tcp", "4789": "udp"}
    opened = facts["firewall"]
    if None in opened.values():
        yield NOT_CHECKED, "iptables of dom0 does not show its rules", ""
        return
    closed = [port for port in needs if not opened[port]]
    for port in closed:
        purpose = "Neutron's agent" if port == "6640" else "VXLAN tunnels, if any"
        way = f"{PREPARE} firewall --from ADDRESS, or " if port == "6640" else ""
        yield (
            WARNING,
            f"{needs[port].upper()} port {port} is closed, for {purpose}",
            f"open it ({way}iptables -I RH-Firewall-1-INPUT -p {needs[port]} --dport "
            f"{port} -s ADDRESS -j ACCEPT; service iptables save)",
        )
    if not closed:
        yield OK, "TCP port 6640 and UDP port 4789 are open", ""


def _bridges(facts: Facts) -> Findings:
    if facts["blacklists"]:
        files = ", ".join(f"/etc/modprobe.d/{name}" for name in facts["blacklists"])
        yield (
            WARNING,
            f"Linux bridges are kept from loading, which Neutron's hybrid ports need: "
            f"{files}",
            f"take them out of use ({PREPARE} bridges), or leave them where no hybrid "
            "ports are used",
        )
    else:
        yield OK, "Linux bridges may be loaded beside Open vSwitch", ""


def _conntrack(facts: Facts) -> Findings:
    if facts["conntrack"]:
        yield OK, "conntrack is there", ""
    else:
        yield (
            WARNING,
            "conntrack is not there, so a connection outlives the rule that let it in",
            "install it (yum install conntrack-tools)",
        )


def _console(facts: Facts) -> Findings:
    if facts["console"] is None:
        yield NOT_CHECKED, "xenstore does not answer", ""
    elif facts["console"]:
        yield OK, f"consoles of guests are written to {facts['console']}", ""
    else:
        yield (
            WARNING,
            "consoles of guests are not written down, so servers have no console log",
            "wait a minute where the scripts were just installed; else see that crond "
            "runs there, and that /etc/cron.d/xenapi-driver-guest-logs is as delivered",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return (24, 19) for 24.19.2; nothing for what is no version."""
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts) if all(map(str.isdigit, parts)) else ()
