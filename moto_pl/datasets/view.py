"""Looking at a dataset: a contact sheet and a film."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moto_pl.datasets.film import write_film
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.envs.observation import cameras_beside
from moto_pl.errors import SettingError
from moto_pl.files import check_can_write, whole
from moto_pl.replay.episode import Episode

SHEET_TILE, FILM_TILE = 128, 256
"""Height in pixels to which frames are enlarged, by a whole factor; larger ones are left as they are."""
LABEL_HEIGHT, MARGIN_WIDTH, GAP = 16, 150, 4
BACKGROUND, TEXT, SUCCESS, FAILURE = (255, 255, 255), (30, 30, 30), (30, 140, 60), (190, 50, 40)


def view(
    dataset: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] = ".",
    episodes: int = 10,
    columns: int = 8,
    fps: int = 20,
) -> tuple[Path, Path]:
    """Draw a dataset's first episodes: evenly spaced frames on one sheet, and all frames side by side in a film.

    Args:
        dataset: a dataset id, short name or path.
        output_dir: created if need be; the files are named after the dataset.
        episodes: how many to show, at least 1.
        columns: frames of each on the sheet, at least 2.
        fps: frames a second of the film, at least 1.

    Returns:
        Paths of the sheet (PNG) and the film (MP4, H.264). The film has as many frames as the longest episode; the
        others stand still when they are over.

    Raises:
        SettingError: no such dataset, a damaged one, a number out of its range, or a directory that cannot be written.
    """
    for name, value, least in (("episodes", episodes, 1), ("columns", columns, 2), ("fps", fps, 1)):
        if value < least:
            raise SettingError(name, value, f"Use {least} or more.")
    output = Path(output_dir)
    check_can_write("output_dir", output)
    reader = open_dataset(dataset)
    shown = [reader[index] for index in range(min(episodes, len(reader)))]
    shown = [replace(episode, image=cameras_beside(episode.image)) for episode in shown]
    output.mkdir(parents=True, exist_ok=True)
    stem = reader.id.replace("/", "_")
    sheet, film = output / f"{stem}.png", output / f"{stem}.mp4"
    drawn = contact_sheet(shown, columns, f"{reader.id}: {len(shown)} of {len(reader)} episodes")
    with whole(sheet) as file:
        drawn.save(file, format="PNG")
    _save_film(shown, film, fps)
    return sheet, film


def contact_sheet(episodes: Sequence[Episode], columns: int, title: str) -> Image.Image:
    """One row an episode: its number, return and success, then ``columns`` evenly spaced frames with their steps.

    A step's number is green where the step was a success.
    """
    scale = _scale(episodes[0], SHEET_TILE)
    height, width = (size * scale for size in episodes[0].image.shape[1:3])
    row_height = height + LABEL_HEIGHT + GAP
    sheet = Image.new(
        "RGB", (MARGIN_WIDTH + columns * (width + GAP) + GAP, 2 * LABEL_HEIGHT + len(episodes) * row_height), BACKGROUND
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    draw.text((GAP, GAP), title, TEXT, font)
    for row, episode in enumerate(episodes):
        top = 2 * LABEL_HEIGHT + row * row_height
        lines = [
            (f"episode {row}", TEXT),
            (f"return {episode.total_reward:g}", TEXT),
            ("success", SUCCESS) if episode.succeeded else ("no success", FAILURE),
            (f"{episode.length} steps", TEXT),
        ]
        ever = episode.ever_completed
        if ever is not None:
            lines.append((f"{ever.sum()} of {len(ever)} objects", TEXT))
        for line, (text, colour) in enumerate(lines):
            draw.text((GAP, top + line * LABEL_HEIGHT), text, colour, font)
        for column, step in enumerate(np.linspace(0, episode.length, columns).round().astype(int)):
            left = MARGIN_WIDTH + column * (width + GAP)
            sheet.paste(_enlarge(episode.image[step], scale), (left, top))
            succeeded = step > 0 and episode.success[step - 1]
            draw.text((left, top + height), f"step {step}", SUCCESS if succeeded else TEXT, font)
    return sheet


def _save_film(episodes: Sequence[Episode], path: Path, fps: int) -> None:
    scale = _scale(episodes[0], FILM_TILE)
    height, width = (size * scale for size in episodes[0].image.shape[1:3])
    columns = min(len(episodes), 5)
    rows = -(-len(episodes) // columns)
    size = (columns * width, rows * (height + LABEL_HEIGHT))
    steps = range(max(episode.length for episode in episodes) + 1)
    write_film(path, (np.asarray(_film_frame(episodes, step, columns, size, scale)) for step in steps), size, fps)


def _film_frame(episodes: Sequence[Episode], step: int, columns: int, size: tuple[int, int], scale: int) -> Image.Image:
    """All episodes at a step, ``columns`` in a row, each under its number, step and return so far."""
    frame, font = Image.new("RGB", size, BACKGROUND), ImageFont.load_default(size=12)
    draw = ImageDraw.Draw(frame)
    for index, episode in enumerate(episodes):
        now = min(step, episode.length)
        image = _enlarge(episode.image[now], scale)
        left, top = index % columns * image.width, index // columns * (image.height + LABEL_HEIGHT)
        succeeded = now > 0 and bool(episode.success[now - 1])
        frame.paste(image, (left, top + LABEL_HEIGHT))
        text = f"{index}: step {now}, return {episode.reward[:now].sum():g}"
        draw.text((left + GAP, top), text, SUCCESS if succeeded else TEXT, font)
    return frame


def _scale(episode: Episode, tile: int) -> int:
    return max(1, tile // episode.image.shape[1])


def _enlarge(image: np.ndarray, scale: int) -> Image.Image:
    height, width = image.shape[:2]
    return Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
