# SPDX-License-Identifier: Apache-2.0
"""What a VM archive says of its VMs: the records in ``ova.xml``.

References become ``Ref:<n>`` where the record is in the archive too, else they are
those of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xenapi_driver.sim.doors.wire import Malformed, decode_xml, value_xml
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL, Type
from xenapi_driver.sim.xva import tar_stream

NAME = "ova.xml"
_VERSION = "2"
_PREFIX = "Ref:"


@dataclass(frozen=True)
class Item:
    """One object of an archive.

    :ivar id: ``Ref:<n>``
    :ivar record: what its get_record answered, references changed as told above
    """

    cls: str
    id: str
    record: Row


@dataclass(frozen=True)
class Wishes:
    """What is to be in an archive.

    :ivar snapshots: the VMs' snapshots are, too
    :ivar keep_state: power states and suspended memory are
    """

    snapshots: bool = False
    keep_state: bool = False


def collect(db: Registry, vms: list[str], wishes: Wishes) -> dict[str, tuple[str, str]]:
    """Return the objects that belong to VMs: reference to class and ``Ref:<n>``."""
    found: dict[str, tuple[str, str]] = {}

    def add(cls: str, ref: str) -> None:
        if ref not in found and db.exists(cls, ref):
            found[ref] = cls, f"{_PREFIX}{len(found)}"

    all_vms = list(vms)
    if wishes.snapshots:
        all_vms += [one for vm in vms for one in db.row("VM", vm)["snapshots"]]
    for vm in all_vms:
        add("VM", vm)
    for vm in all_vms:
        row = db.row("VM", vm)
        add("VM_guest_metrics", row["guest_metrics"])
        for vbd in row["VBDs"]:
            add("VBD", vbd)
            add("VDI", db.row("VBD", vbd)["VDI"])
        for vif in row["VIFs"]:
            add("VIF", vif)
            add("network", db.row("VIF", vif)["network"])
        if wishes.keep_state:
            add("VDI", row["suspend_VDI"])
    for vdi in [ref for ref, (cls, _) in found.items() if cls == "VDI"]:
        add("SR", db.row("VDI", vdi)["SR"])
    return found


def describe(
    db: Registry, objects: dict[str, tuple[str, str]], wishes: Wishes
) -> bytes:
    """Return the text of ``ova.xml``."""
    items = []
    for ref, (cls, name) in objects.items():
        record = {
            field: _changed(value, db.schema.classes[cls].fields[field].type, objects)
            for field, value in db.record(cls, ref).items()
        }
        # What is under way here means nothing there.
        if "current_operations" in record:
            record.update(allowed_operations=[], current_operations={})
        if cls == "VM" and not wishes.keep_state:
            record.update(power_state="Halted", suspend_VDI=NULL)
        items.append({"class": cls, "id": name, "snapshot": record})
    host = db.record("host", db.row("pool", db.refs("pool")[0])["master"])
    software = host["software_version"]
    version = {
        "hostname": host["hostname"],
        "date": software.get("date", ""),
        "product_version": software.get("product_version", ""),
        "product_brand": software.get("product_brand", ""),
        "build_number": software.get("build_number", ""),
        "xapi_major": str(host["API_version_major"]),
        "xapi_minor": str(host["API_version_minor"]),
        "export_vsn": _VERSION,
    }
    return value_xml({"version": version, "objects": items}).encode()


def _changed(value: Any, type_: Type, objects: dict[str, tuple[str, str]]) -> Any:
    """Return a field's value with the references that mean something there."""
    if type_.kind == "ref":
        return objects[value][1] if value in objects else NULL
    if type_.kind == "set" and type_.inner[0].kind == "ref":
        return [objects[ref][1] for ref in value if ref in objects]
    if type_.kind == "map":
        key, inner = type_.inner
        if "ref" in (key.kind, inner.kind):
            return {}
    return value


def parse(text: bytes) -> list[Item]:
    """Return the objects of an ``ova.xml``.

    :raises Failure: IMPORT_ERROR, IMPORT_INCOMPATIBLE_VERSION
    """
    head = b"<methodCall><methodName>import</methodName><params><param>"
    try:
        _, (value,) = decode_xml(head + text + b"</param></params></methodCall>")
        newer = int(value["version"]["export_vsn"]) > int(_VERSION)
        items = [
            Item(str(one["class"]), str(one["id"]), dict(one["snapshot"]))
            for one in value["objects"]
        ]
    except (Malformed, LookupError, TypeError, ValueError):
        raise Failure("IMPORT_ERROR", f"{NAME} makes no sense") from None
    if newer:
        raise Failure("IMPORT_INCOMPATIBLE_VERSION")
    return items


def archive_of_records(text: bytes) -> bytes:
    """Return an archive that holds nothing but the records."""
    return tar_stream.member(NAME, text) + tar_stream.end()
