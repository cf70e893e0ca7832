# SPDX-License-Identifier: Apache-2.0
"""What a set of procedural people contains and how hard it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .layouts import LAYOUTS, TRACKLET_LENGTH

# The file name holds the identity in four digits; train and test identities live in disjoint ranges, so that
# changing the size of one split leaves every picture of the other as it is.
FIRST_TRAIN_PID = 1
FIRST_TEST_PID = 5001
LAST_PID = 9999
# Distractors are nobody's identity: their bodies come from a range that no file name can hold.
FIRST_DISTRACTOR_PID = 100_001
FIRST_PASSERBY_PID = 200_001
# Market-1501 has six cameras and its file names have one digit for them.
MAX_CAMERAS = 6


@dataclass(frozen=True)
class PeopleOptions:
    """Content and difficulty of a procedural data set. Every picture follows from these values alone.

    Content:
        seed: names the world: people, outfits, cameras, shots.
        train_ids, test_ids: identities in each split; their ranges are disjoint.
        cameras: visible-light cameras; with ``infrared`` half as many again (rounded up) are infrared.
        images_per_camera: pictures per identity and camera; of a test identity the first is a query.
        height, width: stored size in pixels.
        clothes_change: every identity has a second outfit; test queries wear it, the gallery the first.
        infrared: adds infrared cameras; test queries are infrared, the gallery is visible light.
        distractors: extra gallery pictures of people without identity (pid 0, as in Market-1501).
        tracklet_length: 0 for single pictures; else every picture becomes a tracklet of so many consecutive
            frames, similar as those of a video are, and ``images_per_camera`` counts tracklets.
        like: the arrangement of a public data set, for its protocol: sysu_mm01, regdb, llcm (infrared), prcc,
            ltcc, vcclothes (clothes), deepchange (clothes, tracklets), mars (tracklets). It decides who is a
            query and which camera is called what, and sets what it needs of ``cameras``, ``infrared``,
            ``clothes_change`` and ``tracklet_length``.

    Difficulty:
        color_shift: largest deviation of a camera's 3x3 colour matrix from identity, per entry.
        gamma_shift: largest relative deviation of a camera's gamma from one.
        exposure_shift: largest relative change of brightness from shot to shot.
        yaw_spread: standard deviation in degrees of walking directions around the camera's main one.
        resolution: lowest and highest sensor height of a person in pixels.
        blur: largest blur radius in sensor pixels.
        noise: largest noise standard deviation, in steps of 255.
        jpeg_quality: lowest and highest JPEG quality of a camera.
        shared_colors: share of identities made to share a colour with their neighbour, a third of them
            everything but a pattern or a bag; another tenth shares a dark shade by chance.
        occlusion, truncation: probability that a shot is partly hidden or cut by its box.
        box_jitter: largest error of the detector's box, relative to its height.
    """

    seed: int = 0
    train_ids: int = 128
    test_ids: int = 72
    cameras: int = 4
    images_per_camera: int = 3
    height: int = 128
    width: int = 64
    clothes_change: bool = False
    infrared: bool = False
    distractors: int = 0
    tracklet_length: int = 0
    like: str = ""
    color_shift: float = 0.045
    gamma_shift: float = 0.05
    exposure_shift: float = 0.08
    yaw_spread: float = 35.0
    resolution: tuple[int, int] = (40, 120)
    blur: float = 0.7
    noise: float = 5.0
    jpeg_quality: tuple[int, int] = (60, 92)
    shared_colors: float = 0.22
    occlusion: float = 0.06
    truncation: float = 0.03
    box_jitter: float = 0.04

    def __post_init__(self) -> None:
        for name in ("resolution", "jpeg_quality"):
            # A YAML recipe holds lists; a frozen, comparable value needs tuples.
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._arrangement()
        self._integers()
        self._fractions()
        self._ranges()

    def _arrangement(self) -> None:
        if self.like not in LAYOUTS:
            known = ", ".join(name for name in LAYOUTS if name)
            raise ValueError(f"PeopleOptions: like: got {self.like!r}, expected one of {known}, or nothing")
        preset = LAYOUTS[self.like]
        values = {"infrared": self.infrared or preset.infrared}
        values["clothes_change"] = self.clothes_change or preset.clothes_change
        values["cameras"] = self.cameras if preset.cameras is None else preset.cameras
        if preset.tracklets and self.tracklet_length == 0:
            values["tracklet_length"] = TRACKLET_LENGTH
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _integers(self) -> None:
        bounds = {
            "seed": (0, 2**63 - 1),
            "train_ids": (0, FIRST_TEST_PID - FIRST_TRAIN_PID),
            "test_ids": (0, LAST_PID - FIRST_TEST_PID + 1),
            "cameras": (1, MAX_CAMERAS),
            "images_per_camera": (1, 999),
            "height": (32, 1024),
            "width": (16, 1024),
            "distractors": (0, 9999),
            "tracklet_length": (0, 100),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"PeopleOptions: {name}: got {value!r}, expected an integer")
            if not low <= value <= high:
                raise ValueError(f"PeopleOptions: {name}: got {value}, expected {low} to {high}")
        if self.cameras + self.infrared_cameras > MAX_CAMERAS:
            raise ValueError(
                f"PeopleOptions: cameras: got {self.cameras} and {self.infrared_cameras} infrared ones, expected "
                f"at most {MAX_CAMERAS} together"
            )

    def _fractions(self) -> None:
        bounds = {
            "color_shift": 0.10,
            "gamma_shift": 0.5,
            "exposure_shift": 0.5,
            "yaw_spread": 180.0,
            "blur": 8.0,
            "noise": 64.0,
            "shared_colors": 1.0,
            "occlusion": 1.0,
            "truncation": 1.0,
            "box_jitter": 0.25,
        }
        for name, high in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"PeopleOptions: {name}: got {value!r}, expected a number")
            if not 0 <= value <= high:
                raise ValueError(f"PeopleOptions: {name}: got {value}, expected 0 to {high}")

    def _ranges(self) -> None:
        bounds = {"resolution": (16, 1024), "jpeg_quality": (1, 100)}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if len(value) != 2 or not low <= value[0] <= value[1] <= high:
                raise ValueError(
                    f"PeopleOptions: {name}: got {value}, expected (lowest, highest) in {low} to {high}"
                )

    @property
    def infrared_cameras(self) -> int:
        """Number of infrared cameras; they come after the visible ones."""
        if self.like == "llcm":
            return self.cameras
        return (self.cameras + 1) // 2 if self.infrared else 0

    @property
    def train_pids(self) -> range:
        return range(FIRST_TRAIN_PID, FIRST_TRAIN_PID + self.train_ids)

    @property
    def test_pids(self) -> range:
        return range(FIRST_TEST_PID, FIRST_TEST_PID + self.test_ids)

    def to_dict(self) -> dict:
        """Plain values that JSON holds; ``PeopleOptions(**d)`` gives the options back.

        Options younger than the first data sets are left out where they are off: a folder that was rendered
        without them is still the same data set.
        """
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {key: v for key, v in values.items() if v or key not in ("tracklet_length", "like")}
