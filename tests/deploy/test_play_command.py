"""``moto play`` rolls what evaluation would, says what it came to and films it."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import pytest
import yaml

from moto_pl.agents.loading import load_agent
from moto_pl.cli import main
from moto_pl.ops import Key
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes
from small_agents import make, save

OPTIONS = {"episode_steps": 5, "reward": "dense"}


@pytest.fixture()
def checkpoint(tmp_path: Path) -> Path:
    path = save(make("BC"), tmp_path / "run/checkpoints/last.ckpt")
    config = {"data": {"env": "moto_pl/Reach-v0", "env_options": OPTIONS}}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config))
    return path


def test_it_plays_and_films(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", str(checkpoint), "--episodes", "2", "--seed", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    agent = load_agent(checkpoint)
    with EnvPool("moto_pl/Reach-v0", OPTIONS, 0) as pool:
        episodes = [roll_episodes(pool, agent, [5 + i], "mode", Key(agent.seed, i))[0] for i in range(2)]
    for number, episode in enumerate(episodes):
        assert lines[number].startswith(f"seed {5 + number}: return {episode.total_reward:.2f}, ")
        assert lines[number].endswith(", 5 steps")
    assert any(episode.total_reward > 0 for episode in episodes)
    mean = sum(episode.total_reward for episode in episodes) / 2
    assert lines[2].startswith(f"mean return {mean:.2f}, success in ") and lines[2].endswith(" of 2")
    film = tmp_path / "run/videos/play_0000007.mp4"
    assert lines[3] == f"film: {film}"
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(film))
    assert frames == 6 and seconds > 0
    out = tmp_path / "mine.mp4"
    assert main(["play", str(checkpoint), "--episodes", "1", "--mode", "sample", "--out", str(out)]) == 0
    assert out.stat().st_size > 0


def test_what_does_not_fit_is_one_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = save(make("BC"), tmp_path / "elsewhere/a.ckpt")
    half = tmp_path / "run/checkpoints/half.ckpt"
    half.write_bytes(checkpoint.read_bytes()[:3000])
    for words, said in (
        ([alone], "checkpoint: found"),
        ([half], "checkpoint: found"),
        ([checkpoint, "--episodes", "0"], "--episodes: found 0"),
        ([checkpoint, "--seed", "-1"], "--seed: found -1"),
        ([checkpoint, "--seed", str(2**31 - 3)], f"Give a whole number from 0 to {2**31 - 4}"),
        ([checkpoint, "--device", "tpu"], "device: found 'tpu'"),
        ([checkpoint, "--out", "/proc/film.mp4"], "--out: found /proc/film.mp4"),
        ([checkpoint, "--out", tmp_path / "film.avi"], "--out: found"),
        ([checkpoint, "--out", tmp_path / "none/film.mp4"], "--out: found"),
        ([checkpoint, "--mode", "best"], "--mode: found 'best'"),
    ):
        assert main(["play", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
