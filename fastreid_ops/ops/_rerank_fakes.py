# SPDX-License-Identifier: Apache-2.0
"""Shapes of the native operators' results, for torch.compile and torch.export. How many entries a sparse result has
is known only when it has been computed."""

from __future__ import annotations

import torch
from torch import Tensor


def register() -> None:
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"fastreid::{name}", fake)


def _sparse(like: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    entries = torch.library.get_ctx().new_dynamic_size()
    return (
        like.new_empty(rows + 1, dtype=torch.int64),
        like.new_empty(entries, dtype=torch.int32),
        like.new_empty(entries, dtype=torch.float32),
    )


def _select(query_gallery, query_query, gallery_gallery, k):
    points = query_gallery.shape[0] + query_gallery.shape[1]
    return (
        query_gallery.new_empty(points, k, dtype=torch.int32),
        query_gallery.new_empty(points, k, dtype=torch.float64),
        query_gallery.new_empty(points, dtype=torch.float64),
    )


def _encode(index, *rest):
    return _sparse(index, index.shape[0])


def _merge(begin, column, value, index, weight, divisor, to_half):
    return _sparse(begin, index.shape[0])


def _invert(begin, column, value, row_begin, row_end, columns):
    return _sparse(begin, columns)


def _blend(result, *rest):
    return None


def _overlap(begin, column, value, inverted_begin, inverted_row, inverted_value, first_row, rows, *rest):
    return _sparse(begin, rows)


def _head(values, k):
    return values.new_empty(values.shape[0], k), values.new_empty(values.shape[0], k, dtype=torch.int64)


_FAKES = {
    "rerank_select": _select,
    "rerank_encode": _encode,
    "rerank_merge": _merge,
    "rerank_invert": _invert,
    "rerank_blend": _blend,
    "rerank_overlap": _overlap,
    "rerank_head": _head,
}
