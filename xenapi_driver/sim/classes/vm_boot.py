# SPDX-License-Identifier: Apache-2.0
"""Class VM: what a guest boots with: kind of domain, BIOS, NVRAM, secure boot."""

from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.vms import guests, operations, states

_SETTABLE = {
    name for name in guests.BIOS_STRINGS if name.startswith(("bios", "system", "base"))
} | {"enclosure-asset-tag"}
_MAX_BIOS_STRING = 512
_VARIABLES = "EFI-variables"
# What stands in a guest's NVRAM once secure boot waits for its keys.
_SETUP = "U0VUVVAgc2ltdWxhdGVk"


@message("VM.set_domain_type")
def set_domain_type(call: Call, ref: str, value: str) -> None:
    """Choose how the guest is virtualised from its next start on."""
    if value == "unspecified":
        raise Failure("INVALID_VALUE", "domain_type", value)
    policy = "" if value == "pv" else "BIOS order"
    call.db.update("VM", ref, domain_type=value, HVM_boot_policy=policy)


@message("VM.set_HVM_boot_policy")
def set_hvm_boot_policy(call: Call, ref: str, value: str) -> None:
    """Choose the kind of guest in the older way."""
    kind = "hvm" if value else "pv"
    call.db.update("VM", ref, domain_type=kind, HVM_boot_policy=value)


@message("VM.set_bios_strings")
def set_bios_strings(call: Call, ref: str, value: dict[str, str]) -> None:
    """Say what the guest's firmware tells of the machine; once only."""
    if call.db.row("VM", ref)["bios_strings"]:
        raise Failure("VM_BIOS_STRINGS_ALREADY_SET")
    for name, text in value.items():
        if name not in _SETTABLE:
            raise Failure("INVALID_VALUE", name, "Unknown key")
        if len(text) > _MAX_BIOS_STRING:
            reason = f"{text} has length more than {_MAX_BIOS_STRING} characters"
            raise Failure("INVALID_VALUE", name, reason)
        if not (text.isascii() and text.isprintable()):
            reason = f"{text} has non-printable ASCII characters"
            raise Failure("INVALID_VALUE", name, reason)
    call.db.update("VM", ref, bios_strings={**guests.BIOS_STRINGS, **value})


@message("VM.copy_bios_strings")
def copy_bios_strings(call: Call, ref: str, host: str) -> None:
    """Let the guest's firmware tell what the host's does; once only."""
    if call.db.row("VM", ref)["bios_strings"]:
        raise Failure("VM_BIOS_STRINGS_ALREADY_SET")
    strings = call.db.row("host", host)["bios_strings"]
    call.db.update("VM", ref, bios_strings=dict(strings))


@message("VM.set_NVRAM", "VM.add_to_NVRAM", "VM.remove_from_NVRAM")
def change_nvram(call: Call, ref: str, *change: Any) -> None:
    """Change the variables of a halted guest's firmware."""
    states.require(call.db, ref, "changing_NVRAM")
    if call.method == "VM.set_NVRAM":
        call.db.update("VM", ref, NVRAM=change[0])
    elif call.method == "VM.add_to_NVRAM":
        call.db.add_to_map("VM", ref, "NVRAM", {change[0]: change[1]})
    else:
        call.db.remove_from_map("VM", ref, "NVRAM", change[0])


@message("VM.set_NVRAM_EFI_variables")
def set_efi_variables(call: Call, ref: str, value: str, update: str) -> None:
    """Keep what a running guest's firmware wrote.

    :param update: what became of its certificates meanwhile
    """
    nvram = call.db.row("VM", ref)["NVRAM"]
    call.db.update("VM", ref, NVRAM={**nvram, _VARIABLES: value})


def _secure_boot(call: Call, row: Row) -> bool:
    mode = row["platform"].get("secureboot", "false")
    if mode == "auto":
        pool = call.db.row("pool", call.db.refs("pool")[0])
        return bool(pool["uefi_certificates"])
    return mode in ("true", "1")


@message("VM.set_uefi_mode")
def set_uefi_mode(call: Call, ref: str, mode: str) -> str:
    """Let a UEFI guest's next boot enrol keys (setup), or take the pool's (user)."""
    row = states.require(call.db, ref, "changing_NVRAM")
    if not guests.uefi(row):
        raise Failure("INVALID_VALUE", "HVM_boot_params:firmware", "not uefi")
    nvram = {name: text for name, text in row["NVRAM"].items() if name != _VARIABLES}
    if mode == "setup":
        nvram[_VARIABLES] = _SETUP
    call.db.update("VM", ref, NVRAM=nvram)
    return ""


@message("VM.get_secureboot_readiness")
def get_secureboot_readiness(call: Call, ref: str) -> str:
    """Return how far the guest is from a secure boot."""
    row = call.db.row("VM", ref)
    if not guests.uefi(row):
        return "not_supported"
    if not _secure_boot(call, row):
        return "disabled"
    variables = row["NVRAM"].get(_VARIABLES)
    if not variables:
        return "first_boot"
    return "setup_mode" if variables == _SETUP else "certs_incomplete"


@message("VM.get_boot_record")
def get_boot_record(call: Call, ref: str) -> Row:
    """Return the record that the guest was started with."""
    with operations.under_way(call, ref, "get_boot_record"):
        return call.db.record("VM", ref)
