"""Files of Minari datasets: what reading them may raise, and their metadata."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from moto_pl.errors import SettingError
from moto_pl.reading import read_json

# All that Minari, h5py, Pillow and json raise on a file that is cut short or damaged.
READ_ERRORS = (
    *(OSError, KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError),
    OverflowError,  # numpy's, of a space whose bounds its type cannot hold
)


def damaged(label: str, file: Path, error: BaseException, index: int | None = None) -> SettingError:
    """The error for a file of a dataset, or for episode ``index`` in it."""
    where = "" if index is None else f" at episode {index}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return SettingError(label, f"a damaged file {file}{where} ({reason})", "Copy or build the dataset again.")


#: Bytes of a dataset's metadata.
MAX_METADATA = 1 << 24


def read_metadata(path: Path) -> dict[str, Any]:
    """A dataset's metadata.json, with all that is needed to read it without making its environment."""
    try:
        metadata: dict[str, Any] = read_json(path, dict, MAX_METADATA)
    except FileNotFoundError as error:
        raise SettingError("dataset", f"no file {path}", "Copy or build the dataset again.") from error
    except (OSError, ValueError) as error:
        raise damaged("dataset", path, error) from error
    # Without its spaces Minari would create the environment that the file names: a dataset could run code.
    needed = {"observation_space": str, "action_space": str, "data_format": str, "total_episodes": int}
    wrong = [key for key, kind in needed.items() if not isinstance(metadata.get(key), kind)]
    if not wrong and metadata["total_episodes"] > sys.maxsize:  # more than len() can say
        wrong = ["total_episodes"]
    if wrong:
        fix = "Build it again, or write it with Minari 0.5 or newer."
        raise SettingError("dataset", f"a file {path} without a valid {', '.join(wrong)}", fix)
    return metadata
