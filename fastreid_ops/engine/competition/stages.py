# SPDX-License-Identifier: Apache-2.0
"""Work in stages: what a stage made is written down with what it was made from, and is made once.

A stage that is done has a seal, seals/NAME.json, with its inputs and the sha256 of each of its files, written after
them. It is done again when an input is another or a file is not what it was. Inputs hold the digests of the files of
earlier stages, so that a change at the beginning reaches the end.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fastreid_ops._atomic import write_atomic

FORMAT = 1
TO_DO = "to do"


class Sealed(NamedTuple):
    """What a stage made: relative file name -> sha256, and what it noted about them."""

    files: dict[str, str]
    facts: dict[str, Any]


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Stages:
    """The stages of a folder. With ``look`` nothing is made: `states` then says what is done and what is to do.

    `states` has by the name of a stage "done", or why it is (or was) not.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], look: bool = False) -> None:
        self.folder, self.say, self.look = folder, say, look
        self.states: dict[str, str] = {}

    def run(
        self, name: str, inputs: dict[str, Any], files: list[str], make: Callable[[], dict[str, Any] | None]
    ) -> Sealed:
        """What the stage `name` made of `inputs` (plain values), made now if it was not; `make` writes all `files`
        (names relative to the folder) and may return facts, plain values too.
        """
        wanted = {"format": FORMAT, "stage": name, "inputs": json.loads(json.dumps(inputs))}
        found = self._sealed(name, wanted, files)
        self.states[name] = found if isinstance(found, str) else "done"
        if isinstance(found, Sealed):
            self.say(f"{name}: done")
            return found
        if self.look:
            return Sealed(dict.fromkeys(files, TO_DO), {})
        self.say(f"{name}" if found == TO_DO else f"{name}: again, {found}")
        for file in files:
            (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        facts = json.loads(json.dumps(make() or {}))
        made = Sealed({file: file_digest(self.folder / file) for file in files}, facts)
        seal = self._seal(name)
        seal.parent.mkdir(exist_ok=True)
        write_atomic(seal, json.dumps({**wanted, **made._asdict()}, indent=1).encode())
        return made

    def _seal(self, name: str) -> Path:
        return self.folder / "seals" / f"{name}.json"

    def _sealed(self, name: str, wanted: dict[str, Any], files: list[str]) -> Sealed | str:
        try:
            seal = json.loads(self._seal(name).read_text(encoding="utf-8"))
            if {key: seal[key] for key in wanted} != wanted or set(seal["files"]) != set(files):
                return "made from something else"
            for file, digest in seal["files"].items():
                if file_digest(self.folder / file) != digest:
                    return f"{file} has changed"
            return Sealed(seal["files"], seal["facts"])
        except FileNotFoundError as error:
            missing = Path(error.filename)
            return TO_DO if missing == self._seal(name) else f"{missing.name} is missing"
        except (ValueError, KeyError, AttributeError, TypeError):
            return "its seal is damaged"
