# SPDX-License-Identifier: Apache-2.0
"""Procedural people: a seeded renderer of walking figures, and data sets made with it.

They are a stand-in for photographs where none may be downloaded: good for showing that training, evaluation and
tools work and for comparing methods under known difficulties, never for a claim about real cameras.
"""

from .body import Body, sample_body
from .camera import Look, look
from .clothes import Outfit, sample_outfit
from .dataset import render_dataset
from .options import PeopleOptions
from .render import render_person

__all__ = [
    "Body",
    "Look",
    "Outfit",
    "PeopleOptions",
    "look",
    "render_dataset",
    "render_person",
    "sample_body",
    "sample_outfit",
]
