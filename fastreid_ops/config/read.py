# SPDX-License-Identifier: Apache-2.0
"""Recipes and the command line: `read(argv)` gives the recipe, the effective configuration and what was asked
besides.

    --config NAME|FILE.yaml   a recipe of the package or a file of one's own (default: `default`)
    --optim.lr 3e-4           any key of the configuration, dotted
    --resume RUN              go on with a run folder: its own configuration takes the recipe's place
    --resume_allow KEY ...    keys that may differ from the run that is resumed
    --dry_run                 one step and a short evaluation, nothing kept
    --print_config            print the effective configuration as YAML and stop
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from fastreid_ops.config.schema import Config
from fastreid_ops.config.values import ConfigError, flatten, from_dict, nearest, to_dict

_EXPECTED = {
    "config": "a recipe or a .yaml file",
    "resume": "a run folder",
    "resume_allow": "keys that may differ",
}
# Keys that are lists of tables, with an example of each.
_LISTS = {
    "eval.sets": "[{name: a, dataset: a.csv}]",
    "optim.groups": "[{match: 'model.classifier.*', lr_factor: 10}]",
    "data.sources": "[{dataset: msmt17, root: data}]",
}
RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass
class Request:
    """A parsed command line. `base` is the recipe (or the resumed run's configuration), `config` what shall
    run.
    """

    recipe: str
    base: dict[str, Any]
    config: Config
    resume: Path | None = None
    resume_allow: list[str] = field(default_factory=list)
    print_config: bool = False
    dry_run: bool = False


def recipes() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as nested plain values. Errors: ConfigError naming the file (and the line, if it is not
    YAML).
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: got {type(values).__name__}, expected a YAML table of keys")
    return values


def read_recipe(name: str) -> dict[str, Any]:
    """The complete nested values of a packaged recipe or of a YAML file; keys the file leaves out take the
    defaults.
    """
    path = Path(name)
    if not name.lower().endswith((".yaml", ".yml")):
        if name not in recipes():
            raise ConfigError(
                f"--config: got {name!r}, expected a recipe or a .yaml file{nearest(name, recipes())}"
            )
        path = RECIPES / f"{name}.yaml"
    return to_dict(from_dict(read_yaml(path), str(path)))


def dump_yaml(values: dict[str, Any]) -> str:
    """YAML text that `read_yaml` reads back to the same values, key order kept."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Plain types only; short lists on one line."""


def _list(dumper: _Dumper, values: list) -> yaml.Node:
    flow = not any(isinstance(value, (dict, list)) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flow)


_Dumper.add_representer(list, _list)


def _refuse_unknown(argv: list[str]) -> None:
    """Let only single keys with plain values reach jsonargparse.

    It would accept abbreviations, report unknown keys without a hint, read whole sections from files, and
    import whatever a `class_path` names.
    """
    keys = list(flatten(to_dict(Config())))
    known = [*keys, *_EXPECTED, "print_config", "dry_run", "help"]
    tables = tuple(f"{key}." for key in keys if key.endswith(".options"))
    for argument in argv:
        if "class_path" in argument:
            raise ConfigError(
                f"command line: got {argument!r} with class_path, expected names of the tables only"
            )
        if argument.startswith("--"):
            key = argument[2:].partition("=")[0]
            if key not in known and not key.startswith(tables):
                raise ConfigError(f"command line: unknown key --{key}{nearest(key, known)}")
    for i, argument in enumerate(argv):
        key, _, value = argument.partition("=")
        value = value or "".join(argv[i + 1 : i + 2])
        example = _LISTS.get(key.removeprefix("--"))
        if example is not None and not value.lstrip().startswith("["):
            raise ConfigError(
                f"command line: {key.removeprefix('--')}: got {value!r}, expected a list such as '{example}'"
            )


def parser(base: dict[str, Any]) -> ArgumentParser:
    """The jsonargparse parser over the dataclasses with `base` (nested values) as defaults."""
    made = ArgumentParser(
        prog="python -m fastreid_ops.train", exit_on_error=False, description=__doc__.split("\n")[0]
    )
    made.add_argument(
        "--config", default="default", help=f"recipe name or YAML file; recipes: {', '.join(recipes())}"
    )
    made.add_argument("--resume", default=None, metavar="RUN", help="run folder to go on with")
    made.add_argument("--resume_allow", default=None, metavar="KEY", help="keys that may differ on resume")
    made.add_argument(
        "--print_config", action="store_true", help="print the effective configuration and stop"
    )
    made.add_argument(
        "--dry_run",
        action="store_true",
        help="build everything, one training step, evaluation on a few files, keep nothing",
    )
    made.add_class_arguments(Config, None, fail_untyped=True)
    made.set_defaults(flatten(base))
    return made


def read(argv: list[str]) -> Request:
    """Parse a command line. Errors: ConfigError with the key; SystemExit(0) after `--help`."""
    _refuse_unknown(argv)
    own, overrides = _take_own(argv)
    lists, overrides = _take_lists(overrides)
    resume = Path(own["resume"][0]) if own["resume"] else None
    if resume is not None and own["config"]:
        raise ConfigError(
            "--config: got a recipe beside --resume, expected one of them: a resumed run brings its "
            "configuration"
        )
    if resume is None:
        recipe = (own["config"] or ["default"])[0]
        base, recipe = read_recipe(recipe), Path(recipe).stem
    else:
        recipe = str(resume)
        base = to_dict(from_dict(_run_config(resume), str(resume / "config.yaml")))
    allow = [key for word in own["resume_allow"] or [] for key in word.split(",") if key]
    for key in allow:
        if key not in flatten(base):
            raise ConfigError(f"--resume_allow: unknown key {key}{nearest(key, flatten(base))}")
    try:
        values = _plain(parser(base).parse_args(overrides))
        for key, items in lists.items():
            section, _, name = key.partition(".")
            values[section][name] = items
    except ArgumentError as error:
        raise ConfigError(f"command line: {_shorten(str(error))}") from error
    config = from_dict({key: values[key] for key in to_dict(Config())}, "command line")
    if resume is not None and own["dry_run"] is not None:
        raise ConfigError(
            "--dry_run: got it beside --resume, expected one of them: a dry run goes on with nothing"
        )
    flags = (own[name] is not None for name in ("print_config", "dry_run"))
    return Request(recipe, base, config, resume, allow, *flags)


def _take_own(argv: list[str]) -> tuple[dict[str, list[str] | None], list[str]]:
    """The options that decide the defaults of everything else, and the rest of the command line for
    jsonargparse.
    """
    takes = {"config": 1, "resume": 1, "resume_allow": len(argv), "print_config": 0, "dry_run": 0}
    own: dict[str, list[str] | None] = dict.fromkeys(takes)
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key not in takes:
            rest.append(word)
            continue
        given = [value] if equals else []
        while words and not words[0].startswith("--") and len(given) < takes[key]:
            given.append(words.pop(0))
        if takes[key] and not any(given):
            raise ConfigError(f"--{key}: got nothing, expected {_EXPECTED[key]}")
        own[key] = (own[key] or []) + given
    return own, rest


def _take_lists(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The lists of tables, and the rest of the command line. jsonargparse would fill what an item leaves out from the
    recipe's item in the same place: a set of one's own would be evaluated by another's protocol.
    """
    lists: dict[str, Any] = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key not in _LISTS:
            rest.append(word)
            continue
        text = value if equals else words.pop(0)
        try:
            lists[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            problem = str(error).replace("\n", " ")
            raise ConfigError(f"command line: {key}: got {text!r}, expected a list: {problem}") from error
    return lists, rest


def _run_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.yaml").is_file():
        what = "no such folder" if not folder.is_dir() else "a folder without config.yaml"
        raise ConfigError(f"--resume: {folder}: got {what}, expected the folder of an earlier run")
    return read_yaml(folder / "config.yaml")


def _shorten(message: str) -> str:
    """jsonargparse's paragraphs about a wrong type as one line: `optim.lr: got x, expected float`."""
    key = re.search(r'(?:Parser key|argument) "?(?:--)?([\w.]+)', message)
    got = re.search(r"(?:Given value|Got value): (.*)", message)
    expected = dict.fromkeys(re.findall(r"Expected an? (.+?)\.?(?: Got value.*)?$", message, re.MULTILINE))
    if not key or not got or not expected:
        return message
    words = [
        re.sub(r"<class '(.*)'>", r"\1", e).replace("NoneType", "null").removeprefix("typing.")
        for e in expected
    ]
    return f"{key[1]}: got {got[1]}, expected {' or '.join(words)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        return {key: _plain(item) for key, item in vars(value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
