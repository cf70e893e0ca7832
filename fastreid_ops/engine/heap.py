# SPDX-License-Identifier: Apache-2.0
"""Where the memory of large tensors comes from on a CPU.

As it comes, every large tensor is fresh memory from the system, which hands it out page by page as it is written and
takes it back when the tensor goes: a 4 KiB page in about a microsecond, 25,000 of them for 100 MB, again in every
step. `keep_freed_memory` makes the C library keep what is freed for the next one. There is no way back within the
process, and no arithmetic changes.
"""

import ctypes
import sys

# malloc.h of glibc
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """False where the C library is another one; then nothing changes."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**28))
    return all(mallopt(name, value) == 1 for name, value in settings)
