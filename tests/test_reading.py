"""Files of others, read within bounds; and our own, which are not written through what others left there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from moto_pl.errors import SettingError
from moto_pl.files import lock_run, open_to_add, write_whole
from moto_pl.reading import check, open_regular, parse_json, parse_yaml, read_bytes, read_json
from moto_pl.report.page import write_report


def test_links_are_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".a.tmp").symlink_to(victim)
    write_whole(run / "a", b"new")
    assert (run / "a").read_bytes() == b"new" and not (run / "a").is_symlink()
    (run / ".lock").symlink_to(victim)
    with pytest.raises(SettingError, match="link"):
        with lock_run(run):
            pass
    (run / "lines").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        open_to_add(run / "lines")
    assert victim.read_text() == "mine"


def test_pipes_devices_and_links_that_lead_out_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").write_text("{}")
    (tmp_path / "run/link").symlink_to("../outside")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError):
            open_regular(path)
    assert read_json(tmp_path / "run/link") == {}
    with pytest.raises(OSError, match="leads out"):
        open_regular(tmp_path / "run/link", tmp_path / "run")
    with pytest.raises(ValueError, match="more than 1 bytes"):
        read_bytes(tmp_path / "outside", 1)


def test_a_report_shows_nothing_of_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"very secret" * 10)
    run = tmp_path / "run"
    for name in ("videos", "analysis"):
        (run / name).mkdir(parents=True)
    (run / "config.yaml").write_text("seed_everything: 0\n")
    (run / "videos/eval_0000001.mp4").symlink_to(secret)
    (run / "videos/eval_0000002.mp4").write_bytes(b"film")
    os.mkfifo(run / "videos/eval_0000003.mp4")
    said = {"title": "t", "caption": "c", "date": "d"}
    (run / "analysis/a.json").write_text(json.dumps(said))
    (run / "analysis/a.png").symlink_to(secret)
    page = write_report(run).read_text()
    assert "dmVyeSBzZWNyZX" not in page and "ZmlsbQ==" in page
    assert "eval_0000001.mp4 is a link" in page and "analysis/a.json is not whole" in page


def laughs(depth: int) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, depth)]
    return "\n".join(lines)


def merges(depth: int) -> str:
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs(40), "more than"),
        ("a: &a [*a]", "itself"),
        ("[" * 3000, "YAML"),
        (merges(40), "large"),
        ("? {} : 1", "YAML"),
    ],
)
def test_documents_that_do_not_end(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_yaml(text)
    assert parse_yaml(laughs(2))["a1"] == [["x", "x"]] * 2


@pytest.mark.parametrize(
    ("value", "shape", "said"),
    [
        ({"a": 1}, {"a": str}, "a is int, not str"),
        ({"a": True}, {"a": int}, "a is bool"),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": list[int]}}, r"a.b\[1\] is str"),
        ({}, {"a": int}, "has no a"),
        ([], {"a": int}, "not an object"),
        ({"a": 2**63}, {"a": int}, "64 bits"),
        ({"a": None}, {"a": int | str}, "a is nothing"),
        ({"a": {1: 2}}, {"a": dict[str, int]}, "a key that is int"),
    ],
)
def test_what_has_another_shape(value: Any, shape: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(value, shape)


def test_what_has_the_shape() -> None:
    check({"a": [1], "more": 3}, {"a": list[int], "b?": int})
    check({"a": None, "b": True}, {"a": int | None, "b": bool})
    assert parse_json("[1, 2.5, null]", list[Any]) == [1, 2.5, None]
    with pytest.raises(ValueError, match="deep"):
        parse_json("[" * 10**5 + "]" * 10**5)
