# SPDX-License-Identifier: Apache-2.0
"""How many bytes went through each VIF, as its guest counts them."""
import re

from xenapi_dom0 import failures, paths

COUNTERS = "/proc/net/dev"
# proc_pid_net(5): name, colon, eight numbers of what was received, eight of what was
# sent; the bytes come first. Names such as vif1.0-emu are other ends of a VIF.
_VIF = re.compile(r"\s*vif([0-9]{1,5})\.([0-9]{1,5}):\s*(.*)\Z")


def counted():
    """Return a dict of domain id to dict of VIF number to its bytes, ids as text.

    Dom0 sees the other end of the wire: what it sends is what the guest receives.
    """
    found = {}
    for line in _lines():
        match = _VIF.match(line)
        if match is None:
            continue
        numbers = match.group(3).split()
        if len(numbers) < 16 or not (numbers[0] + numbers[8]).isdigit():
            continue
        dom_id, vif = (str(int(text)) for text in match.group(1, 2))
        found.setdefault(dom_id, {})[vif] = {
            "bw_in": int(numbers[8]), "bw_out": int(numbers[0]),
        }
    return found


def _lines():
    path = paths.host_path(COUNTERS)
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError as exc:
        raise failures.from_os_error(exc, "read the counters", COUNTERS) from exc
