# SPDX-License-Identifier: Apache-2.0
"""VMs made from the records of an archive, with disks found or made anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xenapi_driver.sim.classes import vif as vif_class
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import HANDLERS, Call
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.schema import NULL, convert
from xenapi_driver.sim.vms import guests, memory
from xenapi_driver.sim.xva.ova import Item

# Fields of a VM that a client cannot choose, and an import keeps.
_KEPT = ("last_boot_CPU_flags", "last_booted_record", "bios_strings", "snapshot_time")
_KEPT_OF_SNAPSHOTS = ("is_a_snapshot", "snapshot_info", "snapshot_metadata")
_NEVER = (
    "affinity",
    "appliance",
    "blocked_operations",
    "groups",
    "protection_policy",
    "snapshot_schedule",
    "suspend_SR",
)
_OF_DISK = (
    "name_label",
    "name_description",
    "virtual_size",
    "type",
    "sharable",
    "read_only",
    "other_config",
    "xenstore_data",
    "tags",
)


@dataclass(frozen=True)
class Choices:
    """How an archive is taken.

    :ivar sr: where its disks go; "" where they must be there already
    :ivar restore: the VMs come back as they were, uuids and addresses included
    :ivar force: what cannot be found is left out
    """

    sr: str
    restore: bool = False
    force: bool = False


@dataclass
class Import:
    """An import under way.

    :ivar made: class and reference of what was made, to be undone when it fails
    :ivar known: ``Ref:<n>`` to the object here
    :ivar filled: ``Ref:<n>`` of the disks whose content the archive holds
    """

    call: Call
    items: list[Item]
    choices: Choices
    made: list[tuple[str, str]] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    filled: dict[str, str] = field(default_factory=dict)

    def run(self) -> list[str]:
        """Make all records; return the VMs.

        :raises Failure: and :meth:`undo` takes back what was made
        """
        with self.call.db.changed:
            for cls, make in (
                ("network", self._network),
                ("VDI", self._disk),
                ("VM_guest_metrics", self._guest_metrics),
                ("VM", self._vm),
                ("VIF", self._vif),
                ("VBD", self._vbd),
            ):
                for item in self.items:
                    if item.cls == cls:
                        make(item)
            self._tie_snapshots()
            self._suspend()
            vms = [one for one in self.items if one.cls == "VM"]
            return [
                self.known[one.id] for one in vms if not one.record.get("is_a_snapshot")
            ]

    def undo(self) -> None:
        """Remove what was made, the last first."""
        db = self.call.db
        with db.changed:
            for cls, ref in reversed(self.made):
                if not db.exists(cls, ref):
                    continue
                if cls == "VDI":
                    HANDLERS["VDI.destroy"].function(self.call, ref)
                else:
                    db.destroy(cls, ref)

    def _note(self, item: Item, ref: str) -> None:
        self.made.append((item.cls, ref))
        self.known[item.id] = ref

    def _values(self, item: Item, also: tuple[str, ...] = ()) -> Row:
        """Return the fields of a record that a client may choose, typed."""
        found: Row = {}
        for name, about in self.call.db.schema.classes[item.cls].fields.items():
            chosen = about.qualifier != "D" or name in also
            inner = [about.type, *about.type.inner]
            if any(one.kind == "ref" for one in inner):
                continue
            if name in item.record and chosen:
                found[name] = convert(about.type, item.record[name])
        found.pop("uuid", None)
        return found

    # one method a class

    def _network(self, item: Item) -> None:
        """Take the network of the same bridge or name, else make one."""
        db, record = self.call.db, item.record
        for wanted in (
            {"bridge": record["bridge"]},
            {"name_label": record["name_label"]},
        ):
            found = db.find("network", **wanted)
            if found:
                self.known[item.id] = found[0]
                return
        values = {
            "name_label": record["name_label"],
            "name_description": record["name_description"],
            "MTU": int(record["MTU"]),
            "other_config": dict(record["other_config"]),
        }
        self._note(item, _create(self.call, "network", values))

    def _disk(self, item: Item) -> None:
        db, record = self.call.db, item.record
        if self._is_cd(item):
            found = db.find("VDI", uuid=record["uuid"]) or [
                ref
                for ref in db.find("VDI", location=record["location"])
                if db.row("SR", db.row("VDI", ref)["SR"])["content_type"] == "iso"
            ]
            self.known[item.id] = found[0] if found else NULL
            return
        if not self.choices.sr:
            found = db.find("VDI", uuid=record["uuid"])
            if not found and not self.choices.force:
                raise Failure("UUID_INVALID", "VDI", record["uuid"])
            self.known[item.id] = found[0] if found else NULL
            return
        values = {name: self._values(item)[name] for name in _OF_DISK}
        # A disk cannot be filled while nobody may write it.
        values.update(SR=self.choices.sr, read_only=False)
        ref = _create(self.call, "VDI", values)
        self._note(item, ref)
        self.filled[item.id] = ref

    def _is_cd(self, item: Item) -> bool:
        """Return whether a disk of the archive is used by CD drives alone."""
        users = [
            one.record["type"]
            for one in self.items
            if one.cls == "VBD" and one.record["VDI"] == item.id
        ]
        return bool(users) and all(kind == "CD" for kind in users)

    def _guest_metrics(self, item: Item) -> None:
        names = self.call.db.schema.classes[item.cls].fields
        values = self._values(item, tuple(names))
        self._note(item, self.call.db.create(item.cls, values))

    def _vm(self, item: Item) -> None:
        call, choices = self.call, self.choices
        db, record = call.db, item.record
        also = _KEPT + (_KEPT_OF_SNAPSHOTS if record.get("is_a_snapshot") else ())
        values = self._values(item, also)
        for name in _NEVER:
            values.pop(name, None)
        if choices.restore:
            twins = db.find("VM", uuid=record["uuid"])
            if twins:
                raise Failure("DUPLICATE_VM", twins[0])
            values["uuid"] = record["uuid"]
        else:
            values["other_config"] = {
                **values["other_config"],
                "mac_seed": db.new_uuid(),
            }
            if values["generation_id"]:
                values["generation_id"] = guests.fresh_generation(db)
        values["other_config"] = {**values["other_config"], "import_task": call.task}
        metrics = {"VCPUs_utilisation": {"0": 0.0}}
        values.update(
            power_state="Halted",
            memory_target=0,
            domid=-1,
            suspend_VDI=NULL,
            metrics=db.create("VM_metrics", metrics),
            guest_metrics=self.known.get(str(record["guest_metrics"]), NULL),
            memory_overhead=memory.overhead({**record, **values}),
        )
        self.made.append(("VM_metrics", values["metrics"]))
        self._note(item, db.create("VM", values))

    def _vif(self, item: Item) -> None:
        vm = self.known.get(str(item.record["VM"]), NULL)
        values = self._values(item)
        values["MAC_autogenerated"] = bool(item.record["MAC_autogenerated"])
        if not self.choices.restore:
            seed = self.call.db.row("VM", vm)["other_config"]["mac_seed"]
            values["MAC"] = vif_class.generated_mac(seed, values["device"])
            values["MAC_autogenerated"] = True
        values.update(
            VM=vm,
            network=self.known[str(item.record["network"])],
            currently_attached=False,
            metrics=self.call.db.new_ref(),
        )
        self._note(item, self.call.db.create("VIF", values))

    def _vbd(self, item: Item) -> None:
        values = self._values(item)
        disk = self.known.get(str(item.record["VDI"]), NULL)
        if disk == NULL:
            if values["type"] != "CD":
                return
            values["empty"] = True
        values.update(
            VM=self.known[str(item.record["VM"])],
            VDI=disk,
            currently_attached=False,
            device="",
            metrics=self.call.db.new_ref(),
        )
        self._note(item, self.call.db.create("VBD", values))

    # what ties them together

    def _tie_snapshots(self) -> None:
        for item in self.items:
            of = self.known.get(str(item.record.get("snapshot_of", NULL)), NULL)
            if of != NULL and item.cls in ("VM", "VDI"):
                ref = self.known[item.id]
                self.call.db.update(item.cls, ref, snapshot_of=of, is_a_snapshot=True)

    def _suspend(self) -> None:
        """Give VMs back the memory with which they were suspended."""
        for item in self.items:
            if item.cls != "VM" or item.record["power_state"] != "Suspended":
                continue
            image = self.known.get(str(item.record["suspend_VDI"]), NULL)
            if image != NULL:
                values = {"power_state": "Suspended", "suspend_VDI": image}
                self.call.db.update("VM", self.known[item.id], **values)


def _create(call: Call, cls: str, values: Row) -> str:
    """Make an object as a client would, with defaults for what is not told."""
    fields = call.db.schema.classes[cls].fields
    record: dict[str, Any] = {
        name: about.initial()
        for name, about in fields.items()
        if about.qualifier != "D" and about.flag != "internal"
    }
    handler = HANDLERS.get(f"{cls}.create")
    if handler is None:
        return call.db.create(cls, values)
    return str(handler.function(call, {**record, **values}))
