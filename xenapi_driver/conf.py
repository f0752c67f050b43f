# SPDX-License-Identifier: Apache-2.0
"""Every option of the driver, all in the group ``[xenserver]``.

Names, defaults and limits are those of the retired driver, so that its
configuration files go on working; the spellings that Icehouse used in
``[DEFAULT]`` are accepted as deprecated aliases. What is new is said to be new
in its help.

Values are read in ``driver``, ``ops``, ``neutron``, ``console_relay`` and the
commands, inside functions; the layers below are handed values.
"""

import pathlib
from typing import Any

from oslo_config import cfg, types

# Class paths that configuration files in the field give for uploads, and the
# handler that each of them means today.
_UPLOAD_CLASS_PATHS = {
    "nova.virt.xenapi.image.glance.GlanceStore": "direct_vhd",
    "nova.virt.xenapi.imageupload.glance.GlanceStore": "direct_vhd",
    "nova.virt.xenapi.image.vdi_through_dev.VdiThroughDevStore": "vdi_local_dev",
}
_HANDLERS = ("direct_vhd", "vdi_local_dev", "vdi_remote_stream")

# XAPI on the machine that we run on, which is dom0 then.
LOCAL_URL = "unix://local"

_FINGERPRINT = r"^(([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}|[0-9A-Fa-f]{64})$"
_UUID = r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"


class UploadHandler(types.String):
    """A handler's short name; the class paths of old files become short names."""

    def __call__(self, value: object) -> str:
        name = str(value)
        name = _UPLOAD_CLASS_PATHS.get(name, name)
        if name and name not in _HANDLERS:
            raise ValueError(
                f"{name} is no image handler: use one of {', '.join(_HANDLERS)}"
            )
        return name


def _renamed(kind: type[cfg.Opt], name: str, **kwargs: Any) -> cfg.Opt:
    """Make an option that Icehouse knew as ``xenapi_<name>`` in ``[DEFAULT]``."""
    return kind(
        name, deprecated_name=f"xenapi_{name}", deprecated_group="DEFAULT", **kwargs
    )


def _moved(kind: type[cfg.Opt], name: str, **kwargs: Any) -> cfg.Opt:
    """Make an option that Icehouse knew by the same name in ``[DEFAULT]``."""
    return kind(name, deprecated_group="DEFAULT", **kwargs)


xenserver_group = cfg.OptGroup(
    "xenserver",
    title="XenAPI driver options",
    help="""
How nova-compute reaches an XCP-ng or XenServer host through its XenAPI, and how
it keeps servers, disks, images and guests there. Used when
``[DEFAULT] compute_driver`` is ``xenapi.XenAPIDriver``.
""",
)

connection_opts = [
    _renamed(
        cfg.StrOpt,
        "connection_url",
        help="""
URL of the host's XenAPI: ``https://HOST`` or ``http://HOST``, or ``unix://local``
for the local Unix socket when nova-compute runs in dom0. HOST is a
name, an IPv4 address or an IPv6 address in brackets, and may be followed by a
port. Required.

When the host is a member of a pool, its coordinator is found from here and
followed; the host that this service manages stays the one that is named here.
""",
    ),
    _renamed(
        cfg.StrOpt,
        "connection_username",
        default="root",
        help="""
User name for the login to the XenAPI.
""",
    ),
    _renamed(
        cfg.StrOpt,
        "connection_password",
        secret=True,
        help="""
Password for the login to the XenAPI. Required; it may be empty.
""",
    ),
    cfg.StrOpt(
        "connection_ca_file",
        help="""
File with the CA certificates (PEM) that the host's certificate is verified
against. A self-signed host certificate may itself be given here. Unset: the
system's certificates. New; the retired driver verified nothing.
""",
    ),
    cfg.ListOpt(
        "connection_fingerprints",
        item_type=types.String(regex=_FINGERPRINT),
        default=[],
        help="""
SHA-256 fingerprints of host certificates that are trusted as they are, without
a CA: 64 hexadecimal digits, with or without colons, separated by commas. Name
one for each host of the pool. When a certificate is refused, the error names
the fingerprint that was seen; compare it with what ``openssl x509 -in
/etc/xensource/xapi-ssl.pem -noout -fingerprint -sha256`` prints in dom0. New.
""",
    ),
    cfg.BoolOpt(
        "connection_insecure",
        default=False,
        help="""
Accept any certificate. Whoever is on the network between this service and the
host can then read the password: a warning is logged at each start. New.
""",
    ),
    cfg.IntOpt(
        "connection_connect_timeout",
        default=10,
        min=1,
        help="""
How long, in seconds, to wait for a connection to the host. New.
""",
    ),
    cfg.IntOpt(
        "connection_read_timeout",
        default=120,
        min=1,
        help="""
How long, in seconds, to wait for the host's answer to one call. What may take
longer runs as a XenAPI task and is not limited by this. New.
""",
    ),
    _renamed(
        cfg.IntOpt,
        "login_timeout",
        default=10,
        min=0,
        help="""
How long, in seconds, one login may take. A host whose dom0 disk is full accepts
connections but no login. 0: as long as any other call.
""",
    ),
    _renamed(
        cfg.IntOpt,
        "connection_concurrent",
        default=5,
        min=1,
        help="""
How many connections to the XenAPI stay open. They share one login. While slow
calls use them all, others get a connection for themselves, up to eight times as
many in all.
""",
    ),
    _renamed(
        cfg.BoolOpt,
        "check_host",
        default=True,
        help="""
Verify at start-up that the virtual machine in which nova-compute runs is on the
host that it manages. Must be false with ``independent_compute``.
""",
    ),
    cfg.BoolOpt(
        "independent_compute",
        default=False,
        help="""
nova-compute runs on another machine than the host that it manages. What needs a
disk plugged into the machine of nova-compute cannot be used then, such as
``image_handler = vdi_local_dev``. Needs ``check_host = false`` and
``[DEFAULT] flat_injected = false``.
""",
    ),
    cfg.StrOpt(
        "compute_vm_uuid",
        regex=_UUID,
        help="""
UUID of the virtual machine in which nova-compute runs. Unset: what the machine
itself says (``/sys/hypervisor/uuid``). New.
""",
    ),
]

storage_opts = [
    _moved(
        cfg.StrOpt,
        "sr_matching_filter",
        default="default-sr:true",
        help="""
Which storage repository holds the disks of servers. ``default-sr:true`` is the
pool's default one; ``other-config:KEY=VALUE`` is the first that is attached to
the host and whose other_config has that pair, such as
``other-config:i18n-key=local-storage`` for the installer's local storage.
""",
    ),
    _renamed(
        cfg.StrOpt,
        "sr_base_path",
        default="/var/run/sr-mount",
        help="""
Directory in dom0 below which storage repositories are mounted; used when the
host does not say where one is.
""",
    ),
    cfg.StrOpt(
        "block_device_dir",
        default="/dev",
        help="""
Directory in which a disk that is plugged into the machine of nova-compute
appears. Another one than ``/dev`` is for the embedded host. New.
""",
    ),
    _moved(
        cfg.IntOpt,
        "block_device_creation_timeout",
        default=10,
        min=1,
        help="""
How long, in seconds, to wait for the device node of a disk that was plugged
into the machine of nova-compute.
""",
    ),
    _renamed(
        cfg.IntOpt,
        "num_vbd_unplug_retries",
        default=10,
        min=0,
        help="""
How often unplugging a disk is tried again, a second apart, while the guest still
uses it. 0: one attempt only.
""",
    ),
    _renamed(
        cfg.FloatOpt,
        "vhd_coalesce_poll_interval",
        default=5.0,
        min=0,
        help="""
Time, in seconds, between two looks whether the storage manager has merged the
VHD files of a snapshot. Each look reads the storage repository anew.
""",
    ),
    _renamed(
        cfg.IntOpt,
        "vhd_coalesce_max_attempts",
        default=20,
        min=0,
        help="""
At how many looks in a row the storage manager may have done nothing before the
VHD files of a snapshot are uploaded as they are, with a warning.
""",
    ),
    _renamed(
        cfg.BoolOpt,
        "sparse_copy",
        default=True,
        help="""
Leave out blocks of zeros when a disk is copied to be made smaller.
""",
    ),
    cfg.IntOpt(
        "introduce_vdi_retry_wait",
        default=20,
        min=0,
        help="""
How long, in seconds, to wait before the one second look for a volume's disk in
its storage repository.
""",
    ),
    _moved(
        cfg.HostAddressOpt,
        "target_host",
        help="""
Address of the iSCSI portal when a volume's connection information has none.
""",
    ),
    _moved(
        cfg.PortOpt,
        "target_port",
        default=3260,
        help="""
Port of the iSCSI portal when a volume's connection information has none.
""",
    ),
]

image_opts = [
    cfg.StrOpt(
        "image_handler",
        default="direct_vhd",
        choices=[
            (
                "direct_vhd",
                "a plugin in dom0 moves VHD files between Glance and a file-based "
                "storage repository",
            ),
            (
                "vdi_local_dev",
                "raw tgz images, through a disk plugged into the machine of "
                "nova-compute",
            ),
            (
                "vdi_remote_stream",
                "through the host's import and export handlers, for any storage "
                "repository",
            ),
        ],
        help="""
How images are moved between Glance and the host.
""",
    ),
    cfg.Opt(
        "image_upload_handler",
        type=UploadHandler(),
        default="",
        deprecated_name="xenapi_image_upload_handler",
        deprecated_group="DEFAULT",
        deprecated_for_removal=True,
        deprecated_reason="Use image_handler, which serves both directions.",
        help="""
Handler for uploads only, when it is another one than ``image_handler``. The
class paths that old configuration files give for the Glance store and the
VDI-through-device store are understood.
""",
    ),
    _moved(
        cfg.StrOpt,
        "cache_images",
        default="all",
        choices=[
            ("all", "keep every image"),
            ("some", "keep images whose property cache_in_nova is true"),
            ("none", "keep no image"),
        ],
        help="""
Which images are kept on the host for the next server that is made from them.
""",
    ),
    _renamed(
        cfg.IntOpt,
        "image_compression_level",
        min=1,
        max=9,
        help="""
Compression level of uploaded images, from 1 (fast) to 9 (small). Unset: the
level that gzip itself takes.
""",
    ),
    _moved(
        cfg.StrOpt,
        "default_os_type",
        default="linux",
        help="""
Operating system type given to an uploaded image when its server has none.
""",
    ),
    _moved(
        cfg.IntOpt,
        "max_kernel_ramdisk_size",
        default=16 * 1024 * 1024,
        min=0,
        help="""
Largest kernel or ramdisk image that is copied to the host, in bytes.
""",
    ),
    _renamed(
        cfg.StrOpt,
        "ipxe_network_name",
        help="""
Label of the network whose IPv4 settings are written into an iPXE boot image.
""",
    ),
    _renamed(
        cfg.StrOpt,
        "ipxe_boot_menu_url",
        help="""
URL to which an iPXE boot image continues.
""",
    ),
    _renamed(
        cfg.StrOpt,
        "ipxe_mkisofs_cmd",
        default="mkisofs",
        help="""
Command, run in dom0, that rebuilds an iPXE boot image.
""",
    ),
]

guest_opts = [
    _renamed(
        cfg.IntOpt,
        "running_timeout",
        default=60,
        min=0,
        help="""
How long, in seconds, to wait for a started server to be seen running.
""",
    ),
    _moved(
        cfg.IntOpt,
        "agent_timeout",
        default=30,
        min=0,
        help="""
How long, in seconds, to wait for one answer of the agent in a guest.
""",
    ),
    _moved(
        cfg.IntOpt,
        "agent_version_timeout",
        default=300,
        min=0,
        help="""
How long, in seconds, to wait in all for the agent's first answer after a boot.
""",
    ),
    _moved(
        cfg.IntOpt,
        "agent_resetnetwork_timeout",
        default=60,
        min=0,
        help="""
How long, in seconds, to wait for the agent to read its network settings again.
""",
    ),
    _renamed(
        cfg.StrOpt,
        "agent_path",
        default="usr/sbin/xe-update-networking",
        help="""
File in a guest's root file system, relative to it, whose presence means that the
guest configures its own network. Looked at with ``[DEFAULT] flat_injected``
only.
""",
    ),
    _renamed(
        cfg.BoolOpt,
        "disable_agent",
        default=False,
        help="""
Never use the agent in a guest, whatever an image says.
""",
    ),
    _renamed(
        cfg.BoolOpt,
        "use_agent_default",
        default=False,
        help="""
Use the agent when an image does not say whether its guest has one.
""",
    ),
]

host_opts = [
    _renamed(
        cfg.StrOpt,
        "ovs_integration_bridge",
        default="br-int",
        help="""
Open vSwitch bridge of the host that Neutron's agent manages. The default is new;
the retired driver's last releases had none.
""",
    ),
    _moved(
        cfg.BoolOpt,
        "use_join_force",
        default=True,
        help="""
Tolerate different CPUs when a host joins the pool of an aggregate.
""",
    ),
]

# Accepted so that old files start; they change nothing any more.
_NO_TORRENT = "Images are no longer distributed by BitTorrent."
_NO_REMAP = "The guest kernels that needed it are gone."
ignored_opts = [
    _moved(
        cfg.StrOpt,
        "console_public_hostname",
        deprecated_for_removal=True,
        deprecated_reason="The XVP console that used it is gone.",
        help="Has no effect.",
    ),
    *[
        _renamed(
            cfg.StrOpt,
            name,
            deprecated_for_removal=True,
            deprecated_reason=reason,
            help="Has no effect.",
        )
        for name, reason in (
            ("vif_driver", "Only Neutron's Open vSwitch networks are served."),
            ("torrent_images", _NO_TORRENT),
            ("torrent_base_url", _NO_TORRENT),
            ("torrent_seed_chance", _NO_TORRENT),
            ("torrent_seed_duration", _NO_TORRENT),
            ("torrent_max_last_accessed", _NO_TORRENT),
            ("torrent_listen_port_start", _NO_TORRENT),
            ("torrent_listen_port_end", _NO_TORRENT),
            ("torrent_download_stall_cutoff", _NO_TORRENT),
            ("torrent_max_seeder_processes_per_host", _NO_TORRENT),
            ("remap_vbd_dev", _NO_REMAP),
            ("remap_vbd_dev_prefix", _NO_REMAP),
            ("iqn_prefix", "It was never used."),
        )
    ],
]

ALL_OPTS = (
    *connection_opts,
    *storage_opts,
    *image_opts,
    *guest_opts,
    *host_opts,
    *ignored_opts,
)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Make ``conf.xenserver`` known; doing it twice is fine."""
    conf.register_group(xenserver_group)
    conf.register_opts(ALL_OPTS, group=xenserver_group)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Return what ``oslo-config-generator`` prints: (group, options) pairs."""
    return [(xenserver_group, list(ALL_OPTS))]


def files(conf: cfg.ConfigOpts) -> list[str]:
    """Return the files that were read, in their order."""
    found = list(conf.config_file or ())
    for folder in conf.config_dir or ():
        found += sorted(map(str, pathlib.Path(folder).glob("*.conf")))
    return found


def shown_url(url: str) -> str:
    """Return ``connection_url`` without the credentials that may be in it."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def old_spellings(conf: cfg.ConfigOpts) -> list[tuple[str, str, str]]:
    """Return group, name and today's name of what the files call by an old one."""
    sections: dict[str, dict[str, list[str]]] = {}
    for file in files(conf):
        cfg.ConfigParser(file, sections).parse()
    return [
        (old.group or "DEFAULT", old.name or opt.dest, opt.dest)
        for opt in ALL_OPTS
        for old in opt.deprecated_opts
        if (old.name or opt.dest) in sections.get(old.group or "DEFAULT", {})
    ]


def warn_of_ignored(conf: cfg.ConfigOpts) -> list[str]:
    """Have oslo.config warn of each set option that has no effect any more.

    It warns when a deprecated option is read, and nothing else reads these.

    :returns: names of the options that are set
    """
    return [opt.dest for opt in ignored_opts if conf.xenserver[opt.dest] is not None]
