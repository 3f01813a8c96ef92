"""Which warnings of dependencies are kept from a user, and which are not."""

from __future__ import annotations

import inspect
import re
import warnings

import pytest
from lightning.pytorch.trainer.connectors.logger_connector import result

from moto_pl.training.launch import quiet


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
