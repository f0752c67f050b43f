# SPDX-License-Identifier: Apache-2.0
"""The Open vSwitch agents of hosts whose Open vSwitch is an embedded dom0.

For each compute node it keeps up Neutron's agent protocol over the real RPC: it
reports an Open vSwitch agent alive, so that ML2 binds ports to the host, and marks
a port up once dom0 reports its VIF plugged, so that Neutron sends Nova the
network-vif-plugged event. It moves no packets.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.request

from neutron.agent import rpc as agent_rpc
from neutron.common import config as common_config
from neutron.conf.agent import common as agent_config
from neutron_lib import context as neutron_context
from neutron_lib.agent import topics
from oslo_config import cfg
from oslo_log import log as logging

LOG = logging.getLogger(__name__)
OPTIONS = [
    cfg.DictOpt("ports_urls", help="Where each host's dom0 lists plugged ports."),
    cfg.StrOpt("ca_file", help="The certificates of those addresses."),
    cfg.FloatOpt("poll_seconds", default=0.3, min=0.05, help="How often to look."),
]
REPORT_SECONDS = 20


def agent_state(host: str) -> dict[str, object]:
    """What an Open vSwitch agent reports about itself."""
    return {
        "binary": "neutron-openvswitch-agent",
        "host": host,
        "topic": "N/A",
        "agent_type": "Open vSwitch agent",
        "start_flag": True,
        "configurations": {
            "integration_bridge": "br-int",
            "bridge_mappings": {},
            "tunnel_types": ["vxlan"],
            "tunneling_ip": "127.0.0.1",
            "datapath_type": "system",
            "ovs_hybrid_plug": False,
            "l2_population": False,
            "ovs_capabilities": {
                "datapath_types": ["system"],
                "iface_types": ["system"],
            },
            "devices": 0,
            "extensions": [],
            "resource_provider_bandwidths": {},
            "vhostuser_socket_dir": "",
        },
    }


class Agent:
    """One agent: what it said last and which ports it holds up."""

    def __init__(self, conf: cfg.ConfigOpts, host: str, url: str) -> None:
        self.host = host
        self.url = url
        self.tls = ssl.create_default_context(cafile=conf.demo.ca_file)
        self.tls.check_hostname = False
        self.context = neutron_context.get_admin_context_without_session()
        self.state = agent_state(self.host)
        self.reports = agent_rpc.PluginReportStateAPI(topics.REPORTS)
        # The RPC server may start later than this process.
        self.reports.timeout = 5
        self.plugin = agent_rpc.PluginApi(topics.PLUGIN)
        self.up: set[str] = set()
        self.reported = float("-inf")

    def report(self) -> None:
        if time.monotonic() - self.reported > REPORT_SECONDS:
            self.reports.report_state(self.context, self.state, use_call=True)
            self.state.pop("start_flag", None)
            self.reported = time.monotonic()

    def plugged(self) -> set[str]:
        """The port ids of the VIFs that dom0 has plugged now."""
        with urllib.request.urlopen(self.url, timeout=10, context=self.tls) as answer:
            return set(json.load(answer))

    def settle(self) -> None:
        """Tell Neutron which ports came and which went."""
        now = self.plugged()
        rise, fall = sorted(now - self.up), sorted(self.up - now)
        if rise or fall:
            answer = self.plugin.update_device_list(
                self.context,
                devices_up=rise,
                devices_down=fall,
                agent_id=f"ovs-agent-{self.host}",
                host=self.host,
            )
            failed = set(answer["failed_devices_up"])
            LOG.info("Ports up %s, down %s, failed %s.", rise, fall, sorted(failed))
            self.up = now - failed


def main() -> None:
    common_config.register_common_config_options()
    agent_config.register_agent_state_opts_helper(cfg.CONF)
    cfg.CONF.register_opts(OPTIONS, group="demo")
    common_config.init(sys.argv[1:])
    common_config.setup_logging()
    agents = [Agent(cfg.CONF, *each) for each in cfg.CONF.demo.ports_urls.items()]
    while True:
        for agent in agents:
            try:
                agent.report()
                agent.settle()
            except Exception as exc:
                # The servers may still be starting, or be gone for a moment: the
                # agent has nothing else to do than to ask again.
                LOG.warning("%s, trying again: %s", agent.host, exc)
                time.sleep(1)
        time.sleep(cfg.CONF.demo.poll_seconds)


if __name__ == "__main__":
    main()
