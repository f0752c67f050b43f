# SPDX-License-Identifier: Apache-2.0
"""Take a VM through its life with the XenAPI module, of any age.

    life_of_a_vm.py URL

Runs under Python 2.7 and 3; prints one JSON object of what it was answered.
"""

import json
import sys

import XenAPI

VM_FIELDS = {
    "user_version": "1",
    "is_a_template": False,
    "affinity": "OpaqueRef:NULL",
    "memory_static_max": str(1 << 30),
    "memory_dynamic_max": str(1 << 30),
    "memory_dynamic_min": str(1 << 30),
    "memory_static_min": str(1 << 29),
    "VCPUs_params": {},
    "VCPUs_max": "2",
    "VCPUs_at_startup": "2",
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "restart",
    "PV_bootloader": "",
    "PV_kernel": "",
    "PV_ramdisk": "",
    "PV_args": "",
    "PV_bootloader_args": "",
    "PV_legacy_args": "",
    "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"order": "cd"},
    "platform": {},
    "PCI_bus": "",
    "other_config": {},
    "recommendations": "",
}


def connect(url):
    try:
        return XenAPI.Session(url, ignore_ssl=url.startswith("https"))
    except TypeError:
        # 1.2 leaves certificates to Python: SSL_CERT_FILE names ours.
        return XenAPI.Session(url)


def refusal(function, *args):
    """Return the details of the failure that a call must have."""
    try:
        function(*args)
    except XenAPI.Failure as failure:
        return failure.details
    raise AssertionError("not refused")


def make(xenapi):
    """Make a VM with a disk and a port; return the three references."""
    record = dict(VM_FIELDS, name_label="of the XenAPI module")
    vm = xenapi.VM.create(record)
    pool = xenapi.pool.get_all()[0]
    disk = {
        "name_label": "its disk",
        "SR": xenapi.pool.get_default_SR(pool),
        "virtual_size": str(1 << 30),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {"made-by": "life_of_a_vm"},
    }
    vdi = xenapi.VDI.create(disk)
    vbd = {"VM": vm, "VDI": vdi, "userdevice": "0", "bootable": True, "mode": "RW"}
    vbd.update(type="Disk", empty=False, other_config={})
    xenapi.VBD.create(dict(vbd, qos_algorithm_type="", qos_algorithm_params={}))
    port = {"VM": vm, "network": xenapi.network.get_all()[0], "device": "0"}
    port.update(MAC="", MTU="1500", other_config={})
    vif = xenapi.VIF.create(dict(port, qos_algorithm_type="", qos_algorithm_params={}))
    return vm, vdi, vif


def states_since(xenapi, token, ref):
    """Return the power states that event.from tells of a VM since a token."""
    # "from" is a word of the language.
    batch = getattr(xenapi.event, "from")(["vm"], token, 5.0)
    found = [event for event in batch["events"] if event["ref"] == ref]
    return [event["snapshot"]["power_state"] for event in found]


def main(url):
    session = connect(url)
    session.login_with_password("root", "secret")
    xenapi = session.xenapi
    vm, vdi, vif = make(xenapi)
    token = getattr(xenapi.event, "from")(["vm"], "", 5.0)["token"]
    answers = {"version": session.API_version, "refs": [vm, vdi, vif]}
    xenapi.VM.start(vm, False, False)
    answers["states"] = states_since(xenapi, token, vm)
    answers["twice"] = refusal(xenapi.VM.start, vm, False, False)
    answers["record"] = xenapi.VM.get_record(vm)
    answers["no such method"] = refusal(xenapi.VM.levitate, vm)
    # Longer than one packet, and not ASCII.
    text = b"\xd0\x96\xe2\x82\xac".decode("utf-8") * 4000
    xenapi.VM.set_name_description(vm, text)
    answers["text kept"] = xenapi.VM.get_name_description(vm) == text
    answers["sessions"] = [session._session]
    # A session that is gone is opened again by the module itself.
    session._session = "OpaqueRef:gone"
    answers["state"] = session.xenapi.VM.get_power_state(vm)
    answers["sessions"].append(session._session)
    session.xenapi.logout()
    print(json.dumps(answers, default=str))


if __name__ == "__main__":
    main(sys.argv[1])
