"""Episodes as a LeRobot v3 dataset: parquet for numbers, mp4 (or lossless PNG) for frames.

A row has no place for the frame after it: the last frame of each episode, which its last action led to, is left out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moto_pl.datasets.formats.lerobot import DATA, VIDEO
from moto_pl.datasets.formats.parquet import pyarrow
from moto_pl.datasets.formats.video import pyav
from moto_pl.datasets.own_actions import OwnActions
from moto_pl.envs.observation import Observation, unstacked
from moto_pl.replay.episode import Episode

CAMERA, STATE = "observation.image", "observation.state"
"""One camera, and one vector. Of several each has its own: ``observation.images.NAME``, ``observation.NAME``."""
DATA_MB, VIDEO_MB, FILES_PER_CHUNK = 100, 200, 1000
"""Sizes from which a new file is begun, and files in a folder: lerobot's own."""
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
CRF, PIXELS = "18", "yuv444p"
"""Quality of the frames: x264's constant rate factor; colour at full resolution, whose half costs 64x64 frames 8 dB."""


def write_lerobot(
    root: Path,
    episodes: Iterable[Episode],
    fps: int,
    task: str,
    lossless: bool,
    observation: Observation | None = None,
    actions: OwnActions | None = None,
) -> int:
    """Writes a dataset into an empty directory; returns the number of episodes.

    Args:
        root: the directory.
        episodes: taken one at a time, of one image and one action size.
        fps: steps a second.
        task: what is done in them, in words.
        lossless: frames as PNG in the parquet files rather than as video.
        observation: what the episodes' images and vectors are called; None: the image alone.
        actions: what is written in place of their actions; None: themselves.
    """
    writer = _Writer(root, fps, task, lossless, observation or Observation())
    try:
        for episode in episodes:
            writer.add(episode, episode.action if actions is None else actions.of(episode))
    finally:
        writer.close_files()
    writer.write_metadata()
    return len(writer.episodes)


class _Writer:
    """The files of a dataset that is being written."""

    def __init__(self, root: Path, fps: int, task: str, lossless: bool, observation: Observation) -> None:
        self.root, self.fps, self.task, self.lossless, self.observation = root, fps, task, lossless, observation
        self.arrow = pyarrow()
        self.episodes: list[dict[str, Any]] = []
        self.frames = 0
        self.shape: tuple[int, ...] = ()
        #: Columns of one vector a row, and their sizes.
        self.vectors: dict[str, int] = {}
        names = observation.cameras
        self.cameras = [CAMERA] if len(names) == 1 else [f"observation.images.{name}" for name in names]
        self._table: Any = None
        self._table_path = root
        self._data_file = -1
        self._videos: dict[str, _Video] = {}
        self._video_files = dict.fromkeys(self.cameras, -1)
        self._numbers: dict[str, list[np.ndarray]] = {}
        self._histograms = {name: np.zeros((3, 256), np.int64) for name in self.cameras}

    def add(self, episode: Episode, action: np.ndarray) -> None:
        """One episode's rows and frames."""
        parts = map(np.ascontiguousarray, unstacked(episode.image[:-1], len(self.cameras)))
        images = dict(zip(self.cameras, parts, strict=True))
        self.shape = (*episode.image.shape[1:3], 3)
        for name, image in images.items():
            for channel in range(3):
                self._histograms[name][channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)
        number = len(self.episodes)
        entry: dict[str, Any] = {"episode_index": number, "tasks": [self.task], "length": episode.length}
        entry |= self._add_rows(episode, action, images, number)
        entry |= {"dataset_from_index": self.frames, "dataset_to_index": self.frames + episode.length}
        if not self.lossless:
            for name, image in images.items():
                entry |= self._add_frames(name, image)
        entry |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        self.episodes.append(entry)
        self.frames += episode.length

    def close_files(self) -> None:
        """Ends the files that are open."""
        if self._table is not None:
            self._table.close()
        for video in self._videos.values():
            video.close()
        self._table, self._videos = None, {}

    def write_metadata(self) -> None:
        """What says where everything is."""
        pa, meta = self.arrow, self.root / "meta"
        (meta / "episodes/chunk-000").mkdir(parents=True)
        pa.parquet.write_table(pa.Table.from_pylist(self.episodes), meta / "episodes/chunk-000/file-000.parquet")
        pa.parquet.write_table(self._tasks(), meta / "tasks.parquet")
        stats = {name: _statistics(np.concatenate(arrays)) for name, arrays in self._numbers.items()}
        stats |= {name: _image_statistics(histogram) for name, histogram in self._histograms.items()}
        (meta / "stats.json").write_text(json.dumps(stats, indent=4))
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4))

    def _add_rows(
        self, episode: Episode, action: np.ndarray, images: dict[str, np.ndarray], number: int
    ) -> dict[str, int]:
        pa = self.arrow
        vectors = {"action": action, **self._state(episode)}
        self.vectors = {name: array.shape[1] for name, array in vectors.items()}
        numbers = self._scalars(episode, number)
        for name, array in (vectors | numbers).items():
            self._numbers.setdefault(name, []).append(np.asarray(array))
        columns = {name: pa.array(array) for name, array in numbers.items()}
        for name, array in vectors.items():
            flat = pa.array(np.ascontiguousarray(array).reshape(-1))
            # lerobot takes a shape of [1] for a number, and any other for a list.
            columns[name] = flat if array.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
        if self.lossless:
            kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            for name, image in images.items():
                pngs = [{"bytes": _png(frame), "path": f"frame-{i:06d}.png"} for i, frame in enumerate(image)]
                columns[name] = pa.array(pngs, kind)
        table = pa.table(columns)
        if self._table is None or self._table_path.stat().st_size >= DATA_MB << 20:
            if self._table is not None:
                self._table.close()
            self._data_file += 1
            self._table_path = self._path(DATA, self._data_file)
            self._table = pa.parquet.ParquetWriter(self._table_path, table.schema, compression="snappy")
        self._table.write_table(table)  # a row group an episode, as lerobot's own writer does
        return {"data/chunk_index": _chunk(self._data_file), "data/file_index": self._data_file % FILES_PER_CHUNK}

    def _state(self, episode: Episode) -> dict[str, np.ndarray]:
        """What was seen beside each frame but the last, by its column."""
        found = self.observation.vectors(episode.vector)
        names = [STATE] if len(found) == 1 else [f"observation.{name}" for name in found]
        return {name: vector[:-1] for name, vector in zip(names, found.values(), strict=True)}

    def _scalars(self, episode: Episode, number: int) -> dict[str, np.ndarray]:
        """One number a row, by its column."""
        steps = np.arange(episode.length)
        return {
            "next.reward": episode.reward,
            "next.done": steps == episode.length - 1,
            "next.success": episode.success,
            "timestamp": (steps / self.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(episode.length, number),
            "index": self.frames + steps,
            "task_index": np.zeros(episode.length, np.int64),
        }

    def _add_frames(self, camera: str, image: np.ndarray) -> dict[str, Any]:
        video = self._videos.get(camera)
        if video is None or video.bytes >= VIDEO_MB << 20:
            if video is not None:
                video.close()
            self._video_files[camera] += 1
            path = self._path(VIDEO, self._video_files[camera], camera)
            video = self._videos[camera] = _Video(path, image.shape[1:3], self.fps)
        start = video.count
        video.add(image)
        return {
            f"videos/{camera}/chunk_index": _chunk(self._video_files[camera]),
            f"videos/{camera}/file_index": self._video_files[camera] % FILES_PER_CHUNK,
            f"videos/{camera}/from_timestamp": start / self.fps,
            f"videos/{camera}/to_timestamp": video.count / self.fps,
        }

    def _path(self, template: str, number: int, camera: str = "") -> Path:
        place = {"chunk_index": _chunk(number), "file_index": number % FILES_PER_CHUNK, "video_key": camera}
        path = self.root / template.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _tasks(self) -> Any:
        """The tasks' numbers, with their texts as the index that pandas makes of them."""
        pa = self.arrow
        table = pa.table({"task_index": pa.array([0]), "task": pa.array([self.task])})
        kinds = (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        columns = [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in kinds
        ]
        index = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
        return table.replace_schema_metadata({"pandas": json.dumps(index)})

    def _info(self) -> dict[str, Any]:
        names = ["height", "width", "channels"]
        camera: dict[str, Any] = {"dtype": "image", "shape": list(self.shape), "names": names}
        if not self.lossless:
            video: dict[str, Any] = {"height": self.shape[0], "width": self.shape[1], "channels": 3, "fps": self.fps}
            video |= {"codec": "h264", "pix_fmt": PIXELS, "is_depth_map": False, "has_audio": False}
            camera |= {"dtype": "video", "info": {f"video.{name}": value for name, value in video.items()}}
        one: dict[str, Any] = {"shape": [1], "names": None}
        types = {"next.reward": "float32", "next.done": "bool", "next.success": "bool", "timestamp": "float32"}
        types |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
        features = dict.fromkeys(self.cameras, camera)
        features |= {n: {"dtype": "float32", "shape": [size], "names": None} for n, size in self.vectors.items()}
        features |= {name: {"dtype": dtype, **one} for name, dtype in types.items()}
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self.episodes),
            "total_frames": self.frames,
            "total_tasks": 1,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": DATA,
            "video_path": None if self.lossless else VIDEO,
            "features": features,
        }


class _Video:
    """An mp4 that frames are added to, from one episode after another."""

    def __init__(self, path: Path, shape: tuple[int, ...], fps: int) -> None:
        self.path, self.count = path, 0
        self._av = pyav()
        self._container = self._av.open(str(path), "w")
        # Short groups of pictures: learners read frames here and there.
        self._stream = self._container.add_stream("libx264", rate=fps, options={"g": "2", "crf": CRF})
        self._stream.height, self._stream.width = shape
        self._stream.pix_fmt = PIXELS
        self._stream.thread_count = 1

    @property
    def bytes(self) -> int:
        """Written so far; the encoder begins the file when it has seen some frames."""
        return self.path.stat().st_size if self.path.exists() else 0

    def add(self, image: np.ndarray) -> None:
        """Frames uint8 [T, H, W, 3]."""
        for frame in image:
            self._container.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(frame, format="rgb24")))
        self.count += len(image)

    def close(self) -> None:
        """Ends the file."""
        self._container.mux(self._stream.encode())
        self._container.close()


def _chunk(file: int) -> int:
    return file // FILES_PER_CHUNK


def _png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def _statistics(array: np.ndarray) -> dict[str, list[float]]:
    """Of a column, [rows] or [rows, D]: for each dimension, what learners normalise by."""
    rows = array.reshape(len(array), -1).astype(np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
    return {name: values.tolist() for name, values in found.items()} | {"count": [len(rows)]}


def _image_statistics(histogram: np.ndarray) -> dict[str, Any]:
    """The same of pixels in [0, 1], for each channel: [3, 1, 1]; of how often each of 256 values was there."""
    values = np.arange(256) / 255
    count = histogram.sum(axis=1)
    mean = (histogram * values).sum(axis=1) / count
    found = {
        "min": values[(histogram > 0).argmax(axis=1)],
        "max": values[255 - (histogram[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt((histogram * (values - mean[:, None]) ** 2).sum(axis=1) / count),
    }
    share = histogram.cumsum(axis=1) / count[:, None]
    found |= {name: values[(share >= least).argmax(axis=1)] for name, least in QUANTILES.items()}
    return {name: row.reshape(3, 1, 1).tolist() for name, row in found.items()} | {"count": [int(count[0])]}
