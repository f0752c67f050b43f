# SPDX-License-Identifier: Apache-2.0
"""What the dom0 plugins of xenapi-driver share.

Python 3.6 and later, standard library only: this runs in a host's dom0, where
nothing may be installed. A plugin file beside this folder holds its functions and
hands them to :func:`xenapi_dom0.serve.run`; each module here is about one subject.
"""
import sys

if sys.version_info < (3, 6):
    # Read by the caller as the reason why the plugin ended; written so that any
    # Python that can be here understands it.
    sys.exit(
        "The plugins of xenapi-driver need Python 3.6 or later as /usr/bin/python3 "
        "in dom0; this is Python %d.%d." % sys.version_info[:2]
    )

# /etc/xapi.d/plugins belongs to the package that put it there: a call as root must
# not leave compiled files in it.
sys.dont_write_bytecode = True
