# SPDX-License-Identifier: Apache-2.0
"""Which pictures a data set holds, what each file is called, and the rows of its manifest."""

from __future__ import annotations

from dataclasses import dataclass

from .layouts import layout
from .options import FIRST_DISTRACTOR_PID, PeopleOptions

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


@dataclass(frozen=True)
class Job:
    """One row: a picture in one split.

    ``camera`` counts from 0 over visible and then infrared cameras and decides how the picture looks; ``camid`` is
    what the manifest calls it. ``label`` is the manifest's pid. ``t`` is the frame of tracklet ``k``, 0 where
    pictures stand alone. ``folder`` holds the file, which two splits may share.
    """

    split: str
    label: int
    pid: int
    camera: int
    k: int
    outfit: int
    infrared: bool
    camid: int
    folder: str
    t: int = 0
    sequence: int = 1

    @property
    def frame(self) -> int:
        """Number in the file name: of the picture, or of the tracklet."""
        return 1000 * self.outfit + self.k + 1 if self.label else self.pid - FIRST_DISTRACTOR_PID + 1

    @property
    def tracklet(self) -> str:
        """Name of the tracklet, after MARS: identity, camera, number."""
        return f"{self.label:04d}C{self.camid + 1}S{self.sequence}T{self.frame:06d}"

    @property
    def path(self) -> str:
        """File name as in Market-1501: identity, camera from 1, sequence (2 where an infrared camera shares its
        number with a visible one), frame, number of the box, which here counts the frames of a tracklet."""
        name = f"{self.label:04d}_c{self.camid + 1}s{self.sequence}_{self.frame:06d}_{self.t:02d}.jpg"
        return f"{FOLDERS[self.folder]}/{name}"


def jobs(options: PeopleOptions) -> list[Job]:
    """Every row of a data set: train, query, gallery, each in the order of file names.

    Without a layout (``options.like``): a test identity's first picture under each camera is a query and the
    others are the gallery. With ``clothes_change`` the queries wear outfit 1 and the gallery outfit 0, training
    alternates. With ``infrared`` the queries come from the infrared cameras and the gallery from the visible ones.
    With ``tracklet_length`` all of this holds for tracklets instead of pictures.
    """
    plan = layout(options)
    found = []
    for camera in range(options.cameras + options.infrared_cameras):
        infrared = camera >= options.cameras
        number = plan.number(camera)
        place = {"infrared": infrared, "camid": number}
        if infrared and number in {plan.number(other) for other in range(options.cameras)}:
            place["sequence"] = 2
        for k in range(options.images_per_camera):
            frames = range(max(1, options.tracklet_length))
            outfit = plan.train_outfit(camera, k)
            found += [
                Job("train", p, p, camera, k, outfit, folder="train", t=t, **place)
                for p in options.train_pids
                for t in frames
            ]
            splits = plan.test_splits(camera, infrared, k)
            for split in splits:
                outfit = plan.test_outfit(camera, k, split)
                # A picture that is both is kept once, with the gallery.
                folder = "gallery" if len(splits) > 1 else split
                found += [
                    Job(split, p, p, camera, k, outfit, folder=folder, t=t, **place)
                    for p in options.test_pids
                    for t in frames
                ]
    for i in range(options.distractors):
        camera = i % options.cameras
        found += [
            Job(
                "gallery", 0, FIRST_DISTRACTOR_PID + i, camera, 0, 0, False, plan.number(camera), "gallery", t
            )
            for t in range(max(1, options.tracklet_length))
        ]
    order = list(FOLDERS)
    return sorted(found, key=lambda job: (order.index(job.split), job.path))


def pictures(options: PeopleOptions) -> list[Job]:
    """The jobs to render: one for each file."""
    return list({job.path: job for job in jobs(options)}.values())
