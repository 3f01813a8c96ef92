"""Verbs from signatures: what is shown, what is taken, and what is said of mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from moto_pl.errors import SettingError
from moto_pl.verbs import Verb, VerbParser, choose


def carry(
    things: Sequence[str],
    *,
    to: Path,
    kind: Literal["box", "bag"] = "box",
    large_ones: bool = False,
    beside: list[Path] | None = None,
    count: int = 3,
    share: float | None = None,
) -> int:
    """Carry ``things`` somewhere.

    Args:
        things: what is carried, see :func:`moto_pl.errors.SettingError`.
        to: where 50% of it goes.
        kind: what they lie in.
        large_ones: take the large ones too.
        beside: what comes along.
        count: how often.
        share: how much of each.
    """
    SEEN.append((things, to, kind, large_ones, beside, count, share))
    return 7


SEEN: list[tuple[Any, ...]] = []


def test_arguments_reach_the_function() -> None:
    args = [
        "a",
        "b",
        "--to",
        "x",
        "--kind=bag",
        "--large-ones",
        "--beside",
        "y",
        "z",
        "--count",
        "5",
        "--share",
        "1e-1",
    ]
    assert Verb(carry)(args, "moto carry") == 7
    assert SEEN.pop() == (["a", "b"], Path("x"), "bag", True, [Path("y"), Path("z")], 5, 0.1)
    Verb(carry)(["a", "--to=x"], "moto carry")
    assert SEEN.pop() == (["a"], Path("x"), "box", False, None, 3, None)


def test_both_spellings_and_values_with_hyphens() -> None:
    for spelling in ("--large-ones", "--large_ones"):
        assert Verb(carry).parser("moto").read(["a-b", "--to", "c-d", spelling])["large_ones"] is True
    read = Verb(carry).parser("moto").read(["a-b", "--to=c-d"])
    assert read["things"] == ["a-b"] and read["to"] == Path("c-d")


def test_help_is_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        Verb(carry)(["--help"], "moto carry")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: moto carry") and "Carry things somewhere." in text
    for part in (
        "see SettingError",
        "where 50% of it goes",
        "{box,bag}",
        "default: 3",
        "how much of each",
        "--large_ones",
    ):
        assert part in text, part
    assert "type: path)" in text and "type: float | null, default: null" in text and "<class" not in text
    assert "large_ones LARGE" not in text  # a flag takes no value


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "things: found nothing"),
        (["a"], "--to: found nothing"),
        (["a", "--to", "x", "--count", "many"], "--count: found 'many'. Give a whole number"),
        (["a", "--to", "x", "--kind", "tin"], "--kind: found 'tin'. Give box or bag"),
        (["a", "--to", "x", "--share", "much"], "--share: found 'much'. Give a number, or null"),
        (["a", "--to", "x", "--cont", "1"], "--cont: found an unknown option. Did you mean --count"),
        (["a", "--to", "x", "--zzz=1"], "--zzz: found an unknown option. moto carry has --to, --kind"),
        (["a", "--to"], "--to: found nothing"),
    ],
)
def test_a_mistake_is_one_line(args: list[str], said: str) -> None:
    with pytest.raises(SettingError) as error:
        Verb(carry)(args, "moto carry")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_verb_without_options() -> None:
    def rest() -> int:
        """Rest."""
        return 3

    assert Verb(rest)([], "moto rest") == 3
    for args, said in ((["--x"], "moto rest has no options"), (["x"], "x: found one argument too many")):
        with pytest.raises(SettingError, match=said):
            Verb(rest)(args, "moto rest")


def test_no_abbreviations() -> None:
    with pytest.raises(SettingError, match="--coun: found an unknown option"):
        Verb(carry)(["a", "--to", "x", "--coun", "2"], "moto carry")


def test_a_positional_with_a_default() -> None:
    def go(where: Literal["home", "away"] | None = None, count: int = 1) -> int:
        """Go."""
        return [None, "home", "away"].index(where) * 10 + count

    verb = Verb(go, positional=("where",))
    assert [verb(args, "go") for args in ([], ["away"], ["home", "--count", "2"])] == [1, 21, 12]
    with pytest.raises(SettingError, match="where: found 'abroad'. Give home or away"):
        verb(["abroad"], "go")


def test_signatures_of_two_are_merged() -> None:
    class Thing:
        """A thing.

        Args:
            count: hidden by the function's.
            colour: of the thing.
            fixed: not asked for.
        """

        def __init__(self, count: int = 1, colour: str = "red", fixed: int = 0) -> None:
            pass

    parser = VerbParser("moto", "")
    parser.add_signature(carry)
    assert parser.add_signature(Thing, skip=("fixed",)) == ["colour"]
    assert parser.get_default("count") == 3
    assert parser.read(["a", "--to", "x", "--colour", "blue"])["colour"] == "blue"


def test_choosing(capsys: pytest.CaptureFixture[str]) -> None:
    verbs: dict[str, Verb | str] = {"carry": Verb(carry), "fit": "Trains."}
    assert choose(verbs, ["fit", "--x"], "moto", "") == ("fit", ["--x"])
    with pytest.raises(SystemExit) as stop:
        choose(verbs, ["--help"], "moto", "What it is.")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "What it is." in text and "carry  Carry things somewhere." in text and "fit    Trains." in text
    for args, said in (([], "no verb"), (["cary"], "Did you mean carry"), (["x"], "carry, fit")):
        with pytest.raises(SettingError, match=said):
            choose(verbs, args, "moto", "")
