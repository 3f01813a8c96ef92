"""Which warnings of dependencies are kept from a user, and which are not."""

from __future__ import annotations

import gc
import inspect
import re
import sys
import warnings
from pathlib import Path

import pytest
from lightning.pytorch.trainer.connectors.logger_connector import result

from moto_pl.training.launch import kept, quiet


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("eval/return", False),
        ("speed/data_wait", False),
        ("updates/s", False),
        ("mine", True),
        ("my/eval/return", True),
    ],
)
def test_advice_on_sync_dist_is_for_what_a_user_logs(name: str, shown: bool) -> None:
    """Of our own figures each is the same in all processes, or the speed of the first."""
    advice = re.search(r'f"(It is recommended to use `self\.log\(.*?)"', inspect.getsource(result))
    assert advice is not None  # as Lightning words it now
    text = re.sub(r"\{.*?!r\}", repr(name), advice[1]) + " when logging on epoch level"
    assert f"self.log({name!r}, ..., sync_dist=True)" in text
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet()
        warnings.warn(text, stacklevel=1)
    assert bool(caught) == shown


def test_what_is_imported_is_not_looked_through_for_garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_once.py").write_text("import gc\nTHINGS, ENABLED = [[] for _ in range(5000)], gc.isenabled()")
    frozen = gc.get_freeze_count()
    try:
        with kept():
            import imported_once  # type: ignore[import-not-found]
        assert not imported_once.ENABLED and gc.isenabled()
        assert gc.get_freeze_count() >= frozen + 5000
        more = [[] for _ in range(5000)]  # type: ignore[var-annotated]
        now = gc.get_freeze_count()
        with kept():  # as in a notebook's second run: all there is is its own
            import imported_once
        assert gc.get_freeze_count() <= now and gc.isenabled() and any(x is more for x in gc.get_objects())
        gc.disable()
        with pytest.raises(ImportError), kept():
            import imported_never  # type: ignore[import-not-found]  # noqa: F401
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
        sys.modules.pop("imported_once", None)
