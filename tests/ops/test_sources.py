"""The plan of csrc/: one operator, one name, in every folder."""

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())
#: Files of a device's folder that hold no kernel of the other: what only one of them has.
ONE_DEVICE = {"cpu": {"tables", "conv", "pixels"}, "cuda": {"scan", "philox"}}


def names(folder: str, *suffixes: str) -> set[str]:
    return {path.stem for path in SOURCES if folder in path.parts and path.suffix in suffixes}


def test_no_two_headers_of_one_name() -> None:
    headers = Counter(path.name for path in SOURCES if path.suffix in (".h", ".cuh"))
    assert headers and max(headers.values()) == 1, [name for name, count in headers.items() if count > 1]


def test_an_operator_has_one_name() -> None:
    operators = names("ops", ".cpp")
    assert operators and operators <= {path.stem for path in (ROOT / "moto_pl/ops").glob("*.py")}


def test_kernels_have_one_name_on_both_devices() -> None:
    cpu, cuda = names("cpu", ".cpp"), names("cuda", ".cu")
    assert ONE_DEVICE["cpu"] <= cpu and ONE_DEVICE["cuda"] <= cuda
    assert cpu - ONE_DEVICE["cpu"] == cuda - ONE_DEVICE["cuda"]


@pytest.mark.parametrize("folder", ["kernels", "cuda"])
def test_no_torch_below_the_operators(folder: str) -> None:
    """So that every kernel compiles where there is no torch; a device's header is the seam."""
    for path in SOURCES:
        if folder in path.parts and path.name != "cuda_device.h":
            assert not [x for x in ("<torch/", "<ATen/", "<c10/", '"ops/') if f"#include {x}" in path.read_text()], path


def test_files_are_short() -> None:
    long = {path.name: lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > 500}
    assert not long
