# SPDX-License-Identifier: Apache-2.0
"""Tell the caller how far its call is, in the progress of its own task.

XAPI runs our call as a task, which the driver watches anyway, so nothing more is asked
by anybody. Which task it is says the label that the caller's request carried and that
XAPI put into the task's other_config. Telling never holds up nor fails the work.
"""
import threading

from xenapi_dom0 import failures, xapi
from xenapi_dom0.serve import LOG

LABEL = "call"  # key in the task's other_config
INTERVAL = 1.0  # seconds between two tellings
STEP = 0.01  # of the whole: less is not worth a call
TIMEOUT = 5  # seconds that XAPI may take


class Report:
    """How far a call is; a context manager. Reporters without a label do nothing."""

    def __init__(self, request):
        self._session = request.session
        self._label = request.call
        self._fraction = 0.0
        self._done = threading.Event()
        self._thread = None

    def __enter__(self):
        if self._label:
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._done.set()
        if self._thread is not None:
            # Daemon and not waited for long: XAPI may be slow, the work is done.
            self._thread.join(INTERVAL)

    def at(self, fraction):
        """Say that ``fraction``, 0.0 to 1.0, of the work is done; costs nothing."""
        self._fraction = min(1.0, max(0.0, fraction))

    def _tell(self):
        told = 0.0
        task = None
        session = xapi.Session(self._session, TIMEOUT)
        while not self._done.wait(INTERVAL):
            now = self._fraction
            if now < told + STEP:
                continue
            try:
                task = task or self._task(session)
                if task is None:
                    LOG.info("No task of this call was found: no progress is told.")
                    return
                # 1.0 is XAPI's to say, when it has our answer.
                session.call("task.set_progress", task, min(now, 0.99))
            except failures.Failure as exc:
                LOG.info("Progress is no longer told: %s %s", exc.code, exc.params)
                return
            told = now

    def _task(self, session):
        """Return the reference of the task that carries our label, or None."""
        for ref, record in session.call("task.get_all_records").items():
            if record["other_config"].get(LABEL) == self._label:
                return ref
        return None
