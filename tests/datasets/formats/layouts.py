"""Files of other formats, laid out as published, written with pyarrow, av and h5py alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

FPS = 20
SHAPE = (48, 64)
ACTIONS, STATES = 3, 5


def frames(count: int, seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A disc that wanders over a slope of colour: uint8 [count, H, W, 3], each frame unlike the others."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.empty((count, *shape, 3), np.uint8)
    for number in range(count):
        x, y = (0.2 + 0.6 * number / max(1, count - 1)) * shape[1], (0.3 + 0.1 * seed % 0.5) * shape[0]
        inside = (columns - x) ** 2 + (rows - y) ** 2 < (shape[0] / 6) ** 2
        slope = np.stack([columns * 200 / shape[1], rows * 200 / shape[0], np.full(shape, 40 + 20 * (seed % 5))], -1)
        image[number] = np.where(inside[..., None], (230, 60, 60), slope)
    return image


def psnr(left: np.ndarray, right: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images, dB."""
    error = np.mean((left.astype(np.float64) - right) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def rows(length: int, seed: int) -> dict[str, np.ndarray]:
    """Actions, states and rewards of an episode."""
    rng = np.random.default_rng(seed)
    return {
        "action": rng.uniform(-1, 1, (length, ACTIONS)).astype(np.float32),
        "state": rng.standard_normal((length, STATES)).astype(np.float32),
        "reward": rng.standard_normal(length).astype(np.float32),
    }


def encode(path: Path, image: np.ndarray, fps: int = FPS, codec: str = "libx264") -> None:
    """An mp4 of frames, as lerobot's writer makes one: 4:2:0, short groups of pictures."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "2", "crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *image.shape[1:3], "yuv420p"
        for frame in image:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _info(version: str, lengths: list[int], cameras: list[str], dtype: str, **changes: Any) -> dict[str, Any]:
    features: dict[str, Any] = {name: {"dtype": dtype, "shape": [*SHAPE, 3], "names": None} for name in cameras}
    features["action"] = {"dtype": "float32", "shape": [ACTIONS], "names": None}
    features["observation.state"] = {"dtype": "float32", "shape": [STATES], "names": None}
    features["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    return {
        "codebase_version": version,
        "robot_type": "arm",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"},
        "features": features,
        **changes,
    }


def _table(numbers: list[int], lengths: list[int], cameras: list[str], embedded: bool) -> Any:
    import pyarrow as pa

    found = [rows(length, number) for number, length in zip(numbers, lengths, strict=True)]
    index = np.concatenate([np.arange(length) for length in lengths])
    columns: dict[str, Any] = {}
    if embedded:
        for camera, name in enumerate(cameras):
            images = [
                {"bytes": png(frame), "path": f"frame-{place:06d}.png"}
                for number, length in zip(numbers, lengths, strict=True)
                for place, frame in enumerate(frames(length, number + 10 * camera))
            ]
            columns[name] = pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    for name, key, width in (("action", "action", ACTIONS), ("observation.state", "state", STATES)):
        flat = np.concatenate([one[key] for one in found]).reshape(-1)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    columns["next.reward"] = pa.array(np.concatenate([one["reward"] for one in found]))
    columns["timestamp"] = pa.array((index / FPS).astype(np.float32))
    columns["frame_index"] = pa.array(index)
    columns["episode_index"] = pa.array(np.repeat(numbers, lengths))
    columns["index"] = pa.array(np.arange(len(index)))
    columns["task_index"] = pa.array(np.zeros(len(index), np.int64))
    return pa.table(columns)


def lerobot_v2(root: Path, lengths: list[int], cameras: list[str], embedded: bool = False, **changes: Any) -> Path:
    """LeRobot v2.1: a parquet file, and for each camera an mp4, an episode."""
    import pyarrow.parquet as pq

    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (root / "meta").mkdir(parents=True)
    info = _info(
        "v2.1", lengths, cameras, "image" if embedded else "video", data_path=data, video_path=video, **changes
    )
    (root / "meta/info.json").write_text(json.dumps(info))
    lines = [{"episode_index": n, "tasks": ["lift"], "length": length} for n, length in enumerate(lengths)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, length in enumerate(lengths):
        path = root / data.format(episode_chunk=0, episode_index=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_table([number], [length], cameras, embedded), path)
        for camera, name in enumerate([] if embedded else cameras):
            at = root / video.format(episode_chunk=0, episode_index=number, video_key=name)
            encode(at, frames(length, number + 10 * camera))
    return root


def lerobot_v3(root: Path, files: list[list[int]], cameras: list[str], embedded: bool = False, **changes: Any) -> Path:
    """LeRobot v3: each list of lengths is a parquet file and, for each camera, an mp4."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    lengths = [length for file in files for length in file]
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    info = _info(
        "v3.0", lengths, cameras, "image" if embedded else "video", data_path=data, video_path=video, **changes
    )
    (root / "meta/info.json").write_text(json.dumps(info))
    episodes: list[dict[str, Any]] = []
    start = 0
    for number, inside in enumerate(files):
        numbers = list(range(len(episodes), len(episodes) + len(inside)))
        path = root / data.format(chunk_index=0, file_index=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_table(numbers, inside, cameras, embedded), path, row_group_size=max(2, inside[0] - 1))
        for camera, name in enumerate([] if embedded else cameras):
            image = [frames(length, n + 10 * camera) for n, length in zip(numbers, inside, strict=True)]
            encode(root / video.format(chunk_index=0, file_index=number, video_key=name), np.concatenate(image))
        begin = 0
        for index, length in zip(numbers, inside, strict=True):
            episode: dict[str, Any] = {"episode_index": index, "tasks": ["lift"], "length": length}
            episode |= {"data/chunk_index": 0, "data/file_index": number}
            episode |= {"dataset_from_index": start, "dataset_to_index": start + length}
            for name in [] if embedded else cameras:
                episode |= {f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": number}
                episode |= {f"videos/{name}/from_timestamp": begin / FPS}
                episode |= {f"videos/{name}/to_timestamp": (begin + length) / FPS}
            episodes.append(episode)
            start, begin = start + length, begin + length
    pq.write_table(pa.Table.from_pylist(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    return root


def robomimic(
    path: Path, lengths: list[int], cameras: tuple[str, ...] = ("agentview_image",), after: bool = True
) -> Path:
    """robomimic's HDF5: ``data/demo_0``, with or without ``next_obs``."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(lengths)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": FPS}})
        for number, length in enumerate(lengths):
            found = rows(length, number)
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            demo["actions"] = found["action"].astype(np.float64)
            demo["rewards"] = found["reward"].astype(np.float64)
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
            seen = {name: frames(length + 1, number + 10 * camera) for camera, name in enumerate(cameras)}
            state = np.concatenate([found["state"], np.ones((1, STATES))]).astype(np.float64)
            for name, array in {**seen, "robot0_eef_pos": state}.items():
                demo[f"obs/{name}"] = array[:-1]
                if after:
                    demo[f"next_obs/{name}"] = array[1:]
    return path


def d4rl(path: Path, lengths: list[int], timeouts: bool = True, after: bool = False) -> Path:
    """D4RL's HDF5: all steps in one row; even episodes end in a terminal, odd ones in a timeout."""
    found = [rows(length, number) for number, length in enumerate(lengths)]
    shown = [frames(length + 1, number) for number, length in enumerate(lengths)]
    ends = np.cumsum(lengths) - 1
    terminals, cut = np.zeros(sum(lengths), bool), np.zeros(sum(lengths), bool)
    terminals[ends[::2]], cut[ends[1::2]] = True, True
    with h5py.File(path, "w") as file:
        file["observations/pixels"] = np.concatenate([image[:-1] for image in shown])
        file["observations/state"] = np.concatenate([one["state"] for one in found])
        if after:
            file["next_observations/pixels"] = np.concatenate([image[1:] for image in shown])
            state = [np.concatenate([one["state"][1:], np.full((1, STATES), 7, np.float32)]) for one in found]
            file["next_observations/state"] = np.concatenate(state)
        file["actions"] = np.concatenate([one["action"] for one in found])
        file["rewards"] = np.concatenate([one["reward"] for one in found])
        file["terminals"] = terminals
        if timeouts:
            file["timeouts"] = cut
    return path


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: dict[str, Any]) -> bytes:
    """A serialized tf.train.Example, by the published protocol-buffer definition."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            held = field(1, b"".join(field(1, value) for value in values))
        elif np.asarray(values).dtype.kind == "f":
            held = field(2, field(1, np.asarray(values, "<f4").tobytes()))
        else:
            held = field(3, field(1, b"".join(varint(int(value) & (1 << 64) - 1) for value in values)))
        entries += field(1, field(1, name.encode()) + field(2, held))
    return field(1, entries)


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def tfrecord(path: Path, records: list[bytes]) -> Path:
    def masked(data: bytes) -> bytes:
        crc = crc32c(data)
        return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    with open(path, "wb") as file:
        for record in records:
            length = len(record).to_bytes(8, "little")
            file.write(length + masked(length) + record + masked(record))
    return path


def rlds_episode(length: int, seed: int, shape: tuple[int, int] = (16, 16), **changes: Any) -> dict[str, Any]:
    """An RLDS episode of ``length`` steps: one row more, whose action and reward say nothing."""
    found = rows(length, seed)
    count = length + 1
    features: dict[str, Any] = {
        "steps/observation/image": [png(frame) for frame in frames(count, seed, shape)],
        "steps/observation/state": np.concatenate([found["state"], found["state"][-1:]]).reshape(-1),
        "steps/action": np.concatenate([found["action"], np.zeros((1, ACTIONS), np.float32)]).reshape(-1),
        "steps/reward": np.append(found["reward"], np.float32(99)),
        "steps/is_first": (np.arange(count) == 0).astype(int),
        "steps/is_last": (np.arange(count) == length).astype(int),
        "steps/is_terminal": ((np.arange(count) == length) & (seed % 2 == 0)).astype(int),
        "steps/language_instruction": [b"lift"] * count,
        "episode_metadata/file_path": [b"x"],
    }
    return {name: value for name, value in {**features, **changes}.items() if value is not None}
