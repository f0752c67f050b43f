# SPDX-License-Identifier: Apache-2.0
"""What tests of several hosts do over and over."""

import pytest

from tests.sim.clients import (
    GIB,
    Refused,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)


def hosts_of(client):
    """Return the coordinator and the others."""
    master = client.call("pool.get_master", client.call("pool.get_all")[0])
    others = [ref for ref in client.call("host.get_all") if ref != master]
    return (master, *others)


def refused(code, call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.code == code
    return caught.value.params


def shared_sr(client):
    master = hosts_of(client)[0]
    place = {"server": "nfs.example.org", "serverpath": "/shared"}
    sr = client.call(
        *("SR.create", master, place, "0", "shared", "", "nfs", "", True, {})
    )
    for pbd in client.call("SR.get_PBDs", sr):
        if not client.call("PBD.get_currently_attached", pbd):
            client.call("PBD.plug", pbd)
    return sr


def local_sr(client, host):
    for ref, row in client.call("SR.get_all_records").items():
        if row["type"] == "ext" and not row["shared"]:
            pbds = client.call("SR.get_PBDs", ref)
            if client.call("PBD.get_host", pbds[0]) == host:
                return ref
    raise AssertionError("no local SR")


def guest(client, sr, **changes):
    """Return a VM with a disk on an SR."""
    vm = client.call("VM.create", vm_record(**changes))
    vdi = client.call("VDI.create", vdi_record(sr, virtual_size=str(GIB // 64)))
    client.call("VBD.create", vbd_record(vm, vdi))
    return vm, vdi


def store_of(world, vdi):
    row = world.db.row("VDI", vdi)
    return world.stores[row["SR"]], row["location"]


def start_on(vm, host):
    return ("VM.start_on", vm, host, False, False)


def management_network(client):
    for pif in client.call("PIF.get_all_records").values():
        if pif["management"]:
            return pif["network"]
    raise AssertionError("no management interface")


def send(vm, dest, vdis, vifs=None, options=None):
    return ("VM.migrate_send", vm, dest, True, vdis, vifs or {}, options or {})


def prepared(sim, here, there):
    """Return a VM with disk and interface here, and the way to the other pool."""
    vm, vdi = guest(here, local_sr(here, hosts_of(here)[0]), name_label="traveller")
    store, name = store_of(sim.world, vdi)
    store.write(name, 0, b"luggage")
    net = management_network(here)
    vif = here.call("VIF.create", vif_record(vm, net))
    host = hosts_of(there)[0]
    far_net, far_sr = management_network(there), local_sr(there, host)
    dest = there.call("host.migrate_receive", host, far_net, {})
    return vm, dest, {vdi: far_sr}, {vif: far_net}


def is_live(client, host):
    return client.call("host_metrics.get_live", client.call("host.get_metrics", host))


def die(sim, number):
    sim.act("host", host=number, what="die")
