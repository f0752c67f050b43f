# SPDX-License-Identifier: Apache-2.0
"""Whether a guest that runs, or sleeps, can go on on another host's processors."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.world import World

_OTHER_VENDOR = (
    "VM last booted on a host which had a CPU from a different vendor than this host"
)
_FEWER_FEATURES = "VM last booted on a CPU with features this host's CPU does not have"


def assert_compatible(db: Registry, vm: str, there: World, host: str) -> None:
    """Refuse a host whose processors lack what the guest has seen since its start.

    :param there: the pool of ``host``, which may be another than the guest's
    :raises Failure: VM_INCOMPATIBLE_WITH_THIS_HOST
    """
    row = db.row("VM", vm)
    source = row["resident_on"]
    if source == NULL:
        source = db.row("pool", db.refs("pool")[0])["master"]
    before = db.row("host", source)["cpu_info"]
    after = there.db.row("host", host)["cpu_info"]
    seen = row["last_boot_CPU_flags"]
    if (seen.get("vendor") or before.get("vendor")) != after.get("vendor"):
        raise Failure("VM_INCOMPATIBLE_WITH_THIS_HOST", vm, host, _OTHER_VENDOR)
    wanted = seen.get("features") or before.get("features_hvm", "")
    if not is_subset(wanted, after.get("features_hvm", "")):
        raise Failure("VM_INCOMPATIBLE_WITH_THIS_HOST", vm, host, _FEWER_FEATURES)


def is_subset(wanted: str, offered: str) -> bool:
    """Return whether a set of features has all of another.

    Sets are words of eight hexadecimal digits, joined by dashes; words that are not
    there are zero.
    """
    wants, has = _words(wanted), _words(offered)
    has += [0] * (len(wants) - len(has))
    return not any(want & ~have for want, have in zip(wants, has, strict=False))


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split("-") if word]
