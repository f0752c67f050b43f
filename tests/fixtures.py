# SPDX-License-Identifier: Apache-2.0
"""The driver on the embedded host, with real dom0 plugins and an image service."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import uuid
from typing import Any
from unittest import mock

import nova.conf
import requests
import XenAPI
from nova import exception as nova_exception
from nova import objects
from nova.image import glance

from tests import builders
from tests.dom0.glance_server import GlanceServer
from xenapi_driver import conf as options
from xenapi_driver import driver as xenapi
from xenapi_driver.sim import Simulator

PLUGINS = pathlib.Path(__file__).parents[1] / "dom0_plugins/etc/xapi.d/plugins"
CONF = nova.conf.CONF
# Of Nova's objects, what asks the database.
QUERY = "get_by_instance_uuid"

# What the Image API v2 is told of a request's body.
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
PUT = {"Content-Type": "application/octet-stream"}


def prepare_nova() -> None:
    """Register Nova's objects and our options; may run twice."""
    CONF([], project="nova", default_config_files=[], default_config_dirs=[])
    objects.register_all()
    options.register_opts(CONF)


class VirtApi:
    """What the compute manager lends the driver; ports are plugged at once.

    :ivar waited_for: (event name, port id) of every event that was waited for
    """

    def __init__(self) -> None:
        self.waited_for: list = []

    @contextlib.contextmanager
    def wait_for_instance_event(
        self, instance, event_names, timeout=300, error_callback=None
    ):
        yield
        self.waited_for.extend(event_names)


class Host:
    """The embedded host, looked at through its own API as an operator would."""

    def __init__(self, folder: pathlib.Path, **choices: object) -> None:
        self.sim = Simulator(folder / "host", plugins_dir=PLUGINS, **choices)
        self.server = self.sim.serve()
        self._operator = XenAPI.Session(self.server.url)
        self._operator.xenapi.login_with_password("root", "secret", "1.0", "test")

    @property
    def xenapi(self) -> Any:
        """The operator's client, such as ``xenapi.VM.start(ref, False, False)``."""
        return self._operator.xenapi

    def record(self, kind: str, ref: str) -> dict:
        """Return one object's record."""
        return getattr(self._operator.xenapi, kind).get_record(ref)

    def records(self, kind: str, **fields: str) -> list[dict]:
        """Return the records of a class whose fields have these values."""
        found = getattr(self._operator.xenapi, kind).get_all_records()
        return [
            record
            for record in found.values()
            if all(record[name] == value for name, value in fields.items())
        ]

    def destroy(self, kind: str, uuid: str) -> None:
        """Destroy one object, as an operator might."""
        verbs = getattr(self._operator.xenapi, kind)
        verbs.destroy(verbs.get_by_uuid(uuid))

    def call(self, method: str, uuid: str, *more: object) -> None:
        """Call a method of the object that has this UUID."""
        kind, _, verb = method.partition(".")
        api = getattr(self._operator.xenapi, kind)
        getattr(api, verb)(api.get_by_uuid(uuid), *more)

    def create_sr(self, kind: str, **other_config: str) -> str:
        """Make an SR on the first host, plug it and return its UUID."""
        api = self._operator.xenapi
        place = {
            "device": "/dev/disk/by-id/another",
            "location": "server:/isos",
            "server": "server",
            "serverpath": "/disks",
        }
        sr = api.SR.create(
            *(api.host.get_all()[0], place, "0", kind, "", kind),
            *("iso" if kind == "iso" else "", False, {}),
        )
        api.SR.set_other_config(sr, other_config)
        return api.SR.get_uuid(sr)

    def close(self) -> None:
        """Stop the host."""
        self.server.close()
        self.sim.close()


class Glance:
    """What Nova's image client asks the image service for data with."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, context, version, method, args=()) -> Glance:
        """Begin to read an image; it is given piece by piece, then."""
        assert method == "data"
        headers = {"X-Auth-Token": context.auth_token}
        url = f"{self._url}/v2/images/{args[0]}/file"
        self.wrapped = requests.get(url, headers=headers, stream=True, timeout=30)
        self.wrapped.raise_for_status()
        return self

    def __iter__(self):
        return self.wrapped.iter_content(65536)


class Rig:
    """A driver, its host and its image service.

    :ivar host: the embedded host; ``sim`` is its inside
    :ivar driver: the driver, logged in by ``start``
    :ivar image_id: an image that boots, where the test asked for one
    :ivar tagged_ports: what Nova's database has of tagged ports
    :ivar tagged_disks: likewise, block device mappings
    :ivar progress: each percentage that was shown of any build
    """

    def __init__(
        self, folder: pathlib.Path, host: Any = None, **choices: object
    ) -> None:
        """:param host: another than one in this process, with what is used of it"""
        self.folder = folder
        self.host = host or Host(folder, **choices)
        self.sim = self.host.sim
        self.images = GlanceServer()
        self.images.token = "a-token"
        self.records: dict[str, dict] = {}
        self.progress: list[int] = []
        self.tagged_ports: list[objects.VirtualInterface] = []
        self.tagged_disks: list[objects.BlockDeviceMapping] = []
        self.options: dict[tuple[str, str], object] = {}
        self.image_id = ""
        self.virtapi = VirtApi()
        self.driver = xenapi.XenAPIDriver(self.virtapi)
        self.context = builders.request_context()
        self._undo = contextlib.ExitStack()
        self._replace_catalogue()
        for name, value in {
            "connection_url": self.host.server.url,
            "connection_username": "root",
            "connection_password": "secret",
            "compute_vm_uuid": self.sim.compute_vm_uuid,
            "ovs_integration_bridge": "br-int",
        }.items():
            self.set_option(name, value)

    def _replace_catalogue(self) -> None:
        """Glance's catalogue is the one part that does not run for real here."""

        def get(api, context, image_id, include_locations=False, show_deleted=True):
            if image_id in self.records:
                return self.records[image_id]
            return builders.uploaded_record(self.images.images[image_id])

        def download(api, context, image_id, data=None, trusted_certs=None):
            # Nova's own, which verifies signatures, on another client of Glance.
            service = glance.GlanceImageServiceV2(client=Glance(self.images.url))
            service.show = lambda *args, **kwargs: get(api, context, image_id)
            return service.download(
                context, image_id, data=data, trusted_certs=trusted_certs
            )

        def update(api, context, image_id, about, data=None, purge_props=True):
            headers = {"X-Auth-Token": context.auth_token}
            url = f"{self.images.url}/v2/images/{image_id}"
            flat = {**about, **about.get("properties", {})}
            changes = [
                {"op": "add", "path": f"/{name}", "value": value}
                for name, value in flat.items()
                if name != "properties"
            ]
            for answer in (
                requests.patch(url, json.dumps(changes), headers={**headers, **PATCH}),
                requests.put(f"{url}/file", iter(data), headers={**headers, **PUT}),
            ):
                if answer.status_code == 404:
                    raise nova_exception.ImageNotFound(image_id=image_id)
                answer.raise_for_status()

        def save(instance, *args, **kwargs):
            self.progress.append(instance.progress)

        for name, target, new in (
            ("get", glance.API, get),
            ("download", glance.API, download),
            ("update", glance.API, update),
            ("save", objects.Instance, save),
            (QUERY, objects.VirtualInterfaceList, lambda *args: self.tagged_ports),
            (QUERY, objects.BlockDeviceMappingList, lambda *args: self.tagged_disks),
            ("get_api_servers", glance, lambda ctx: itertools.repeat(self.images.url)),
        ):
            self._undo.enter_context(mock.patch.object(target, name, new))

    @property
    def plugin_dir(self) -> pathlib.Path:
        """The embedded dom0's plugin folder."""
        return self.folder / "host/dom0" / "etc/xapi.d/plugins"

    def set_option(self, name: str, value: object, group: str = "xenserver") -> None:
        """Set an option until the rig is closed; None unsets it."""
        section = None if group == "DEFAULT" else group
        CONF.set_override(name, value, section)
        self._undo.callback(CONF.clear_override, name, section)
        self.options[group, name] = value

    def nova_conf(self) -> pathlib.Path:
        """Write the options that were set into a file, and return it."""
        sections: dict[str, list[str]] = {
            "DEFAULT": ["compute_driver = xenapi.XenAPIDriver"]
        }
        for (group, name), value in self.options.items():
            if value is not None:
                text = ",".join(value) if isinstance(value, list) else value
                sections.setdefault(group, []).append(f"{name} = {text}")
        path = self.folder / "nova.conf"
        path.write_text(
            "".join(f"[{name}]\n" + "\n".join(lines) + "\n"
                    for name, lines in sections.items())
        )  # fmt: skip
        return path

    def start(self) -> None:
        """Let the driver log in to the host."""
        self.driver.init_host("compute1")

    def recording(self):
        """Return a context that gives the XAPI requests that the driver makes."""
        return self.driver.home.session.requests.recording()

    def add_image(self, data: bytes, **changes: object) -> str:
        """Offer ``data`` as an image and return its id."""
        image_id = str(uuid.uuid4())
        self.images.image(identity=image_id, status="active", data=data)
        self.records[image_id] = builders.image_record(image_id, data, **changes)
        return image_id

    def spawn(self, instance: objects.Instance, ports: int = 1, **kwargs) -> None:
        """Build the instance as the compute manager does."""
        self.driver.spawn(
            self.context,
            instance,
            self.image_meta(instance, kwargs),
            kwargs.pop("injected_files", []),
            "password",
            kwargs.pop("allocations", {}),
            network_info=builders.network_info(ports, kwargs.pop("active", True)),
            **kwargs,
        )

    def image_meta(
        self, instance: objects.Instance, chosen: dict[str, Any]
    ) -> objects.ImageMeta:
        """Return what a test chose, with the formats of the server's image."""
        meta = chosen.pop("image_meta", None) or builders.image_meta()
        record = self.records.get(instance.image_ref, {})
        meta.id = instance.image_ref
        meta.disk_format = record.get("disk_format", "vhd")
        meta.container_format = record.get("container_format", "ovf")
        return meta

    def destroy(self, instance: objects.Instance) -> None:
        """Delete the instance as the compute manager does."""
        self.driver.destroy(self.context, instance, builders.network_info(0))

    def close(self) -> None:
        """Log out and stop the host."""
        self.driver.cleanup_host("compute1")
        self._undo.close()
        self.images.close()
        self.host.close()
