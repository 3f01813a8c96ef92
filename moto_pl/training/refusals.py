"""What jsonargparse says of a mistake, over many lines, as the one line that is shown."""

from __future__ import annotations

import inspect
import re
from importlib import import_module

from lightning.pytorch import Trainer

from moto_pl.errors import SettingError, did_you_mean
from moto_pl.training.cli import SETTINGS
from moto_pl.training.datamodule import OfflineToOnlineDataModule

_PLACE = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([^']+)':\s+(.*)")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted|unrecognized arguments: --([^\s=]+)")
_WORDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "a name",
    "<class 'dict'>": "settings by name",
    "<class 'list'>": "a list",
    "<class 'NoneType'>": "null",
    "dot import path string": "the path of a class, such as my_package.MyClass",
    "tuple with 2 elements": "a list of two",
}


def refusal(message: str, verb: str) -> SettingError:
    """The mistake that a message of the parser's is about.

    Args:
        message: as the parser's error has it.
        verb: which of Lightning's.
    """
    see = f"See moto {verb} --help."
    keys = _PLACE.findall(message)
    if keys:
        return _of_value(message, keys, see)
    if unknown := re.match(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
        words = unknown[1].split()
        name = next((word for word in words if word.startswith("-")), words[0]).split("=")[0]
        if not name.startswith("-"):
            return SettingError(name, "a word that belongs to no option", f"Take it out. {see}")
        guess = did_you_mean(name, [f"--{known}" for known in _known()], cutoff=0.8)
        return SettingError(name, "an unknown setting", guess + see)
    if unknown := re.match(r"Subcommand '\w+' does not accept option '([^']+)'", message):
        return SettingError(unknown[1], "an unknown setting", did_you_mean(unknown[1], _known(), cutoff=0.8) + see)
    if missing := re.match(r"the following arguments are required: (.*)", message):
        name = missing[1].split(", ")[0].removeprefix(f"{verb}.")
        fix = "Give a configuration, such as --config configs/debug.yaml; docs/configurations.md says what there is."
        return SettingError(name, "nothing", fix)
    if bare := re.match(r"argument (?:-\w/)?(\S+?):? expected (.*)", message):
        return SettingError(bare[1], "nothing", f"Give {bare[2]}. {see}")
    return SettingError("arguments", " ".join(message.split()), see)


def _of_value(message: str, keys: list[str], see: str) -> SettingError:
    """A value that its setting cannot have, or a setting that is not known below another."""
    deepest = message[[found.end() for found in _PLACE.finditer(message)][-1] :]
    unknown = _UNKNOWN.search(deepest)
    if keys[0] == "model" and (unknown or len(keys) > 1):
        keys = ["model.init_args", *keys[1:]]
    place = ".".join(keys)
    if unknown:
        name = unknown[1] or unknown[2]
        owners = [path for path, _ in _CLASS.findall(message)]
        below = place if keys[0].startswith("model") else f"{place}.init_args"
        known = [f"{below}.{known}" for known in _parameters(owners[-1])] if owners else []
        guess = did_you_mean(f"{below}.{name}", known, cutoff=0.8)
        return SettingError(f"{below}.{name}", "an unknown setting", guess + see)
    for path, reason in _CLASS.findall(deepest):
        return SettingError(place, f"class_path {path}", f"{reason[:1].upper()}{reason[1:]}. {see}")
    # Of one type all stands in a line; of several each has its own, and the value follows.
    one = re.search(r"Expected an? (.+)\. Got value: (.*)$", deepest, re.M)
    several = re.search(r"Given value: (.*)$", deepest, re.M)
    kinds = [one[1]] if one else re.findall(r"- Expected an? (?!path but)(.+)$", deepest, re.M)
    value = one[2] if one else several[1] if several else "another kind of value"
    return SettingError(place, value, f"Give {', or '.join(dict.fromkeys(map(_word, kinds)))}." if kinds else see)


def _word(kind: str) -> str:
    """What values a type has."""
    if kind.startswith("typing.Literal["):
        return " or ".join(re.findall(r"[^\s,'\[\]]+", kind.removeprefix("typing.Literal")))
    return _WORDS.get(kind.partition(":")[0], kind)


def _known() -> list[str]:
    """Settings by their dotted names, those below ``model`` and of verbs alone left out."""
    data, trainer = (inspect.signature(owner.__init__).parameters for owner in (OfflineToOnlineDataModule, Trainer))
    own = ("config", "size", "agent", "restart", "seed_everything", "ckpt_path", *(name for name, *_ in SETTINGS))
    return [*(f"data.{name}" for name in data), *(f"trainer.{name}" for name in trainer), *own]


def _parameters(path: str) -> list[str]:
    """The settings of a class that the parser has imported."""
    module, _, name = path.rpartition(".")
    return list(inspect.signature(getattr(import_module(module), name)).parameters)
