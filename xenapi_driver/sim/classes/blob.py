# SPDX-License-Identifier: Apache-2.0
"""Class blob: small files that are kept with an object."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.world import now

_OWNERS = ("VM", "SR", "host", "network", "pool")
_ANY_TYPE = "application/octet-stream"


@message("blob.create")
def create(call: Call, mime_type: str, public: bool) -> str:
    """Make a blob that nothing is in yet."""
    return _make(call, "", mime_type, public)


def _make(call: Call, name: str, mime_type: str, public: bool) -> str:
    values = {
        "name_label": name,
        "mime_type": mime_type or _ANY_TYPE,
        "public": public,
        "last_updated": now(),
    }
    return call.db.create("blob", values)


@message("blob.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove a blob, and its name from the object that it was kept with."""
    for cls in _OWNERS:
        for owner, row in call.db.rows(cls):
            kept = {name: blob for name, blob in row["blobs"].items() if blob != ref}
            call.db.update(cls, owner, blobs=kept)
    call.db.destroy("blob", ref)


@message(*(f"{cls}.create_new_blob" for cls in _OWNERS))
def create_new_blob(
    call: Call, owner: str, name: str, mime_type: str, public: bool
) -> str:
    """Make a blob that is kept with an object under a name that is free there."""
    cls = call.method.split(".", 1)[0]
    blobs = call.db.row(cls, owner)["blobs"]
    if name in blobs:
        raise Failure("BLOB_ALREADY_EXISTS")
    ref = _make(call, name, mime_type, public)
    call.db.update(cls, owner, blobs={**blobs, name: ref})
    return ref
