# SPDX-License-Identifier: Apache-2.0
"""Make an image of a server's root disk, whatever the server is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nova.compute import task_states

from xenapi_driver import exceptions, flow
from xenapi_driver.images import source as image_source
from xenapi_driver.images.handlers import Handler
from xenapi_driver.steps import snapshot as steps
from xenapi_driver.steps.build import ROOT_DEVICE, VOLUME_KEY
from xenapi_driver.xapi import coalescing, errors, vbd, vdi, vm
from xenapi_driver.xapi.home import Home


@dataclass(frozen=True)
class Subject:
    """The server whose disk becomes an image, as values.

    :ivar properties: what the image gets, so that a server made from it is alike
    :ivar quiesce: its image wants it to be consistent (``os_require_quiesce``)
    """

    uuid: str
    name: str
    properties: dict[str, str]
    quiesce: bool


def subject_of(
    instance: Any, default_os_type: str, compression_level: int | None
) -> Subject:
    """Return what the steps need to know of Nova's instance."""
    # What is set so by the image must not be set by a server that is made from it.
    said = instance.system_metadata.get("image_auto_disk_config", "")
    auto = "disabled" if said == "disabled" else str(bool(instance.auto_disk_config))
    properties = {
        "auto_disk_config": auto,
        "os_type": instance.os_type or default_os_type,
    }
    if compression_level is not None:
        properties["xenapi_image_compression_level"] = str(compression_level)
    wanted = instance.image_meta.properties.get("os_require_quiesce")
    return Subject(instance.uuid, instance.name, properties, bool(wanted))


class SnapshotImages:
    """Makes images of servers in one place; safe to call from many threads."""

    def __init__(self, home: Home, handler: Handler, looks: coalescing.Looks) -> None:
        """:param handler: carries the disk to the image service"""
        self._home = home
        self._handler = handler
        self._looks = looks

    def __call__(
        self,
        context: Any,
        subject: Subject,
        image_id: str,
        update_task_state: Callable[..., object],
    ) -> None:
        """Fill the image, which waits for its data; the server goes on meanwhile.

        On any failure the host is as it was, and the image has no data.

        :param update_task_state: Nova's; what it raises ends the work
        :raises exceptions.DriverError: refused, or failed for a known reason
        :raises errors.XapiError: the host refused a step
        """
        disk = self._root_disk(subject)
        target = image_source.open_target(context, image_id, subject.properties)

        def pending() -> None:
            update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)

        def uploading() -> None:
            update_task_state(
                task_state=task_states.IMAGE_UPLOADING,
                expected_state=task_states.IMAGE_PENDING_UPLOAD,
            )

        home, handler = self._home, self._handler
        work: list[flow.Step[steps.Taken]] = [
            steps.TakeSnapshot(home, disk, image_id),
            steps.Tell(pending),
        ]
        if handler.longest_chain is not None:
            work += [
                steps.SettleChain(home, self._looks),
                steps.FlattenLongChain(home, handler.longest_chain),
            ]
        work += [
            steps.Tell(uploading),
            steps.StoreImage(home, handler, target, self._looks),
            steps.DropSnapshot(home),
        ]
        try:
            flow.run_flow(work, steps.Taken())
        except errors.HandleInvalid:
            self._vm(subject)  # the server was deleted meanwhile
            raise

    def _vm(self, subject: Subject) -> vm.VmRecord:
        record = vm.find_server(self._home.session, subject.name, subject.uuid)
        if record is None:
            raise exceptions.ServerNotFound(
                f"Server {subject.name} has no VM on the host."
            )
        return record

    def _root_disk(self, subject: Subject) -> vdi.VdiRecord:
        """Return the disk of which an image is made.

        :raises exceptions.UnfitHost: there is none
        """
        record = self._vm(subject)
        if subject.quiesce and record.power_state != "Halted":
            raise exceptions.QuiesceImpossible(
                f"Server {subject.name} is {record.power_state.lower()} and its image "
                "says os_require_quiesce, but XAPI hosts no longer quiesce guests: "
                "stop the server and snapshot it then."
            )
        for drive in vbd.of_vm(self._home.session, record.ref):
            own = drive.type == "Disk" and VOLUME_KEY not in drive.other_config
            if own and drive.userdevice == ROOT_DEVICE and drive.vdi is not None:
                return vdi.get(self._home.session, drive.vdi)
        raise exceptions.UnfitHost(
            f"Server {subject.name} has no root disk of its own, of which an image "
            "could be made."
        )
