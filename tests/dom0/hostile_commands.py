# SPDX-License-Identifier: Apache-2.0
"""Ways to root, or at least out of one's own ports, through an agent's commands.

Each was looked up in the program's own sources or manual: what it would do stands
beside it or above its group.
"""

_WORDS = """
sh -c id
env PATH=/tmp ip link
/sbin/ip link
../ip link
ip;id
sudo ip link
bash
python3 -c pass
kill 1
tcpdump -z /tmp/x
# A program in a namespace, in any way ip understands it.
ip netns exec x sh
ip netns exec x ip link
ip net e x sh
ip netn exec x sh
ip -o netns exec x sh
ip -all netns exec sh
ip -a netns exec sh
ip vrf exec x sh
ip vrf e x sh
# Commands or state from a file, and to one.
ip -b /tmp/x
ip -batch /tmp/x
ip -ba /tmp/x
ip -force -batch -
ip -batch -
ip -o -b /tmp/x
ip monitor file /tmp/x
ip mon
ip -ts monitor
ip route restore
ip addr restore
ip route save
ip netns add ../../tmp/x
ip netns attach x 1
ip netns set x 1
ip netns delete x
ip netns pids x
ip -n x link
ip -netns x link
# Kernel code from an object file.
ip link set dev qvo1 xdp object /tmp/x.o
ip link set dev qvo1 xdp obj /tmp/x.o sec x
ip link set dev qvo1 xdpgeneric pinned /tmp/x
ip route add 10.0.0.0/8 encap bpf out obj /tmp/x.o dev qvo1
# A plug-in library of ip by a name with a path.
ip link add qvo1 type ../../tmp/x
ip link add qvo1 type xfrm
ip link add link eth0 qvo1 type macvlan mode passthru
ip link add qvo1 type ipvlan
ip tuntap add qvo1 mode tap user 0
ip link add qvo1 netns 1 type veth peer name qvb1
ip link set qvo1 netns 1
ip link set qvo1 alias x
ip link set qvo1 name eth0
# Somebody else's devices and the host's addresses.
ip link set eth0 down
ip link set xenbr0 down
ip link set dev xapi0 mtu 68
ip link set eth0 master qbr1
ip link delete eth0
ip link delete xenbr0
ip link del vif5.0
ip link delete dev tap5.0
ip link set lo down
ip link set dev vif1.0 up down
ip addr add 10.0.0.1/24 dev xenbr0
ip addr flush dev xenbr0
ip route add default via 10.0.0.1
ip route del default
ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev xenbr0
ip rule add from all table 7
ip xfrm state add x
ip macsec add x
ip l2tp add tunnel x
ip link show group x extra
ip link set
ip
ip -h
ip help
# A kernel setting that starts programs, in all spellings of the way there.
sysctl -w kernel.core_pattern=|/tmp/x
sysctl -w kernel.modprobe=/tmp/x
sysctl kernel.modprobe=/tmp/x
sysctl -w net.//.kernel.core_pattern=x
sysctl -w net/../kernel/core_pattern=x
sysctl -w net.ipv4.//.//.kernel.modprobe=/tmp/x
sysctl -w net/ipv4/conf/../../../kernel/modprobe=/tmp/x
sysctl -w net.ipv4.conf.../../kernel/x=1
sysctl -w net.ipv4.ip_forward=1
sysctl -w net.ipv4.conf.all.forwarding=1
sysctl -w net.ipv4.conf.eth0.rp_filter=0
sysctl -w net.ipv4.conf.xenbr0.forwarding=1
sysctl -w fs.suid_dumpable=2
sysctl -w vm.overcommit_memory=1
sysctl -w net.bridge.bridge-nf-call-iptables=1 kernel.modprobe=/tmp/x
sysctl net.ipv4.ip_forward=1
sysctl -p /tmp/x
sysctl -p/tmp/x
sysctl --load=/tmp/x
sysctl --loa=/tmp/x
sysctl -f /tmp/x
sysctl --system
sysctl -r x --system
sysctl -a
sysctl -qp /tmp/x
# A program that iptables starts to load a module; rules from and to files.
iptables-save -M /tmp/x
iptables-save -M/tmp/x
iptables-save --modprobe=/tmp/x
iptables-save --mod /tmp/x
iptables-save -f /tmp/x
iptables-save --file=/tmp/x
iptables-save -c -t filter -f/tmp/x
iptables-save -cM/tmp/x
iptables-save -t ../../x
iptables-restore -n -M /tmp/x
iptables-restore -n --modprobe=/tmp/x
iptables-restore -n --modp=/tmp/x
iptables-restore -nM/tmp/x
iptables-restore -n /tmp/x
iptables-restore -n -- /tmp/x
ip6tables-restore -n --modprobe=/tmp/x
ip6tables-save -M/tmp/x
# Without --noflush the host's own rules are gone.
iptables-restore
iptables-restore -c
iptables-restore -T filter
ip6tables-restore -w 10
iptables -A INPUT -j ACCEPT
iptables -F
iptables -L --modprobe=/tmp/x
iptables --version --modprobe=/tmp/x
ip6tables -P INPUT ACCEPT
iptables-legacy-restore -n
xtables-multi iptables-restore
# Sets from and to files, an interactive ipset.
ipset -f /tmp/x restore
ipset restore -file /tmp/x
ipset restore -f /tmp/x
ipset save -file /etc/cron.d/x
ipset save -f /etc/cron.d/x
ipset list -file /tmp/x
ipset list x -f /tmp/x
ipset -
ipset
ipset -! -
ipset destroy
ipset flush
ipset -X
ipset create x hash:ip -file /tmp/x
ipset add x 1.2.3.4 -file /tmp/x
ipset swap x -f
ipset help /tmp/x
# States from a file; without end.
conntrack -R /tmp/x
conntrack --load-file /tmp/x
conntrack --load /tmp/x
conntrack -E
conntrack -E -o save
conntrack -F
conntrack -D
conntrack -I -s 1.2.3.4
conntrack -U -p tcp
conntrack -L -o labels
conntrack -L expect
conntrack -D -f ipv4 -p tcp -d 10.0.0.1 -R /tmp/x
# Flows from a file, switches by a socket, logs and keys.
ovs-ofctl add-flows br-int /etc/shadow
ovs-ofctl add-flow br-int /etc/shadow
ovs-ofctl replace-flows br-int /etc/shadow
ovs-ofctl diff-flows br-int /etc/shadow
ovs-ofctl diff-flows /etc/shadow /etc/passwd
ovs-ofctl add-groups br-int /etc/shadow
ovs-ofctl bundle br-int /etc/shadow
ovs-ofctl parse-flows /etc/shadow
ovs-ofctl ofp-parse /etc/shadow
ovs-ofctl ofp-parse-pcap /etc/shadow
ovs-ofctl parse-pcap /etc/shadow
ovs-ofctl dump-flows unix:/tmp/x
ovs-ofctl dump-flows tcp:1.2.3.4:6653
ovs-ofctl dump-flows ssl:1.2.3.4:6653 -p /etc/x
ovs-ofctl dump-flows /tmp/x.mgmt
ovs-ofctl dump-flows ../x
ovs-ofctl --log-file=/etc/cron.d/x dump-flows br-int
ovs-ofctl --log-file dump-flows br-int
ovs-ofctl --log=/etc/cron.d/x dump-flows br-int
ovs-ofctl -vFILE:dbg --log-file=/tmp/x show br-int
ovs-ofctl --unixctl=/tmp/x monitor br-int
ovs-ofctl monitor br-int
ovs-ofctl snoop br-int
ovs-ofctl --detach --pidfile=/etc/cron.d/x monitor br-int
ovs-ofctl --private-key=/tmp/x dump-flows br-int
ovs-ofctl --bootstrap-ca-cert=/etc/x show br-int
ovs-ofctl -C /tmp/x show br-int
ovs-ofctl --ssl-protocols=x show br-int
ovs-ofctl probe br-int
ovs-ofctl benchmark br-int 1 1
ovs-ofctl mod-port xapi0 eth0 up extra
ovs-ofctl add-flow eth0 actions=drop
# A database of one's choice, files that are written or read, keys.
ovs-vsctl --db=tcp:1.2.3.4:6640 show
ovs-vsctl --db=unix:/tmp/x show
ovs-vsctl --db unix:/tmp/x show
ovs-vsctl --d=unix:/tmp/x show
ovs-vsctl --log-file=/etc/cron.d/x show
ovs-vsctl --log-file show
ovs-vsctl --log=/tmp/x show
ovs-vsctl -vfile:dbg --log-file=/tmp/x show
ovs-vsctl --bootstrap-ca-cert=/etc/cron.d/x show
ovs-vsctl -p /etc/shadow show
ovs-vsctl --private-key=/etc/shadow show
ovs-vsctl -c /etc/shadow show
ovs-vsctl -C /etc/shadow show
ovs-vsctl --peer-ca-cert=/tmp/x show
ovs-vsctl --syslog-target=1.2.3.4:514 show
ovs-vsctl -t 5 --db=unix:/tmp/x show
# Rows by which the switch listens, connects, writes files or loads libraries.
ovs-vsctl set-manager ptcp:6640:0.0.0.0
ovs-vsctl set-manager punix:/etc/cron.d/x
ovs-vsctl del-manager
ovs-vsctl set-ssl /etc/shadow /etc/shadow /etc/shadow
ovs-vsctl --bootstrap set-ssl /tmp/k /tmp/c /etc/cron.d/x
ovs-vsctl get-ssl
ovs-vsctl del-ssl
ovs-vsctl emer-reset
ovs-vsctl init
ovs-vsctl set Open_vSwitch . other_config:dpdk-init=true
ovs-vsctl set Open_vSwitch . other_config:dpdk-extra=-d/tmp/x.so
ovs-vsctl set Open_vSwitch . other_config:vhost-sock-dir=/tmp
ovs-vsctl show -- set Open_vSwitch . other_config:dpdk-extra=-d/tmp/x.so
ovs-vsctl -- show -- set Open_vSwitch . other_config:dpdk-init=true
ovs-vsctl add Open_vSwitch . manager_options x
ovs-vsctl create Manager target=ptcp:6640
ovs-vsctl --id=@m create Manager target=ptcp:6640
ovs-vsctl --id=@m create SSL private_key=/etc/shadow
ovs-vsctl --id=@m create Mirror name=m select-all=true
ovs-vsctl set Bridge xapi0 mirrors=@m
ovs-vsctl --id=@n create NetFlow targets=1.2.3.4:1
ovs-vsctl set Bridge xapi0 netflow=@n
ovs-vsctl set Bridge xapi0 sflow=@n
ovs-vsctl set Bridge xapi0 ipfix=@n
ovs-vsctl set-controller xapi0 punix:/etc/cron.d/x
ovs-vsctl set-controller xapi0 ptcp:6653
ovs-vsctl set-controller xapi0 unix:/tmp/x
ovs-vsctl set Controller xapi0 target=punix:/etc/cron.d/x
ovs-vsctl set Bridge xapi0 controller=@c
ovs-vsctl set Interface qvo1 type=dpdk options:dpdk-devargs=0000:00:01.0
ovs-vsctl set Interface qvo1 type=dpdkvhostuserclient
ovs-vsctl set Interface qvo1 options:vhost-server-path=/tmp/x
ovs-vsctl set Interface qvo1 type=afxdp
ovs-vsctl set Interface eth0 type=internal
ovs-vsctl add-port xapi0 eth0
ovs-vsctl --may-exist add-port br-int eth1
ovs-vsctl del-port xenbr0 eth0
ovs-vsctl del-port eth0
ovs-vsctl --with-iface del-port eth0
ovs-vsctl del-br xenbr0
ovs-vsctl --if-exists del-br xapi0
ovs-vsctl add-br ../x
ovs-vsctl add-br xenbr9
ovs-vsctl add-br eth0
ovs-vsctl add-br br-x xenbr0 5
ovs-vsctl destroy Bridge xapi0
ovs-vsctl --all destroy Port
ovs-vsctl clear Open_vSwitch . bridges
ovs-vsctl remove Open_vSwitch . bridges x
ovs-vsctl wait-until Open_vSwitch .
ovs-vsctl comment x
ovs-vsctl get SSL . private_key
ovs-vsctl list SSL
ovs-vsctl
ovs-vsctl --
# A database that is replaced, watched without end, or somebody else's.
ovsdb-client transact ["Open_vSwitch"]
ovsdb-client backup
ovsdb-client restore
ovsdb-client --force restore
ovsdb-client convert /tmp/x
ovsdb-client monitor Bridge
ovsdb-client monitor tcp:127.0.0.1:6640 Interface name,ofport --format=json
ovsdb-client dump tcp:1.2.3.4:6640
ovsdb-client dump unix:/tmp/x
ovsdb-client dump ssl:127.0.0.1:6640
ovsdb-client --log-file=/etc/cron.d/x list-dbs
ovsdb-client --unixctl=/tmp/x lock x
ovsdb-client --bootstrap-ca-cert=/tmp/x list-dbs
ovsdb-client --private-key=/etc/shadow list-dbs
ovsdb-client lock x
ovsdb-client dump Open_vSwitch SSL
"""

ESCAPES = [
    line.split() for line in _WORDS.splitlines() if line and not line.startswith("#")
]
ESCAPES += [
    [""],
    ["ip", ""],
    ["ip", "link", "show", "lo\n"],
    ["ip", "link", "show", "lo\0x"],
    ["ip", "link show"],
    ["ip", "link", "set", "qvo1\nnetns exec", "up"],
    ["ip", "link", "show", "-batch"],
    ["ip", "link", "show", "dev", "-batch"],
    ["ip", "-o"] * 2000,
    ["sysctl", "-b", "net.ipv4\n"],
    ["sysctl", "-b", "n\u0435t.bridge"],  # a Cyrillic letter
    ["ovs-vsctl", "show", "--", "--db=unix:/tmp/x"],
    ["ovs-ofctl", "add-flow", "br-int", "actions=drop\nactions=normal"],
    ["ovs-ofctl", "add-flow", "br-int", "--log-file=/tmp/x"],
]

HOSTILE_RULES = [
    "-A neutron-x -M /tmp/x -m nope",
    "-A neutron-x -M/tmp/x -m nope",
    "-A neutron-x --modprobe=/tmp/x -m nope",
    "-A neutron-x --modprobe /tmp/x",
    "-A neutron-x --modprob=/tmp/x",
    "-A neutron-x --mo=/tmp/x",
    "-A neutron-x --m=/tmp/x",
    "-A neutron-x -vM/tmp/x -m nope",
    "-A neutron-x -nvM /tmp/x",
    '-A neutron-x "-M" /tmp/x',
    '-A neutron-x "--modprobe=/tmp/x"',
    '-A neutron-x -"M" /tmp/x',
    '-A neutron-x --mod"probe=/tmp/x"',
    "-A neutron-x \\-M /tmp/x",
    '-A neutron-x -m comment --comment "a\\" --modprobe=/tmp/x \\"" -j RETURN',
    "-A neutron-x -m comment --comment '--modprobe=/tmp/x'",
    "-A neutron-x -m comment --comment --modprobe=/tmp/x",
    "-A neutron-x -m comment --comment a --modprobe=/tmp/x",
    '-A neutron-x -m comment --comment "a" "--modprobe=/tmp/x"',
    '-A neutron-x -m comment --comment "a"-M/tmp/x',
    "-A neutron-x\u00a0--modprobe=/tmp/x",
    "-A neutron-x\v--modprobe=/tmp/x",
    "-A neutron-x -s 10.0.0.1\r-M/tmp/x",
    "-A neutron-x -s 10.0.0.1\0-M/tmp/x",
    # A line of 10239 characters is followed, to iptables-restore, by another one.
    "#" + "x" * 10238 + "-A neutron-x --modprobe=/tmp/x",
    "#" * 1001,
    "-A neutron-x " + "-s 10.0.0.1 " * 1000 + "--modprobe=/tmp/x",
    # A library by a name with a path.
    "-A neutron-x -m ../../../tmp/x",
    "-A neutron-x -j ../../../tmp/x",
    "-A neutron-x -p ../../../tmp/x",
    "-A neutron-x --match ../../../tmp/x",
    "-A neutron-x --jump ../../../tmp/x",
    "-A neutron-x --mat=../../../tmp/x",
    "-A neutron-x -m bpf --object-pinned /tmp/x -j ACCEPT",
    "-A neutron-x -m bpf --bytecode x",
    "-t nat",
    "-A neutron-x --table nat",
    "-A neutron-x -t nat",
    # What the host's own chains say is the host's.
    "-A INPUT -j ACCEPT",
    "-I INPUT 1 -j ACCEPT",
    "-I INPUT 1 -s 10.0.0.0/8 -j ACCEPT",
    "-I FORWARD -j RETURN",
    "-D INPUT -j RH-Firewall-1-INPUT",
    "-D INPUT 1",
    "-R INPUT 1 -j ACCEPT",
    "-F INPUT",
    "-F",
    "-X",
    "-Z",
    "-P INPUT ACCEPT",
    ":INPUT ACCEPT [0:0]",
    ":FORWARD DROP [0:0]",
    ":INPUT ACCEPT",
    ":xapi-INPUT - [0:0]",
    ":RH-Firewall-1-INPUT - [0:0]",
    "-A RH-Firewall-1-INPUT -j ACCEPT",
    "-F RH-Firewall-1-INPUT",
    "-I xapi-INPUT 1 -j ACCEPT",
    "-A INPUT -j neutron-x -j ACCEPT",
    "-E neutron-x INPUT",
    "-L",
    "-S",
    "exec /tmp/x",
    "!/tmp/x",
]

HOSTILE_SETS = [
    "-file /tmp/x",
    "save -file /etc/cron.d/x",
    "add a 10.0.0.1 -file /etc/cron.d/x",
    "add a 10.0.0.1 -f /etc/cron.d/x",
    "list a -f /tmp/x",
    "save a",
    "restore",
    "restore -file /tmp/x",
    "destroy",
    "flush",
    "quit",
    "-",
    "add a /etc/passwd",
    'add a 10.0.0.1 comment "x -file /tmp/x"',
    "add a 10.0.0.1\r",
    "add a\t-file\t/tmp/x",
    "#" + "x" * 2000 + "save -file /tmp/x",
    "create -file hash:ip",
]
