"""LeRobot datasets, v2.1 (a parquet file and an mp4 an episode) and v3 (many episodes in each file).

Row t holds what was seen at step t, the action taken then, and the reward that came of it (``next.reward``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moto_pl.datasets.formats import video
from moto_pl.datasets.formats.parquet import ParquetFile
from moto_pl.datasets.formats.recorded import MAX_PIXELS, MAX_STEPS, Camera, Damaged, Recorded, Source, damaged, reading
from moto_pl.errors import SettingError
from moto_pl.reading import parse_json, read_bytes, read_json

INFO = Path("meta/info.json")
MAX_META = 1 << 26
MAX_EPISODES = 1_000_000
MAX_WIDTH = 1 << 20
"""Numbers that one row of a column may hold."""
SUCCESS, REWARD = "next.success", "next.reward"
#: What a path may be put together from; a template of others' is not formatted unseen.
TEMPLATE = re.compile(
    r"(?:[\w./-]|\{video_key\}|\{(?:episode_chunk|episode_index|chunk_index|file_index)(?::0?\d)?d?\})+"
)
_NAMES = {2: {"episode_chunk", "episode_index"}, 3: {"chunk_index", "file_index"}}
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_DEFAULTS = {
    2: (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    3: (DATA, VIDEO),
}


@dataclass(frozen=True)
class Feature:
    """What ``meta/info.json`` says of a column: its type, the shape of a row (height, width of a frame), depth maps."""

    dtype: str
    shape: tuple[int, ...]
    depth: bool = False


@dataclass(frozen=True)
class Place:
    """Where an episode lies.

    Attributes:
        number: its own, by which its rows are marked.
        length: rows.
        data: values of the parquet file's path.
        row: the first of its rows in the file; None: all the file's rows are the episode's.
        videos: by camera, values of the mp4's path, and seconds at which the episode begins in it.
    """

    number: int
    length: int
    data: dict[str, int]
    row: int | None = None
    videos: dict[str, tuple[dict[str, int], float]] = field(default_factory=dict)


class LeRobot(Source):
    """A LeRobot dataset in a local folder; see :class:`~moto_pl.datasets.formats.recorded.Source`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        info = self._info()
        self.major = int(re.sub(r"\D*(\d).*", r"\1", info["codebase_version"]))
        self.fps = self._rate = float(info["fps"])
        self.features = {name: self._feature(name, found) for name, found in info["features"].items()}
        data, video = _DEFAULTS[self.major]
        self._data_path = self._template(info.get("data_path") or data, _NAMES[self.major])
        self._video_path = self._template(info.get("video_path") or video, {*_NAMES[self.major], "video_key"})
        self._chunk = max(1, info.get("chunks_size", 1000))
        frames = ("video", "image")
        self.cameras = tuple(n for n, found in self.features.items() if found.dtype in frames and not found.depth)
        self.vectors = tuple(name for name, found in self.features.items() if _is_vector(name, found))
        skipped = ("timestamp", "frame_index", "episode_index", "index", "task_index", "action")
        numeric = ("float32", "float64", "bool", "int64", "int32", "uint8")
        self.columns = tuple(
            name
            for name, found in self.features.items()
            if name not in skipped and found.dtype in numeric and found.shape in ((1,), ())
        )
        self.reward = REWARD if REWARD in self.columns else None
        if "action" not in self.features or len(self.features["action"].shape) != 1:
            found = f"no flat action among the features of {root / INFO}"
            raise SettingError("source", found, "Use a dataset with a column named action.")
        self._places = list(self._episodes() if self.major == 2 else self._packed_episodes())
        if not self._places:
            raise SettingError("source", f"no episodes in {root}", "Use a dataset with at least one.")
        self._files: dict[Path, ParquetFile] = {}

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> Recorded:
        """One episode."""
        place = self._places[index]
        file = self._parquet(place)
        rows = range(len(file)) if place.row is None else range(place.row, place.row + place.length)
        if len(rows) != place.length or rows.stop > len(file):
            raise Damaged(
                f"{file.path}: {len(file)} rows, and episode {place.number} has {place.length} by the metadata"
            )
        own = file.numbers("episode_index", rows)
        if (own != place.number).any():
            other = own[own != place.number][0]
            raise Damaged(f"{file.path}: a row of episode {other} where episode {place.number} should be")
        columns = {name: file.numbers(name, rows, 1)[:, 0].astype(np.float32) for name in self.columns}
        return Recorded(
            place=f"episode {place.number} of {self.root}",
            cameras={name: self._camera(name, place, file, rows) for name in self.cameras},
            vectors={name: self._vector(file, name, rows) for name in self.vectors},
            action=self._vector(file, "action", rows).astype(np.float32),
            columns=columns,
            success=columns[SUCCESS] > 0 if SUCCESS in columns else None,
            info={"source": f"{self.root.name}/{place.number}"},
        )

    def _vector(self, file: ParquetFile, name: str, rows: range) -> np.ndarray:
        found = file.numbers(name, rows, self.features[name].shape[0])
        if found.dtype.kind != "f":
            raise SettingError("source", f"{found.dtype} in column {name} of {file.path}", "Expected float numbers.")
        return found

    def _camera(self, name: str, place: Place, file: ParquetFile, rows: range) -> Camera:
        shape = self.features[name].shape
        if self.features[name].dtype == "image":
            return Camera(place.length, lambda: file.images(name, rows))
        values, start = place.videos.get(name, (place.data, 0.0))

        def frames() -> Iterator[np.ndarray]:
            path = self._inside(self._video_path.format(video_key=name, **values))
            times = start + np.arange(place.length) / self._rate
            if "timestamp" in self.features:
                times = start + file.numbers("timestamp", rows, 1)[:, 0].astype(np.float64)
            return video.frames(path, times, self._rate, (shape[0], shape[1]))

        return Camera(place.length, frames)

    def _parquet(self, place: Place) -> ParquetFile:
        path = self._inside(self._data_path.format(**place.data))
        if path not in self._files:
            self._files = {path: ParquetFile(path)}  # episodes follow each other: one file at a time
        return self._files[path]

    def _inside(self, relative: str) -> Path:
        """A file of the dataset, also where the hub's cache keeps it beside the folder; no link leads elsewhere."""
        # A name that no file can have, or a link to itself.
        with reading(self.root, (OSError, ValueError, RuntimeError), relative[:80]):
            path, root = (self.root / relative).resolve(), self.root.resolve()
            there = path.is_file()
        home = root.parent.parent if root.parent.name == "snapshots" else root
        if not path.is_relative_to(home):
            raise SettingError(
                "source", f"{relative} of {self.root}, which leads elsewhere", "Copy the files themselves."
            )
        if not there:
            raise Damaged(f"{self.root}, in which {relative} is missing")
        return path

    def _info(self) -> dict[str, Any]:
        path = self.root / INFO
        shape = {
            "codebase_version": str,
            "fps": int | float,
            "features": dict,
            "chunks_size?": int,
            "data_path?": str | None,
            "video_path?": str | None,
        }
        with reading(path, (OSError, ValueError)):
            info = read_json(path, shape, MAX_META)
            if not all(isinstance(found, dict) for found in info["features"].values()):
                raise ValueError("a feature without a dtype")
        version = info["codebase_version"]
        if not re.fullmatch(r"v?(2\.[01]|3\.\d+)(\.\d+)?", version):
            found = f"{path}: version {version[:20]!r}"
            raise SettingError(
                "source", found, "Versions 2.0, 2.1 and 3 are read: convert it with lerobot's own script."
            )
        if not 0 < info["fps"] < 1e6:
            raise SettingError("source", f"{path}: {info['fps']} frames a second", "Expected a number above 0.")
        return dict(info)

    def _feature(self, name: str, found: dict[str, Any]) -> Feature:
        dtype, shape = found.get("dtype"), found.get("shape")
        whole = isinstance(shape, list) and all(type(size) is int and 0 < size < 1 << 31 for size in shape)
        if not isinstance(dtype, str) or not whole or not isinstance(shape, list):
            raise damaged(self.root / INFO, "no dtype and shape", f"feature {name[:80]}")
        if dtype in ("video", "image"):
            # Older writers put the channels first, and say so in the names.
            shape = shape[1:] if shape and shape[0] in (1, 3) and shape[-1] not in (1, 3) else shape[:2]
            if len(shape) != 2 or shape[0] * shape[1] > MAX_PIXELS:
                raise damaged(self.root / INFO, f"frames of {found['shape']}", f"feature {name[:80]}")
        elif math.prod(shape) > MAX_WIDTH:
            raise damaged(self.root / INFO, f"rows of {math.prod(shape):,} numbers", f"feature {name[:80]}")
        said = found.get("info")
        said = said if isinstance(said, dict) else {}
        return Feature(dtype, tuple(shape), bool(said.get("is_depth_map") or said.get("video.is_depth_map")))

    def _template(self, text: str, names: set[str]) -> str:
        used = set(re.findall(r"{(\w+)", text))
        if not TEMPLATE.fullmatch(text) or ".." in text or text.startswith("/") or not used <= names:
            raise damaged(self.root / INFO, f"a path {text[:80]!r}")
        return text

    def _episodes(self) -> Iterator[Place]:
        """Of v2.1: a line an episode."""
        path = self.root / "meta/episodes.jsonl"
        with reading(path, (OSError, ValueError)):
            for line in read_bytes(path, MAX_META).splitlines():
                found = parse_json(line, {"episode_index": int, "length": int})
                index = found["episode_index"]
                if not 0 <= index < MAX_EPISODES or not 1 <= found["length"] <= MAX_STEPS:
                    raise ValueError(f"episode {index} of length {found['length']}")
                yield Place(index, found["length"], {"episode_chunk": index // self._chunk, "episode_index": index})

    def _packed_episodes(self) -> Iterator[Place]:
        """Of v3: rows of parquet files that say where each episode lies."""
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise Damaged(f"{self.root}, in which meta/episodes is missing")
        firsts: dict[tuple[int, int], int] = {}
        for path in files:
            file = ParquetFile(self._inside(str(path.relative_to(self.root))))
            rows = range(len(file))
            if len(rows) > MAX_EPISODES:
                raise SettingError("source", f"{len(rows):,} episodes in {path}", f"Expected {MAX_EPISODES:,} at most.")
            videos = [name for name in self.cameras if self.features[name].dtype == "video"]
            names = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
            names += [
                f"videos/{name}/{key}" for name in videos for key in ("chunk_index", "file_index", "from_timestamp")
            ]
            table = {name: file.numbers(name, rows) for name in names}
            for name, values in table.items():
                if not np.isfinite(values).all():
                    raise damaged(path, f"{values[~np.isfinite(values)][0]}", f"column {name}")
            for row in rows:
                at = {name: values[row].item() for name, values in table.items()}
                if not 1 <= at["length"] <= MAX_STEPS or at["dataset_from_index"] < 0:
                    raise damaged(path, f"episode {at['episode_index']} of length {at['length']}")
                where = int(at["data/chunk_index"]), int(at["data/file_index"])
                # Rows of a file follow each other in the order of the dataset's.
                first = firsts.setdefault(where, int(at["dataset_from_index"]))
                yield Place(
                    number=int(at["episode_index"]),
                    length=int(at["length"]),
                    data={"chunk_index": where[0], "file_index": where[1]},
                    row=int(at["dataset_from_index"]) - first,
                    videos={
                        name: (
                            {key: int(at[f"videos/{name}/{key}"]) for key in ("chunk_index", "file_index")},
                            float(at[f"videos/{name}/from_timestamp"]),
                        )
                        for name in videos
                    },
                )


def _is_vector(name: str, found: Feature) -> bool:
    """Whether a column holds a flat vector; a single number is one where it was observed, and else a column."""
    if found.dtype not in ("float32", "float64") or len(found.shape) != 1 or name in ("timestamp", "action"):
        return False
    return found.shape != (1,) or name.startswith("observation.")


def recognises(path: Path) -> bool:
    """Whether a path is a folder of LeRobot's."""
    return (path / INFO).is_file()
