# SPDX-License-Identifier: Apache-2.0
"""Handlers of a host that have nothing behind them here.

They ask who it is, as every handler does, and then say that they are not there: an
empty success would be a lie.
"""

from xenapi_driver.sim.doors.exchange import Exchange, handler
from xenapi_driver.sim.doors.refusals import Refusal

# The published model's HTTP actions, less those that other modules answer: method,
# path, and the name where it is not made of the two.
_ACTIONS = (
    ("GET", "/services", ""),
    ("PUT", "/services", ""),
    ("POST", "/services", ""),
    ("GET", "/services/SM", "get_services_sm"),
    ("PUT", "/services/SM", "put_services_sm"),
    ("POST", "/services/SM", "post_services_sm"),
    ("GET", "/services/xenops", ""),
    ("PUT", "/services/xenops", ""),
    ("POST", "/services/xenops", ""),
    ("POST", "/remote_db_access", ""),
    ("POST", "/remote_db_access_v2", ""),
    ("POST", "/cli", ""),
    ("CONNECT", "/remotecmd", ""),
    ("GET", "/host_backup", ""),
    ("PUT", "/host_restore", ""),
    ("GET", "/host_logs_download", ""),
    ("PUT", "/pool_patch_upload", ""),
    ("GET", "/vncsnapshot", ""),
    ("GET", "/pool/xmldbdump", "get_pool_xml_db_sync"),
    ("PUT", "/pool/xmldbdump", "put_pool_xml_db_sync"),
    ("GET", "/sync_config_files", "get_config_sync"),
    ("GET", "/system-status", "get_system_status"),
    ("GET", "/vm_rrds", ""),
    ("GET", "/host_rrds", ""),
    ("GET", "/sr_rrd", "sr_rrd"),
    ("PUT", "/rrd", "rrd"),
    ("GET", "/blob", ""),
    ("PUT", "/blob", ""),
    ("PUT", "/messages", ""),
    ("GET", "/wlb_report", ""),
    ("GET", "/wlb_diagnostics", ""),
    ("GET", "/audit_log", ""),
    ("GET", "/update/", "get_pool_update_download"),
    ("GET", "/repository", ""),
    ("GET", "/repository/enabled", "get_enabled_repository"),
    ("GET", "/host_updates", ""),
    ("GET", "/updates", ""),
    ("PUT", "/bundle", ""),
)


def _refuse(talk: Exchange) -> None:
    """Refuse whoever may ask."""
    talk.session()
    raise Refusal(500, f"NOT_IMPLEMENTED: [ {talk.request.path} ]")


for _method, _path, _name in _ACTIONS:
    handler(_method, _path, _name)(_refuse)
