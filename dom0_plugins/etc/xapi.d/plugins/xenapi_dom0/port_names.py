# SPDX-License-Identifier: Apache-2.0
"""What the devices of one port are called, and which devices a call may touch.

A name is a prefix and as much of the port's UUID as fits into 14 characters: Neutron's
agent makes up the same names and looks for them.
"""
import collections
import re

from xenapi_dom0 import failures

LENGTH = 14  # the kernel would take 15

# tap and qvb are in the Linux bridge qbr; vif, the other end of tap, is in the interim
# network's switch, and qvo, the other end of qvb, in the integration bridge.
Names = collections.namedtuple("Names", "qbr qvb qvo tap vif")

_OURS = re.compile(r"(?:qbr|qvb|qvo|tap|vif)[0-9a-f]{8}-[0-9a-f]{2}\Z")
# As xenopsd names them: domain and number.
_HOSTS = re.compile(r"(?:vif|tap)[0-9]{1,7}\.[0-9]{1,3}\Z")
# XAPI's name for the bridge of a network that has no interface of the host.
_INTERIM = re.compile(r"xapi[0-9]{1,8}\Z")


def of_port(port_id):
    """Return the Names of the port with this UUID."""
    return Names(*[(prefix + port_id)[:LENGTH] for prefix in Names._fields])


def is_ours(name):
    """Say whether it is a name that only we, or the agent, give to a device."""
    return _OURS.match(name) is not None


def is_vif(name):
    """Say whether the host gives such a name to a guest's interface."""
    return _HOSTS.match(name) is not None


def is_interim(name):
    """Say whether a bridge of that name can be an interim network's."""
    return _INTERIM.match(name) is not None


def refuse_others(argument, name, vif=False):
    """Raise a Failure where a device is not ours.

    :param vif: the host's own VIFs are allowed as well
    """
    if not is_ours(name) and not (vif and is_vif(name)):
        raise failures.Failure(
            failures.NOT_PERMITTED, argument,
            "it is no device of a port: qbr, qvb, qvo, tap or vif with a port's UUID"
            + (", or a VIF of the host" if vif else ""),
        )
