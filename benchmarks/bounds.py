"""What a run may grow to: ``python -m benchmarks.bounds --out benchmarks/results/bounds.json``.

Each part stands for itself (``--only``), and what was measured before stays in the file:

* ``large``: a replay larger than memory (50 GB of sparse files) next to one of as many short episodes: what a draw
  takes, and took when rows were read as they were touched (``by_faults``).
* ``many``: 100,000 short episodes: how long a first start takes, one with an index, a resume with every byte read, a
  checkpoint's manifest.
* ``deterministic``: what ``trainer.deterministic`` costs on a GPU, in gradient steps a second.

The memory, files and threads of a run of thousands of rounds are benchmarks/long_run.py's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moto_pl.files import write_whole
from moto_pl.replay import EpisodeSet, EpisodeStore, SequenceSampler
from moto_pl.replay.episode import Episode
from moto_pl.training.configs import config_path


def episode(steps: int, size: int, seed: int = 0) -> Episode:
    """An episode of one value in each frame."""
    image = np.full((steps + 1, size, size, 3), seed % 256, np.uint8)
    action, reward = np.zeros((steps, 2), np.float32), np.zeros(steps, np.float32)
    return Episode(image, action, reward, False, True, np.zeros(steps, np.bool_), {}, {"seed": seed})


def sparse(root: Path, count: int, steps: int) -> int:
    """Episodes whose arrays are holes: the files' sizes, and no disk. Returns their bytes."""
    EpisodeStore(root).append(episode(steps, 64))
    first = root / "000000.safetensors"
    size = first.stat().st_size
    with open(first, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(0)
        header = file.read(start)
    for index in range(count):
        path = root / f"{index:06d}.safetensors"
        path.unlink(missing_ok=True)
        with open(path, "wb") as file:
            file.write(header)
            file.truncate(size)
    return count * size


def view_of(store: EpisodeStore, length: int) -> EpisodeSet:
    """All episodes, as a run's batches see them."""
    return EpisodeSet(((i, episode.num_rows) for i, episode in enumerate(store.known)), length)


class Faulting(EpisodeStore):
    """A store whose drawn rows are read as they are touched, however large it is."""

    beyond_memory = False


def draw_ms(store: EpisodeStore, view: EpisodeSet, steps: range) -> tuple[float, float]:
    """Milliseconds of a batch of 16 sequences of 50 rows: wall, and CPU of this process."""
    sampler = SequenceSampler(store, 0, "bounds")
    wall, cpu = time.monotonic(), time.process_time()
    for step in steps:
        sampler.sample(step, 0, 1, 16, 50, view)
    return (time.monotonic() - wall) * 1e3 / len(steps), (time.process_time() - cpu) * 1e3 / len(steps)


def large(root: Path, share: float) -> dict[str, Any]:
    """A replay larger than memory draws as fast as a small one, or nearly: each batch anew, and a second time."""
    found: dict[str, Any] = {}
    count, draws = max(10, round(1000 * share)), max(5, round(60 * share))
    for name, steps in (("small", 100), ("large", 4000)):
        found[f"{name}_gb"] = round(sparse(root / name, count, steps) / 1e9, 2)
        stores = {"": EpisodeStore(root / name), "_by_faults": Faulting(root / name)}
        for way, store in stores.items():
            view, first = view_of(store, 50), 1000 * bool(way)  # other batches, which nobody has read yet
            for state in ("cold", "hot"):
                wall, cpu = draw_ms(store, view, range(first, first + draws))
                found |= {f"{name}_{state}{way}_ms": round(wall, 1), f"{name}_{state}{way}_cpu_ms": round(cpu, 1)}
        shutil.rmtree(root / name)
    for way in ("", "_by_faults"):
        for unit in ("ms", "cpu_ms"):
            factor = found[f"large_cold{way}_{unit}"] / found[f"small_cold{way}_{unit}"]
            found[f"factor{way}_{unit.removesuffix('_ms').removesuffix('ms') or 'wall'}"] = round(factor, 1)
    found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    found["read_ahead_kb"] = sorted(
        {int(path.read_text()) for path in Path("/sys/block").glob("*/queue/read_ahead_kb")}
    )
    return found


def many(root: Path, share: float) -> dict[str, Any]:
    """Starts and goes on with 100,000 episodes of ten steps."""
    count = max(100, round(100_000 * share))
    EpisodeStore(root).append(episode(10, 8))
    whole = (root / "000000.safetensors").read_bytes()
    for index in range(1, count):
        (root / f"{index:06d}.safetensors").write_bytes(whole)
    found: dict[str, Any] = {"episodes": count}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.monotonic(), time.process_time()
        result = work()
        found[f"{name}_s"] = round(time.monotonic() - wall, 2)
        found[f"{name}_cpu_s"] = round(time.process_time() - cpu, 2)
        return result

    timed("first_start", lambda: EpisodeStore(root))
    store = timed("start", lambda: EpisodeStore(root))
    assert len(store) == count
    manifest = timed("manifest", store.manifest)
    timed("save_manifest", lambda: torch.save({"manifest": manifest}, root / "manifest.pt"))
    timed("resume", lambda: store.restore(torch.load(root / "manifest.pt", weights_only=True)["manifest"]))
    found["manifest_mb"] = round((root / "manifest.pt").stat().st_size / 1e6, 1)
    sampler = SequenceSampler(store, 0, "bounds")
    view = timed("view", lambda: view_of(store, 8))
    timed("100_draws", lambda: [sampler.sample(step, 0, 1, 16, 8, view) for step in range(100)])
    timed("append", lambda: store.append(episode(10, 8)))
    timed("next_view", lambda: view_of(store, 8))
    with open("/proc/self/maps") as maps:
        found["maps"] = sum(1 for _ in maps)
    found["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def deterministic(root: Path, share: float) -> dict[str, Any]:
    """Seconds of a debug run's gradient steps with and without it; there is nothing to pay on a CPU."""
    if not torch.cuda.is_available():
        return {"skipped": "no GPU here"}
    found: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    for name in ("false", "true"):
        words = [sys.executable, "-m", "moto_pl.cli", "fit", "--config", str(config_path("debug"))]
        words += ["--trainer.default_root_dir", str(root / name), "--trainer.accelerator", "gpu"]
        words += ["--trainer.devices", "1", "--trainer.deterministic", name, "--data.online_steps", "0"]
        words += ["--data.offline_steps", str(round(2000 * share)), "--data.eval_episodes", "0"]
        begun = time.monotonic()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found[f"{name}_s"] = round(time.monotonic() - begun, 1)
    return found


PARTS: dict[str, Callable[[Path, float], dict[str, Any]]] = {
    "large": large,
    "many": many,
    "deterministic": deterministic,
}


def main() -> None:
    """Measures, prints, and keeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--share", type=float, default=1.0, help="of each part's size")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    kept: dict[str, Any] = {}
    if options.out is not None:
        with suppress(FileNotFoundError):
            kept = json.loads(options.out.read_text())
    for name in options.only:
        with tempfile.TemporaryDirectory() as directory:
            kept[name] = {**PARTS[name](Path(directory), options.share), "date": date.today().isoformat()}
        print(name, json.dumps(kept[name]), flush=True)
    if options.out is not None:
        write_whole(options.out, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
