# SPDX-License-Identifier: Apache-2.0
"""The setting of a training run for both sides of a comparison: freed memory is kept, so that the work alone is
timed."""

from fastreid_ops.engine.heap import keep_freed_memory

__all__ = ["keep_freed_memory"]
