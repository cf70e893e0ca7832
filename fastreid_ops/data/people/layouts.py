# SPDX-License-Identifier: Apache-2.0
"""Which camera is called what, who wears what where, and which test pictures are queries: the arrangements of public
data sets, so that their protocols can be run on procedural people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import PeopleOptions


class Layout:
    """The arrangement without a name: cameras numbered through, a first picture asks, the others answer."""

    def __init__(self, options: PeopleOptions) -> None:
        self.change, self.infrared = options.clothes_change, options.infrared

    def number(self, camera: int) -> int:
        """The manifest's camid, from 0, of a camera counted over visible and then infrared ones."""
        return camera

    def train_outfit(self, camera: int, k: int) -> int:
        """What a training identity wears in picture k under a camera."""
        return k % 2 if self.change else 0

    def test_outfit(self, camera: int, k: int, split: str) -> int:
        """What a test identity wears."""
        return 1 if self.change and split == "query" else 0

    def test_splits(self, camera: int, infrared: bool, k: int) -> tuple[str, ...]:
        """Where picture k of a test identity stands: query, gallery, both or nowhere."""
        if self.infrared:
            return (("query",) if k == 0 else ()) if infrared else ("gallery",)
        return ("query",) if k == 0 else ("gallery",)


class Sysu(Layout):
    """SYSU-MM01: visible cameras 1, 2, 4, 5 are the gallery, infrared cameras 3 and 6 ask."""

    def number(self, camera: int) -> int:
        return (0, 1, 3, 4, 2, 5)[camera]

    def test_splits(self, camera: int, infrared: bool, k: int) -> tuple[str, ...]:
        return ("query",) if infrared else ("gallery",)


class RegDb(Layout):
    """RegDB: one visible and one thermal camera; every test picture asks and answers, for both directions."""

    def test_splits(self, camera: int, infrared: bool, k: int) -> tuple[str, ...]:
        return ("query", "gallery")


class Llcm(RegDb):
    """LLCM: both directions as well, and a visible and an infrared camera share each number."""

    def __init__(self, options: PeopleOptions) -> None:
        super().__init__(options)
        self.visible = options.cameras

    def number(self, camera: int) -> int:
        return camera % self.visible


class Prcc(Layout):
    """PRCC: cameras A and B see the same clothes, C other ones; A is the gallery, B and C ask."""

    def train_outfit(self, camera: int, k: int) -> int:
        return int(camera == 2)

    def test_outfit(self, camera: int, k: int, split: str) -> int:
        return int(camera == 2)

    def test_splits(self, camera: int, infrared: bool, k: int) -> tuple[str, ...]:
        return ("gallery",) if camera == 0 else ("query",)


class Ltcc(Layout):
    """LTCC: both outfits under every camera; the first picture asks, in one outfit or the other by turns."""

    def train_outfit(self, camera: int, k: int) -> int:
        return (camera + k) % 2

    def test_outfit(self, camera: int, k: int, split: str) -> int:
        return (camera + k) % 2

    def test_splits(self, camera: int, infrared: bool, k: int) -> tuple[str, ...]:
        return ("query",) if k == 0 else ("gallery",)


class VcClothes(Ltcc):
    """VC-Clothes: cameras 2 and 3 see the same clothes, camera 4 other ones, camera 1 both."""

    def train_outfit(self, camera: int, k: int) -> int:
        return k % 2 if camera == 0 else int(camera == 3)

    def test_outfit(self, camera: int, k: int, split: str) -> int:
        return self.train_outfit(camera, k)


@dataclass(frozen=True)
class Preset:
    """What a layout fixes: its rules, its cameras, its options, and how many pictures it needs of each person."""

    rules: type[Layout]
    cameras: int | None = None
    infrared: bool = False
    clothes_change: bool = False
    tracklets: bool = False
    least: int = 2


LAYOUTS = {
    "": Preset(Layout),
    "sysu_mm01": Preset(Sysu, cameras=4, infrared=True, least=1),
    "regdb": Preset(RegDb, cameras=1, infrared=True, least=1),
    "llcm": Preset(Llcm, cameras=3, infrared=True, least=1),
    "prcc": Preset(Prcc, cameras=3, clothes_change=True, least=1),
    "ltcc": Preset(Ltcc, clothes_change=True, least=3),
    "vcclothes": Preset(VcClothes, cameras=4, clothes_change=True),
    # Its protocol takes the tracklet for the camera.
    "deepchange": Preset(Ltcc, clothes_change=True, tracklets=True, least=3),
    "mars": Preset(Layout, tracklets=True),
}
# Frames of a tracklet where the layout has tracklets and no number is given.
TRACKLET_LENGTH = 6


def layout(options: PeopleOptions) -> Layout:
    """The rules that ``options.like`` names."""
    return LAYOUTS[options.like].rules(options)
