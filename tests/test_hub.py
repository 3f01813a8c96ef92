"""The hub: a folder that stands in for it, and the library itself without a network."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from moto_pl import hub
from moto_pl.errors import SettingError
from moto_pl.hub import FOLDER, WEIGHTS, fetch
from moto_pl.training.initial import read_initial
from runs import environment
from small_agents import make, save


@pytest.fixture()
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the hub, with one repository."""
    save(make("BC"), tmp_path / "hub/org/name" / WEIGHTS)
    monkeypatch.setenv(FOLDER, str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_weights_come_from_the_folder(shelf: Path) -> None:
    found = read_initial("hf://org/name")
    wanted = make("BC").state_dict()
    assert found.source == "hf://org/name" and found.tensors.keys() == wanted.keys()
    assert all(torch.equal(found.tensors[name], wanted[name]) for name in wanted)


def test_half_precision_is_single_again(shelf: Path) -> None:
    path = shelf / "org/name" / WEIGHTS
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {name: tensor.half() for name, tensor in content["state_dict"].items()}
    torch.save(content, path)
    assert {tensor.dtype for tensor in read_initial("hf://org/name").tensors.values()} == {torch.float32}


@pytest.mark.parametrize(
    "source",
    [
        *("hf://org", "hf://org/none", "hf://../org/name", "hf://org/..", "hf://org/name/more", "hf:///org/name"),
        *("hf://org/name@v1", "hf://", "s3://org/name"),
    ],
)
def test_what_is_not_there_is_one_line(source: str, shelf: Path) -> None:
    with pytest.raises(SettingError) as raised:
        read_initial(source)
    assert raised.value.setting == "--init" and "\n" not in str(raised.value)


def test_a_link_out_of_the_repository_is_not_followed(shelf: Path, tmp_path: Path) -> None:
    other = save(make("BC"), tmp_path / "elsewhere.ckpt")
    (shelf / "org/other/checkpoints").mkdir(parents=True)
    (shelf / "org/other" / WEIGHTS).symlink_to(other)
    with pytest.raises(SettingError, match="for which there is no file"):
        read_initial("hf://org/other")


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/moto_pl_was_unpickled"),))


def test_nothing_that_comes_from_it_runs(shelf: Path) -> None:
    mark = Path("/tmp/moto_pl_was_unpickled")
    mark.unlink(missing_ok=True)
    path = shelf / "org/name" / WEIGHTS
    with zipfile.ZipFile(path) as archive:
        names = {name: archive.read(name) for name in archive.namelist()}
    inner = next(name for name in names if name.endswith("data.pkl"))
    for content in (pickle.dumps(Evil()), pickle.dumps({"state_dict": {"a": Evil()}})):
        path.write_bytes(content)
        with pytest.raises(SettingError, match="--init: found "):
            read_initial("hf://org/name")
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in names.items():
                archive.writestr(name, content if name == inner else part)
        with pytest.raises(SettingError, match="--init: found "):
            read_initial("hf://org/name")
    assert not mark.exists()


def test_without_the_library_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SettingError, match=r"--init: found hf://org/name.*pip install 'moto_pl\[hub\]'"):
        fetch("hf://org/name", "--init")
    with pytest.raises(SettingError, match=r"name: found org/name.*pip install 'moto_pl\[hub\]'"):
        hub.push(Path("."), "org/name", private=False)


# The library itself, in a process of its own: it asks once whether it is offline, and where its cache is.


def offline(code: str, home: Path, **env: str) -> str:
    pytest.importorskip("huggingface_hub", reason="the hub is an extra: pip install 'moto_pl[hub]'")
    own = environment() | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | env
    own.pop(FOLDER, None)
    start = "from pathlib import Path\nfrom moto_pl.errors import SettingError\nfrom moto_pl import hub\n"
    start += "from moto_pl.training.initial import read_initial\n"
    done = subprocess.run([sys.executable, "-c", start + code], env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_librarys_cache_serves_without_a_network(tmp_path: Path) -> None:
    """What it has fetched once, laid out as it lays it out: a link into its blobs."""
    repository = tmp_path / "hub/models--org--name"
    blob = save(make("BC"), repository / "blobs" / "abc")
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit / WEIGHTS
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    code = "for source in ('hf://org/name', 'hf://org/name@{}'):\n    print(len(read_initial(source).tensors))"
    out = offline(code.format(commit), tmp_path)
    assert out.split() == [str(len(make("BC").state_dict()))] * 2


def test_without_a_network_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    code = "for act in (lambda: read_initial('hf://org/name'), lambda: hub.push(Path('files'), 'org/name', False)):\n"
    code += "    try: act()\n    except SettingError as error: print(error)"
    first, second = offline(code, tmp_path).splitlines()
    assert first.startswith("--init: found hf://org/name, which cannot be fetched (")
    assert second.startswith("name: found org/name, which cannot be pushed to (")


def test_what_the_library_is_asked_for_is_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its methods do not run, and their signatures are held against our calls."""
    library = pytest.importorskip("huggingface_hub", reason="the hub is an extra: pip install 'moto_pl[hub]'")
    monkeypatch.delenv(FOLDER, raising=False)
    asked: list[tuple[str, dict[str, Any]]] = []
    for name in ("create_repo", "upload_folder"):
        signature = inspect.signature(getattr(library.HfApi, name))

        def note(*args: Any, name: str = name, signature: inspect.Signature = signature, **options: Any) -> str:
            asked.append((name, dict(signature.bind(*args, **options).arguments)))
            return "there"

        monkeypatch.setattr(library.HfApi, name, note)
    assert hub.push(tmp_path, "org/name", private=True) == "there"
    (first, made), (second, sent) = asked
    assert (first, second) == ("create_repo", "upload_folder")
    assert made["repo_id"] == sent["repo_id"] == "org/name" and made["private"] is True and made["exist_ok"] is True
    assert sent["folder_path"] == str(tmp_path) and sent.get("repo_type") in (None, "model")
