"""Runs as ``moto fit`` leaves them, without training, and a reader of their pages: for the tests of what reads runs."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

OFFLINE, ONLINE, EVERY = 40, 160, 20
VOID = {"meta", "br", "link", "img", "input"}


def write_run(root: Path, episodes: int = 20) -> Path:
    """A finished run, as moto fit leaves it."""
    root.mkdir(parents=True)
    config = {
        "seed_everything": 3,
        "model": {"class_path": "moto_pl.agents.MOTO", "init_args": {"seed": 3}},
        "data": {
            "env": "moto_pl/Reach-v0", "dataset": "reach", "offline_steps": OFFLINE, "online_steps": ONLINE,
            "offline_round_steps": EVERY, "updates_per_episode": 4, "num_envs": 1,
        },
    }  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    for step, phase, successes in ((0, "untrained", 0), (OFFLINE, "pretrained", 7), (OFFLINE + ONLINE, "final", 17)):
        add_evaluation(root, "eval", step, phase, successes, episodes)
    write_metrics(root / "csv/version_0", range(OFFLINE + ONLINE))
    (root / "replay/held_out").mkdir(parents=True)
    for i in range(50):
        (root / f"replay/{i:06d}.safetensors").write_bytes(bytes(1000))
    (root / "replay/dataset.json").write_text('{"dataset": "reach", "val_episodes": 0, "episodes": 10}')
    for name in ("eval_0000000", "eval_0000040", "eval_0000200", "open_loop_0000200"):
        add_video(root, name, name.encode())
    (root / "checkpoints").mkdir()
    (root / "checkpoints/last.ckpt").write_bytes(bytes(2_500_000))
    return root


def add_evaluation(root: Path, stage: str, step: int, phase: str, successes: int, episodes: int, **more: Any) -> None:
    success = [i < successes for i in range(episodes)]
    record = {
        "stage": stage, "step": step, "phase": phase, "online_episodes": max(0, step - OFFLINE) // 4,
        "seed": list(range(episodes)), "return": [10.0 * value + 0.1 * i for i, value in enumerate(success)],
        "success": success, "length": [30] * episodes, **more,
    }  # fmt: skip
    with open(root / "evaluations.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")


def write_metrics(directory: Path, steps: range, image: float = 500.0) -> None:
    rows: list[dict[str, Any]] = []
    for step in steps:
        rows.append({"step": step, "epoch": 0, "model/image": image - step, "critic/model": 1.0, "actor/value": -step})
        if step >= OFFLINE and step % 4 == 3:
            rows.append({"step": step, "online/return": 0.1 * step, "online/success": float(step > 150)})
        if step % 4 == 3:
            rows.append({"step": step, "speed/updates_per_s": 3.5, "speed/data_wait": 0.01})
    directory.mkdir(parents=True)
    with open(directory / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)


def add_video(root: Path, name: str, content: bytes) -> None:
    (root / "videos").mkdir(exist_ok=True)
    (root / f"videos/{name}.mp4").write_bytes(content)


class Page(HTMLParser):
    """Checks that tags close in order, and keeps text, tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
