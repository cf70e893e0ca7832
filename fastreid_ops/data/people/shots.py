# SPDX-License-Identifier: Apache-2.0
"""Which pictures a data set holds, and what each file is called."""

from __future__ import annotations

from dataclasses import dataclass

from .options import FIRST_DISTRACTOR_PID, PeopleOptions

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


@dataclass(frozen=True)
class Job:
    """One picture. ``camera`` counts from 0 over visible and then infrared cameras; ``label`` is the manifest's pid."""

    split: str
    label: int
    pid: int
    camera: int
    k: int
    outfit: int
    infrared: bool

    @property
    def frame(self) -> int:
        return 1000 * self.outfit + self.k + 1 if self.label else self.pid - FIRST_DISTRACTOR_PID + 1

    @property
    def path(self) -> str:
        """File name as in Market-1501: identity, camera from 1, frame, number of the box."""
        return f"{FOLDERS[self.split]}/{self.label:04d}_c{self.camera + 1}s1_{self.frame:06d}_00.jpg"


def jobs(options: PeopleOptions) -> list[Job]:
    """Every picture of a data set: train, query, gallery, each in the order of file names.

    A test identity's first picture under each camera is a query and the others are the gallery. With
    ``clothes_change`` the queries wear outfit 1 and the gallery outfit 0, training alternates. With ``infrared``
    the queries come from the infrared cameras and the gallery from the visible ones.
    """
    cameras = [(c, c >= options.cameras) for c in range(options.cameras + options.infrared_cameras)]
    change = options.clothes_change
    found = []
    for camera, infrared in cameras:
        for k in range(options.images_per_camera):
            outfit = k % 2 if change else 0
            found += [Job("train", p, p, camera, k, outfit, infrared) for p in options.train_pids]
            if options.infrared:
                split = "query" if infrared and k == 0 else "gallery" if not infrared else None
            else:
                split = "query" if k == 0 else "gallery"
            if split is not None:
                outfit = 1 if change and split == "query" else 0
                found += [Job(split, p, p, camera, k, outfit, infrared) for p in options.test_pids]
    for i in range(options.distractors):
        found.append(Job("gallery", 0, FIRST_DISTRACTOR_PID + i, i % options.cameras, 0, 0, False))
    order = list(FOLDERS)
    return sorted(found, key=lambda job: (order.index(job.split), job.path))
