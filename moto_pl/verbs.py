"""Verbs from functions: a function's signature and docstring are its command line, so that help says what is so."""

from __future__ import annotations

import argparse
import collections.abc
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from moto_pl.errors import SettingError, did_you_mean


class Verb:
    """A verb of the command line.

    Parameters without default are positional, keyword-only ones and those with a default are options; a ``bool`` that
    is False is a flag, and a list takes all words up to the next option. ``--image-size`` is ``--image_size``.

    Args:
        function: what runs and returns the exit status; its parameters are the arguments, its docstring is their help.
        positional: parameters that are positional although they have a default.
    """

    def __init__(self, function: Callable[..., Any], positional: Sequence[str] = ()) -> None:
        self.function, self.positional = function, tuple(positional)

    @property
    def summary(self) -> str:
        """The docstring's first paragraph."""
        return plain_text((inspect.getdoc(self.function) or "").split("\n\n")[0])

    def parser(self, prog: str) -> VerbParser:
        """The parser of the function's arguments."""
        parser = VerbParser(prog, self.summary, self.positional)
        parser.add_signature(self.function)
        return parser

    def __call__(self, args: Sequence[str], prog: str) -> int:
        """Reads ``args`` and runs the function; returns the exit status."""
        return int(self.function(**self.parser(prog).read(args)))


class _Formatter(DefaultHelpFormatter):
    """Types as a user reads them: ``path | null`` where Python says ``Union[str, PathLike[str], NoneType]``."""

    def _get_type_str(self, action: argparse.Action) -> str | None:
        text = super()._get_type_str(action)
        if text is None:
            return None
        text = re.sub(r"<class '(\w+)'>", r"\1", text)
        text = re.sub(r"^Optional\[(.*)\]$", r"\1 | null", text)
        text = re.sub(r"^Union\[(.*)\]$", lambda union: union[1].replace(", ", " | "), text)
        return text.replace("str | PathLike[str]", "path").replace("Path", "path")


class VerbParser(ArgumentParser):
    """Arguments from signatures, one line for each mistake.

    Args:
        prog: how the user has begun the command, such as ``moto data view``.
        description: what it does.
        positional: parameters that are positional although they have a default.
    """

    def __init__(self, prog: str, description: str, positional: Sequence[str] = ()) -> None:
        self.hints: dict[str, Any] = {}
        self._positional = tuple(positional)
        super().__init__(
            prog=prog, description=description, exit_on_error=False, allow_abbrev=False, formatter_class=_Formatter
        )

    def add_signature(self, function: Callable[..., Any], skip: Sequence[str] = ()) -> list[str]:
        """Adds the parameters of a function or a class that are not there yet; returns their names."""
        target = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
        known = {*self.hints, *skip}
        self.hints |= {name: hint for name, hint in _hints(target).items() if name not in known}
        ignored: set[str | int] = set(known)
        if isinstance(function, type):
            return list(self.add_class_arguments(function, as_group=False, as_positional=True, skip=ignored))
        return list(self.add_function_arguments(function, as_group=False, as_positional=True, skip=ignored))

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """As the base class, with flags, and lists of words, as a shell's user writes them."""
        name = str(args[0]).lstrip("-")
        hint = self.hints.get(name)
        if hint is None:
            return super().add_argument(*args, **kwargs)
        kwargs["help"] = plain_text(kwargs.get("help") or "")
        kept: dict[str, Any] = {key: kwargs[key] for key in ("default", "required", "help") if key in kwargs}
        if name in self._positional:
            return super().add_argument(name, type=hint, nargs="?", **kept)
        if (element := _element(hint)) is not None:
            if isinstance(kept.get("default"), tuple):  # the parser writes into a list's default
                kept["default"] = list(kept["default"])
            return super().add_argument(args[0], type=element, nargs="+", **kept)
        if hint is bool and kwargs.get("default") is False:
            return super().add_argument(args[0], action="store_true", **kept)
        return super().add_argument(*args, **kwargs)

    def read(self, args: Sequence[str]) -> dict[str, Any]:
        """The arguments by name.

        Raises:
            SettingError: an unknown option, a missing argument, or a value of another type.
        """
        spelt = [re.sub(r"^--[A-Za-z][\w-]*", lambda name: "--" + name[0][2:].replace("-", "_"), arg) for arg in args]
        try:
            return dict(self.parse_args(spelt).as_dict())
        except argparse.ArgumentError as error:
            raise self._refusal(" ".join(str(error).split())) from None

    def _is_option(self, name: str) -> bool:
        return f"--{name}" in self._option_string_actions

    def _refusal(self, message: str) -> SettingError:
        """What the parser says of a mistake, as the one line that is shown."""
        see = f"See {self.prog} --help."
        if unknown := re.match(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
            words = unknown[1].split()
            name = next((word for word in words if word.startswith("-")), words[0]).split("=")[0]
            options = [f"--{known}" for known in self.hints if self._is_option(known)]
            if not name.startswith("-"):
                return SettingError(name, f"one argument too many for {self.prog}", see)
            guess = did_you_mean(name, options, cutoff=0.7)
            fix = f"{guess}{self.prog} has {', '.join(options) or 'no options'}."
            return SettingError(name, "an unknown option", fix)
        if bare := re.match(r"argument (\S+?):? expected (.*)", message):
            return SettingError(bare[1], "nothing", f"Give {bare[2]}. {see}")
        if missing := re.match(r"the following arguments are required: (.*)", message):
            names = [f"--{name}" if self._is_option(name) else name for name in missing[1].split(", ")]
            return SettingError(names[0], "nothing", f"Give {', '.join(names)}. {see}")
        if wrong := re.match(r'Parser key "(\w+)".*(?:Got|Given) value: (.*)$', message):
            option = f"--{wrong[1]}" if self._is_option(wrong[1]) else wrong[1]
            return SettingError(option, repr(wrong[2]), f"Give {_words(self.hints.get(wrong[1]))}.")
        return SettingError("arguments", message, see)


def choose(verbs: Mapping[str, Verb | str], args: Sequence[str], prog: str, description: str) -> tuple[str, list[str]]:
    """The verb that ``args`` begin with, and the rest of them; prints the verbs, and exits, where they ask for help.

    Args:
        verbs: by name; a text is the summary of a verb that is not to be imported for a list.
        args: of the command line.
        prog: how the user has begun the command.
        description: what the verbs are for.

    Raises:
        SettingError: no such verb.
    """
    if args and args[0] in ("-h", "--help"):
        print(f"usage: {prog} VERB ...\n\n{description}\n")
        width = max(map(len, verbs))
        for name, verb in verbs.items():
            print(f"  {name:{width}}  {verb if isinstance(verb, str) else verb.summary}")
        print(f"\n{prog} VERB --help says what a verb takes.")
        raise SystemExit(0)
    if not args or args[0] not in verbs:
        guess = did_you_mean(args[0], verbs) if args else ""
        fix = f"{guess}Give one of {', '.join(verbs)}; {prog} --help says what they do."
        raise SettingError(prog, repr(args[0]) if args else "no verb", fix)
    return args[0], list(args[1:])


def completion_script(
    prog: str,
    verbs: Mapping[str, Verb | str],
    groups: Mapping[str, Mapping[str, Verb]],
    others: Mapping[str, Sequence[str]],
    shell: Literal["bash", "zsh"],
) -> str:
    """A shell's function that completes verbs, their options, and files.

    Args:
        prog: the program.
        verbs: its verbs by name.
        groups: verbs that have verbs of their own, and those.
        others: options of verbs that are no functions.
        shell: what reads it; zsh reads what bash does.
    """
    words = {"": [*verbs, "--help", "--version"]} | {name: list(options) for name, options in others.items()}
    words |= {name: [*inner, "--help"] for name, inner in groups.items()}
    parsers = {name: verb.parser(prog) for name, verb in verbs.items() if isinstance(verb, Verb)}
    parsers |= {f"{group} {name}": verb.parser(prog) for group, inner in groups.items() for name, verb in inner.items()}
    for name, parser in parsers.items():
        words[name] = sorted(option for option in parser._option_string_actions if option.startswith("--"))
    cases = "\n".join(f'    "{name}") words="{" ".join(found)}" ;;' for name, found in words.items())
    # Of zsh's own completion nothing is loaded where the user's .zshrc does not ask for it.
    own = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }"
    return f"""{f"{own}; autoload -Uz bashcompinit && bashcompinit" if shell == "zsh" else ""}
_{prog}_complete() {{
  local words="" current="${{COMP_WORDS[COMP_CWORD]}}" first="" second=""
  ((COMP_CWORD > 1)) && first="${{COMP_WORDS[1]}}"
  case " {" ".join(groups)} " in *" $first "*) ((COMP_CWORD > 2)) && second=" ${{COMP_WORDS[2]}}" ;; esac
  case "$first$second" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _{prog}_complete {prog}""".lstrip()


def plain_text(text: str) -> str:
    """A docstring's text without its markup."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return " ".join(text.replace("``", "").split())


def _hints(function: Any) -> dict[str, Any]:
    """The types of a function's parameters."""
    return {name: hint for name, hint in get_type_hints(inspect.unwrap(function)).items() if name != "return"}


def _element(hint: Any) -> Any:
    """The type of a list's elements; None where ``hint`` is no list."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next((part for part in get_args(hint) if _element(part) is not None), None)
    if get_origin(hint) in (list, collections.abc.Sequence):
        element = get_args(hint)[0]
        # Words of a shell: of a name or a path the name.
        return str if get_origin(element) in (Union, types.UnionType) else element
    return None


def _words(hint: Any) -> str:
    """What a value of a type is called."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return ", or ".join(_words(part) for part in get_args(hint))
    named = {int: "a whole number", float: "a number", type(None): "null", bool: "true or false"}
    return named.get(hint, getattr(hint, "__name__", str(hint)))
