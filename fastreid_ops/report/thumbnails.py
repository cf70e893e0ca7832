# SPDX-License-Identifier: Apache-2.0
"""Small pictures inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

from PIL import Image

from fastreid_ops.data.images import BadImageError, read_image

# Shown at 64 x 128 CSS pixels; a little more for dense screens. About 2.5 kB each.
LARGEST = (80, 160)


@dataclass
class Thumbnails:
    """``data:`` addresses of image files, each file read once. ``missing`` lists what could not be read and why."""

    missing: dict[str, str] = field(default_factory=dict)
    _made: dict[str, str | None] = field(default_factory=dict)

    def uri(self, path: str) -> str | None:
        """JPEG of at most 80 x 160 as a ``data:`` address, None where the file is no readable image."""
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def _make(self, path: str) -> str | None:
        try:
            image = read_image(path)
        except (BadImageError, OSError, ValueError) as error:
            self.missing[path] = getattr(error, "reason", None) or str(error)
            return None
        image.thumbnail(LARGEST, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=82, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
