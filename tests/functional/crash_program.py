# SPDX-License-Identifier: Apache-2.0
"""``crash_program.py URL ORIGINATOR VM...``: starts VMs, and is killed meanwhile."""

import sys
import threading

from xenapi_driver.xapi import transport
from xenapi_driver.xapi.session import Session

URL, ORIGINATOR, *VMS = sys.argv[1:]

session = Session(lambda: transport.HttpTransport(URL), "root", "secret", ORIGINATOR)
session.login()
for ref in VMS:
    args = ("Async.VM.start_on", ref, session.host_ref, False, False)
    threading.Thread(target=session.task, args=args).start()
