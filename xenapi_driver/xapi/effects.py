# SPDX-License-Identifier: Apache-2.0
"""What a call leaves behind, so that it can be looked for.

Two questions are answered by one table. Is what I have just done in the tables
yet? And, when an answer was lost: was it done at all?
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from xenapi_driver.xapi.client import or_none
from xenapi_driver.xapi.events import Effect
from xenapi_driver.xapi.records import KINDS
from xenapi_driver.xapi.tables import Kind, Snapshot
from xenapi_driver.xapi.task import TaskRecord
from xenapi_driver.xapi.vbd import VbdRecord
from xenapi_driver.xapi.vdi import VdiRecord
from xenapi_driver.xapi.vif import VifRecord
from xenapi_driver.xapi.vm import VmRecord

# Calls that change nothing, so that a second one does no harm.
_READS = re.compile(
    r"(system\.listMethods|event\.from|host\.compute_free_memory|\w+\.get_\w+"
    r"|VM\.assert_\w+)$"
)
# Calls that may be carried out twice: the second one finds its work done, or does
# the same again.
_REPEATABLE = re.compile(
    r"(\w+\.set_\w+|\w+\.remove_from_\w+|SR\.scan|task\.(cancel|destroy)"
    r"|event\.inject|host\.(enable|disable)|session\.logout)$"
)

# Calls that only write into the host's database, so that they are over as soon as
# they are begun, and when the toolstack ends. Other work is with xenopsd or an SM
# backend, which may carry it on.
_AT_ONCE = re.compile(
    r"((VM|VBD|VIF|network|task)\.create|(VM|VBD|VIF|network)\.destroy)$"
)

# Calls that write one field.
_WRITES = re.compile(r"(set|add_to|remove_from)_(\w+)$")

_KIND_OF: dict[str, Kind] = {kind.XAPI_CLASS: kind for kind in KINDS}

# The power state in which a call leaves a VM.
_POWER = {
    "start": "Running",
    "start_on": "Running",
    "unpause": "Running",
    "resume": "Running",
    "resume_on": "Running",
    "pause": "Paused",
    "suspend": "Suspended",
    "hard_shutdown": "Halted",
    "clean_shutdown": "Halted",
    "shutdown": "Halted",
}
# Where their arguments, after the VM and the host, say to leave it paused.
_START_PAUSED = {"start": 1, "start_on": 2, "resume": 1, "resume_on": 2}
# Verbs of calls whose value is a new object.
_MAKING = frozenset({"create", "clone", "copy", "snapshot"})
_ATTACHED = {"plug": True, "unplug": False, "unplug_force": False}
# Fields by which a new object is known again: XAPI's name, our attribute.
_SAME: dict[Kind, tuple[tuple[str, str], ...]] = {
    VmRecord: (("name_label", "name_label"), ("other_config", "other_config")),
    VbdRecord: (("VM", "vm"), ("userdevice", "userdevice")),
    VifRecord: (("VM", "vm"), ("device", "device")),
    VdiRecord: (
        ("SR", "sr"),
        ("name_label", "name_label"),
        ("other_config", "other_config"),
    ),
}

Snapshots = tuple[Snapshot, Snapshot]


class Unknown:
    """It cannot be told whether the call was carried out."""


UNKNOWN = Unknown()
NOT_DONE = None


def reads(method: str) -> bool:
    """Tell whether a call changes nothing."""
    return _READS.match(method) is not None


def repeatable(method: str) -> bool:
    """Tell whether a call does no harm when it is carried out twice."""
    return reads(method) or _REPEATABLE.match(method) is not None


def guarded(method: str) -> bool:
    """Tell whether the host refuses a call whose work is done already."""
    xapi_class, _, verb = method.partition(".")
    if xapi_class == "VM":
        return verb in _POWER
    return verb in _ATTACHED or verb == "destroy" or method == "VDI.resize"


def at_once(method: str) -> bool:
    """Tell whether a call that has begun is over, too."""
    return _AT_ONCE.match(method) is not None


def outcome(
    method: str,
    args: Sequence[Any],
    before: Snapshot,
    after: Snapshot,
    taken: Collection[str] = (),
) -> str | Unknown | None:
    """Tell from the tables what became of a call.

    :param method: without ``Async.``
    :param args: without the session
    :param before: the tables when it was sent
    :param after: the tables now
    :param taken: objects that other calls of ours have made; ``before`` may be
        older than they are
    :returns: the call's value when it was carried out, ``NOT_DONE`` when it was
        not (or not yet), ``UNKNOWN`` when that cannot be told
    """
    xapi_class, _, verb = method.partition(".")
    kind = _KIND_OF.get(xapi_class)
    if kind is None or not args:
        return UNKNOWN
    if verb in _MAKING:
        others = {ref: after[kind][ref] for ref in taken if ref in after[kind]}
        before = before.changed({kind: others})
    if verb == "create" and isinstance(args[0], Mapping):
        return _created(kind, args[0], before, after)
    if verb == "destroy":
        return NOT_DONE if args[0] in after[kind] else ""
    rule = _RULES.get((xapi_class, verb))
    if rule is None:
        return UNKNOWN
    return rule(verb, args, (before, after))


def visible(
    method: str, args: Sequence[Any], value: Any, before: Snapshot
) -> Effect | None:
    """Return what a call that succeeded has done, and whether the tables show it.

    None for one that leaves no trace in them.

    :param value: what the call returned
    :param before: the tables when it was sent
    """
    xapi_class, _, verb = method.partition(".")
    kind = _KIND_OF.get(xapi_class)
    if kind is None or xapi_class == "task" or not args:
        return None
    if verb in ("scan", "call_plugin"):
        return None  # no object of ours is another one now, or nobody knows which
    if isinstance(value, str) and value.startswith("OpaqueRef:"):
        # A constructor, a clone, a snapshot.
        return Effect(lambda now: value in now[kind], kind, value)
    ref = args[0]
    if verb == "destroy":
        return Effect(lambda now: ref not in now[kind], kind, ref)
    if (xapi_class, verb) in _RULES:

        def done(now: Snapshot) -> bool:
            # One that went soon after is told as gone, and nothing before that.
            if ref in before[kind] and ref not in now[kind]:
                return True
            return isinstance(outcome(method, args, before, now), str)

        return Effect(done, kind, ref)
    written = _WRITES.match(verb)
    if written is not None and hasattr(kind, written[2].lower()):
        how, name = written[1], written[2].lower()

        def holds(now: Snapshot) -> bool:
            return _holds(now[kind].get(ref), name, how, args[1:])

        return Effect(holds, kind, ref)
    was = before[kind].get(ref)
    # Whatever it did, an event of it has come.
    return Effect(lambda now: now[kind].get(ref) is not was, kind, ref)


def _holds(record: Any, name: str, how: str, args: Sequence[Any]) -> bool:
    """Tell whether a field is as it was written; so it is where the object is gone."""
    if record is None:
        return True
    found = getattr(record, name)
    if how == "add_to":
        return bool(found.get(args[0]) == str(args[1]))
    if how == "remove_from":
        return args[0] not in found
    if isinstance(found, Mapping):
        return found == {key: str(value) for key, value in args[0].items()}
    return ("" if found is None else str(found)) == (or_none(str(args[0])) or "")


def _created(
    kind: Kind, record: Mapping[str, Any], before: Snapshot, after: Snapshot
) -> str | Unknown | None:
    same = _SAME.get(kind)
    if same is None:
        return UNKNOWN
    wanted = {ours: record.get(theirs, "autodetect") for theirs, ours in same}
    if "autodetect" in wanted.values():
        return UNKNOWN  # the host chose
    found = [
        ref
        for ref, one in after[kind].items()
        if ref not in before[kind]
        and all(_like(getattr(one, name), value) for name, value in wanted.items())
    ]
    return _only(found)


def _like(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        # The host adds keys of its own.
        return all(found.get(key) == str(value) for key, value in wanted.items())
    return bool(found == str(wanted))  # ints go out as text


def _only(found: Sequence[str]) -> str | Unknown | None:
    if len(found) > 1:
        return UNKNOWN  # another thread did the same
    return found[0] if found else NOT_DONE


def _powered(verb: str, args: Sequence[Any], when: Snapshots) -> str | None:
    record = when[1][VmRecord].get(args[0])
    if record is None:
        return NOT_DONE
    wanted = _POWER[verb]
    if verb in _START_PAUSED and len(args) > _START_PAUSED[verb]:
        wanted = "Paused" if args[_START_PAUSED[verb]] else wanted
    return "" if record.power_state == wanted else NOT_DONE


def _rebooted(verb: str, args: Sequence[Any], when: Snapshots) -> str | Unknown | None:
    before, after = (one[VmRecord].get(args[0]) for one in when)
    if before is None or after is None:
        return UNKNOWN
    return "" if before.domid != after.domid and after.domid >= 0 else NOT_DONE


def _moved(verb: str, args: Sequence[Any], when: Snapshots) -> str | None:
    record = when[1][VmRecord].get(args[0])
    there = record is not None and record.resident_on == args[1]
    return "" if there else NOT_DONE


def _plugged(verb: str, args: Sequence[Any], when: Snapshots) -> str | Unknown | None:
    for kind in (VbdRecord, VifRecord, _KIND_OF["PBD"]):
        record: Any = when[1][kind].get(args[0])
        if record is not None:
            done = record.currently_attached == _ATTACHED[verb]
            return "" if done else NOT_DONE
    return UNKNOWN


def _resized(verb: str, args: Sequence[Any], when: Snapshots) -> str | None:
    record = when[1][VdiRecord].get(args[0])
    done = record is not None and record.virtual_size >= int(args[1])
    return "" if done else NOT_DONE


def _copied_disk(
    verb: str, args: Sequence[Any], when: Snapshots
) -> str | Unknown | None:
    """A clone, copy or snapshot has its original's name and nobody plugs it yet.

    That says nothing where other disks have the name, too.
    """
    before, after = (one[VdiRecord] for one in when)
    original = after.get(args[0]) or before.get(args[0])
    if original is None:
        return NOT_DONE
    sr = args[1] if verb == "copy" else original.sr
    found = [
        one.ref
        for one in after.named(original.name_label)
        if one.ref != args[0]
        and one.ref not in before
        and one.sr == sr
        and not one.vbds
        and one.managed
    ]
    if found and len(before.named(original.name_label)) > 1:
        return UNKNOWN  # the new one may be another call's
    return _only(found)


def _snapshotted_disk(
    verb: str, args: Sequence[Any], when: Snapshots
) -> str | Unknown | None:
    """A snapshot names its original."""
    before, after = (one[VdiRecord] for one in when)
    return _only(
        [
            one.ref
            for one in after.values()
            if one.snapshot_of == args[0] and one.ref not in before
        ]
    )


def _copied_vm(verb: str, args: Sequence[Any], when: Snapshots) -> str | Unknown | None:
    """A clone or snapshot of a VM has the name that it was given."""
    before, after = (one[VmRecord] for one in when)
    new = [one.ref for one in after.named(args[1]) if one.ref not in before]
    return _only([ref for ref in new if ref != args[0]])


def _made_task(verb: str, args: Sequence[Any], when: Snapshots) -> str | Unknown | None:
    """A task that we make has a name that no other has."""
    before, after = (one[TaskRecord] for one in when)
    return _only([one.ref for one in after.named(args[0]) if one.ref not in before])


Rule = Callable[[str, Sequence[Any], Snapshots], "str | Unknown | None"]
_RULES: dict[tuple[str, str], Rule] = {
    **{("VM", verb): _powered for verb in _POWER},
    **{("VM", verb): _rebooted for verb in ("clean_reboot", "hard_reboot")},
    **{("VM", verb): _copied_vm for verb in ("clone", "snapshot", "copy")},
    ("VM", "pool_migrate"): _moved,
    **{(kind, verb): _plugged for kind in ("VBD", "VIF") for verb in _ATTACHED},
    **{("PBD", verb): _plugged for verb in ("plug", "unplug")},
    **{("VDI", verb): _copied_disk for verb in ("clone", "copy")},
    ("VDI", "snapshot"): _snapshotted_disk,
    ("VDI", "resize"): _resized,
    ("task", "create"): _made_task,
}
