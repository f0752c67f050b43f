# SPDX-License-Identifier: Apache-2.0
"""Print the commands that Neutron's hybrid firewall driver runs for one port, as JSON.

Started as a program of its own: Neutron's options are those of its whole process.
"""

import json
import os
import sys
import tempfile

# Neutron names its chains by the program that it is started as.
sys.argv[0] = "neutron-openvswitch-agent"

from neutron.agent.linux import iptables_firewall, utils  # noqa: E402
from neutron.conf.agent import common, securitygroups_rpc  # noqa: E402
from oslo_config import cfg  # noqa: E402

GROUP = "aaaaaaaa-2222-3333-4444-555555555556"
ANY = {"direction": "egress", "ethertype": "IPv4"}
RULES = [
    {"direction": "ingress", "ethertype": "IPv4", "remote_group_id": GROUP},
    {"direction": "ingress", "ethertype": "IPv6", "protocol": "ipv6-icmp"},
    {"direction": "ingress", "ethertype": "IPv4", "protocol": "icmp",
     "port_range_min": 8, "port_range_max": 0},
    {"direction": "ingress", "ethertype": "IPv4", "protocol": "udp",
     "port_range_min": 1000, "port_range_max": 2000},
    {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
     "port_range_min": 22, "port_range_max": 22, "source_ip_prefix": "10.0.0.0/8"},
    {"direction": "ingress", "ethertype": "IPv4", "protocol": "112"},
    ANY,
    dict(ANY, ethertype="IPv6"),
]  # fmt: skip
PORT = {
    "device": "11111111-2222-3333-4444-555555555555",
    "mac_address": "02:00:00:00:00:05",
    "fixed_ips": ["10.0.0.5", "fd00::5"],
    "network_id": "11111111-2222-3333-4444-555555555556",
    "security_groups": [GROUP],
    "security_group_source_groups": [GROUP],
    "security_group_rules": [ANY],
    "allowed_address_pairs": [
        {"mac_address": "02:00:00:00:00:07", "ip_address": "10.0.0.7/32"}
    ],
    "lvlan": 1,
}
COMMANDS = []


def execute(cmd, process_input=None, **_more):
    """Note a command instead of running it; nothing is there yet, so all is made."""
    COMMANDS.append({"cmd": [str(word) for word in cmd], "cmd_input": process_input})
    return ""


def main():
    common.register_root_helper(cfg.CONF)
    common.register_iptables_opts(cfg.CONF)
    securitygroups_rpc.register_securitygroups_opts(cfg.CONF)
    cfg.CONF([])
    with tempfile.TemporaryDirectory() as folder:
        cfg.CONF.set_override("lock_path", folder, group="oslo_concurrency")
        utils.execute = execute
        driver = iptables_firewall.OVSHybridIptablesFirewallDriver()
        driver.update_security_group_rules(GROUP, RULES)
        members = {"IPv4": [("10.0.0.9", "02:00:00:00:00:09")], "IPv6": []}
        driver.update_security_group_members(GROUP, members)
        driver.filter_defer_apply_on()
        driver.prepare_port_filter(PORT)
        driver.filter_defer_apply_off()
    print(json.dumps(COMMANDS))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Neutron's threads would wait for more.
    os._exit(0)
