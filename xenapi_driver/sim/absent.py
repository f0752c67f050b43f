# SPDX-License-Identifier: Apache-2.0
"""Messages of features that the simulated host does not have.

Each answers as a real host does where the feature is missing: with the error code of
that feature, never with an empty success. Objects that a caller names are looked up
first, so that a dead reference is told from an absent feature.
"""

import re
from collections.abc import Callable
from typing import Any

from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.schema import NULL, Message

# Pattern of wire names, error code, parameters; "{0}" is the message's first argument.
# The first pattern that fits counts.
RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"Cluster(_host)?\..*", "LICENCE_RESTRICTION", ("Corosync",)),
    (r"PVS_\w+\..*", "LICENCE_RESTRICTION", ("PVS_proxy",)),
    (r"DR_task\..*", "LICENCE_RESTRICTION", ("DR",)),
    (r"\w+\.(assert_can_be_)?recover(ed)?", "LICENCE_RESTRICTION", ("DR",)),
    (r"\w+\.get_SRs_required_for_recovery", "LICENCE_RESTRICTION", ("DR",)),
    (r"Rate_limit\..*|Caller\..*", "LICENCE_RESTRICTION", ("Rate_limit",)),
    (r"network_sriov\.create", "PIF_IS_NOT_SRIOV_CAPABLE", ("{0}",)),
    (r"\w+\.\w*wlb\w*", "WLB_NOT_INITIALIZED", ()),
    (r"pool\.(disable_ha|\w*ha_\w+)", "HA_NOT_ENABLED", ()),
    (r"host\.ha_\w+", "HA_NOT_ENABLED", ()),
    (r"pool\.enable_ha", "HA_TOO_FEW_HOSTS", ()),
    (r"pool\.sync_updates|host\.apply_updates", "NO_REPOSITORY_ENABLED", ()),
    (r"pool\.check_update_readiness", "NO_REPOSITORY_ENABLED", ()),
    (r"auth\..*", "AUTH_IS_DISABLED", ()),
    (r"pool_update\.introduce", "INVALID_UPDATE", ("no update in the VDI",)),
    (r"\w+\.enable_external_auth", "AUTH_UNKNOWN_TYPE", ("{3}",)),
    (r"host\.license_\w+", "LICENSE_FILE_DEPRECATED", ()),
    (r"\w+\.\w*_redo_log", "NO_MORE_REDO_LOGS_ALLOWED", ()),
    (r"SR\.\w+_database_replication", "NO_MORE_REDO_LOGS_ALLOWED", ()),
    (r"VM\.s3_\w+", "VM_LACKS_FEATURE", ("{0}",)),
    (r"(PUSB|VUSB|PGPU|GPU_group|VGPU)\..*", "FEATURE_RESTRICTED", ()),
    (r"LVHD\.enable_thin_provisioning", "SR_OPERATION_NOT_SUPPORTED", ("{1}",)),
    (r"pool\.test_archive_target", "MESSAGE_REMOVED", ()),
    (r"pool\.rotate_secret", "LICENCE_RESTRICTION", ("Pool_secret_rotation",)),
    (r"host\.\w+_pool_secret", "LICENCE_RESTRICTION", ("Pool_secret_rotation",)),
    (r"pool\.\w+_binary_storage", "FEATURE_RESTRICTED", ()),
    (r"pool\.exchange_\w+_on_join", "TLS_VERIFICATION_NOT_ENABLED_IN_POOL", ()),
    (r"pool_update\.resync_host", "CANNOT_FIND_UPDATE", ()),
    (r"VM\.import_convert", "FEATURE_RESTRICTED", ()),
    (r"VM\.pool_migrate_complete", "VM_NOT_RESIDENT_HERE", ("{0}", "{1}")),
    (r"Observer\.(un)?register", "FEATURE_RESTRICTED", ()),
)


def handler(message: Message) -> Callable[..., Any]:
    """Return what answers a message of which only the name exists here."""

    def run(call: Call, *arguments: Any) -> Any:
        check_references(call, message, arguments)
        raise refusal(message, arguments)

    return run


def check_references(call: Call, message: Message, arguments: tuple[Any, ...]) -> None:
    """Refuse an argument that names no object.

    :raises Failure: HANDLE_INVALID
    """
    classes = call.db.schema.classes
    for param, value in zip(message.params, arguments, strict=True):
        cls = param.type.name
        named = param.type.kind == "ref" and cls in classes and value != NULL
        if named and not call.db.exists(cls, value):
            raise handle_invalid(cls, value)


def refusal(message: Message, arguments: tuple[Any, ...]) -> Failure:
    """Return the failure that says which feature is absent."""
    for pattern, code, params in RULES:
        if re.fullmatch(pattern, message.wire_name):
            texts = [str(item) for item in arguments] + [""] * 4
            return Failure(code, *(text.format(*texts) for text in params))
    return Failure("NOT_IMPLEMENTED", message.wire_name)
