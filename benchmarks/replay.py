"""Batches a second from the replay, beside random reads of the same data with h5py: ``python -m benchmarks.replay``.

The HDF5 file has Minari's layout, a group an episode and HDF5's own choice of chunks, with frames uncompressed and
every dataset held open: the fastest form of it. All kinds give the same batches in this process, checked once, and take
turns in short rounds; the median round counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from moto_pl.doctor import environment_summary
from moto_pl.files import write_whole
from moto_pl.replay import DeviceMirror, Episode, EpisodeSet, EpisodeStore, SequenceBatch, SequenceSampler

#: Sequences and rows of the model's and the agent's batch at the paper's settings.
BATCHES = {"model": (16, 50), "agent": (128, 25)}


def random_episode(random: np.random.Generator, steps: int) -> Episode:
    return Episode(
        image=random.integers(0, 256, (steps + 1, 64, 64, 3), dtype=np.uint8),
        action=random.uniform(-1, 1, (steps, 4)).astype(np.float32),
        reward=random.random(steps, dtype=np.float32),
        terminated=False,
        truncated=True,
        success=np.zeros(steps, bool),
    )


def write(root: Path, episodes: int, steps: int) -> tuple[EpisodeStore, h5py.File]:
    random = np.random.default_rng(0)
    store, file = EpisodeStore(root / "replay"), h5py.File(root / "main_data.hdf5", "w", track_order=True)
    for index in track(range(episodes), "writing", transient=True):
        episode = random_episode(random, steps)
        store.append(episode)
        group = file.create_group(f"episode_{index}")
        for name, array in (
            ("observations/image", episode.image),
            ("actions", episode.action),
            ("rewards", episode.reward),
            ("terminations", np.zeros(steps, bool)),
        ):
            group.create_dataset(name, data=array, chunks=True, maxshape=(None, *array.shape[1:]))
    file.close()
    return store, h5py.File(root / "main_data.hdf5", "r")


Reader = Callable[[int, int, int, int, int, EpisodeSet], SequenceBatch]


class HDF5Reader:
    """Gives a sampler's batches, read from the HDF5 file."""

    def __init__(self, file: h5py.File, draw: SequenceSampler) -> None:
        self.draw = draw
        names = ("observations/image", "actions", "rewards", "terminations")
        self.episodes = [[file[f"episode_{index}"][name] for name in names] for index in range(len(file))]

    def sample(
        self, step: int, rank: int, world_size: int, batch_size: int, length: int, view: EpisodeSet
    ) -> SequenceBatch:
        """The batch of :meth:`SequenceSampler.sample`."""
        episodes, starts = self.draw.draw(step, rank, world_size, batch_size, length, view)
        images, actions, rewards, terminals = [], [], [], []
        for episode, start in zip(episodes, starts, strict=True):
            image, action, reward, terminal = self.episodes[episode]
            images.append(image[start : start + length])
            # The row before the first step has no action in the file.
            first, missing = max(0, start - 1), int(start == 0)
            actions.append(np.pad(action[first : start + length - 1], ((missing, 0), (0, 0))))
            rewards.append(np.pad(reward[first : start + length - 1], (missing, 0)))
            terminals.append(np.pad(terminal[first : start + length - 1], (missing, 0)))
        is_first = np.zeros((batch_size, length), bool)
        is_first[:, 0] = starts == 0
        image = np.ascontiguousarray(np.stack(images).transpose(0, 1, 4, 2, 3))
        arrays = image, np.stack(actions), np.stack(rewards), is_first, np.stack(terminals)
        return SequenceBatch(*map(torch.from_numpy, arrays))


def finished(reader: Reader, size: int, length: int, view: EpisodeSet, step: int) -> SequenceBatch:
    batch = reader(step, 0, 1, size, length, view)
    if batch.image.is_cuda:
        torch.cuda.synchronize()
    return batch


def rate(call: Callable[[int], object], seconds: float, first: int) -> float:
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        call(first + count)
        count += 1
    return count / elapsed


def tensors(batch: SequenceBatch) -> list[torch.Tensor]:
    """A batch's parts; these episodes have no state vectors."""
    return [part for part in batch if part is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=101, help="of each episode, at least 50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each kind in a round")
    parser.add_argument("--device", default="cpu", help="of the rows that are resident on a device")
    parser.add_argument("--folder", type=Path, help="where the files are written, and removed again; a temporary one")
    parser.add_argument("--out", type=Path, help="also write the numbers to this JSON file")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store, file = write(Path(folder), arguments.episodes, arguments.steps)
        host = SequenceSampler(store, 0, "benchmark")
        resident = SequenceSampler(store, 0, "benchmark", mirror=DeviceMirror(store, arguments.device))
        readers: dict[str, Reader] = {
            "h5py": HDF5Reader(file, host).sample,
            "replay, host": host.sample,
            f"replay, {arguments.device}": resident.sample,
        }
        calls: dict[tuple[str, str], Callable[[int], SequenceBatch]] = {}
        megabytes: dict[str, float] = {}
        for part, (size, length) in BATCHES.items():
            view = EpisodeSet([(i, store[i].num_rows) for i in range(len(store))], length)
            expected = tensors(host.sample(0, 0, 1, size, length, view))
            megabytes[part] = sum(tensor.nbytes for tensor in expected) / 1e6
            for name, reader in readers.items():
                call: Callable[[int], SequenceBatch] = partial(finished, reader, size, length, view)
                calls[part, name] = call
                assert all(torch.equal(a.cpu(), b) for a, b in zip(tensors(call(0)), expected, strict=True)), name
        rates: dict[tuple[str, str], list[float]] = {kind: [] for kind in calls}
        for turn in track(range(arguments.rounds), "measuring", transient=True):
            for kind, call in calls.items():
                rates[kind].append(rate(call, arguments.seconds, 10_000 * turn))
        file.close()
        size_gb = store.nbytes / 1e9

    console = Console()
    table = Table(title=f"{arguments.episodes} episodes of {arguments.steps} steps, {size_gb:.2f} GB, one process")
    for column in ("batch", "", "batches/s", "lowest", "highest", "MB/s", "ratio"):
        table.add_column(column, justify="left" if column in ("batch", "") else "right")
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    last = list(readers)[-1]
    for (part, name), values in rates.items():
        median = medians[part, name]
        cells = [f"{median:.1f}", f"{min(values):.1f}", f"{max(values):.1f}", f"{median * megabytes[part]:.0f}"]
        size, length = BATCHES[part]
        ratio = f"{median / medians[part, 'h5py']:.2f}"
        table.add_row(f"{part} {size} x {length}", name, *cells, ratio, end_section=name == last)
    console.print(table)
    console.print(
        f"Medians of {arguments.rounds} rounds of {arguments.seconds:g} s, files in the system's cache. Ratios to h5py."
    )
    if arguments.out:
        result = {
            "episodes": arguments.episodes,
            "steps": arguments.steps,
            "device": arguments.device,
            "batches_per_second": {f"{part}/{name}": values for (part, name), values in rates.items()},
            "median": {f"{part}/{name}": value for (part, name), value in medians.items()},
            "megabytes_per_batch": megabytes,
            "environment": environment_summary(),
        }
        write_whole(arguments.out, json.dumps(result, indent=2).encode())


if __name__ == "__main__":
    main()
