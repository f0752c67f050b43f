# SPDX-License-Identifier: Apache-2.0
"""``kill_program.py NOVA_CONF IMAGE_SERVICE``: builds servers, and is killed meanwhile.

Each line of its input is JSON: an instance's ``id`` and ``uuid``, the image's
``record``, and ``options`` as lists of group, name, value. A process of its own builds
it, whose id is printed.
"""

import itertools
import json
import os
import sys
from unittest import mock

import nova.conf
from nova import objects
from nova.image import glance

from tests import builders, fixtures
from xenapi_driver import driver as xenapi
from xenapi_driver.ops import left_overs

NOVA_CONF, IMAGES = sys.argv[1:]
CONF = nova.conf.CONF


def build(asked):
    for group, name, value in asked["options"]:
        CONF.set_override(name, value, None if group == "DEFAULT" else group)
    service = xenapi.XenAPIDriver(fixtures.VirtApi())
    with (
        mock.patch.object(glance.API, "get", lambda *_args, **_kw: asked["record"]),
        mock.patch.object(
            glance, "get_api_servers", lambda _ctx: itertools.repeat(IMAGES)
        ),
        mock.patch.object(objects.Instance, "save", lambda *_args, **_kw: None),
        mock.patch.object(
            objects.VirtualInterfaceList, fixtures.QUERY,
            lambda *_args: objects.VirtualInterfaceList(objects=[]),
        ),
        mock.patch.object(
            objects.BlockDeviceMappingList, fixtures.QUERY,
            lambda *_args: objects.BlockDeviceMappingList(objects=[]),
        ),
        mock.patch.object(left_overs, "never_ran", lambda *_args, **_kw: False),
    ):
        service.init_host("compute1")
        instance = builders.instance(
            asked["record"]["id"], id=asked["id"], uuid=asked["uuid"]
        )
        meta = objects.ImageMeta.from_dict({**asked["record"], "properties": {}})
        service.spawn(
            builders.request_context(), instance, meta, [], "", {},
            network_info=builders.network_info(1),
        )  # fmt: skip


fixtures.prepare_nova()
CONF(["--config-file", NOVA_CONF], project="nova", default_config_files=[],
     default_config_dirs=[])  # fmt: skip
for line in sys.stdin:
    child = os.fork()  # before there is any thread
    if not child:
        build(json.loads(line))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("over", flush=True)
