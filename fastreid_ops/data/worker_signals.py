# SPDX-License-Identifier: Apache-2.0
"""What a loader's worker process does about signals."""

import signal


def leave_to_the_parent(worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`. A terminal, a cluster's scheduler and torchrun send SIGINT and SIGTERM to
    all processes of a run; what happens then is the parent's business, which may need its workers until it has come to
    a place where it can stop. The first SIGTERM is therefore passed over, a second one ends the worker: the parent
    itself sends several to one that hangs. An orphan notices that it is one, and ends as before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _once)


def _once(number, frame) -> None:
    signal.signal(number, signal.SIG_DFL)
