"""``moto play``: a checkpoint's policy in its environment, what it came to, and a film of it."""

from __future__ import annotations

from pathlib import Path

from moto_pl.agents.loading import load_agent
from moto_pl.analysis.episodes import roll_own
from moto_pl.callbacks.video import side_by_side, write_video
from moto_pl.deploy.pretrained import find
from moto_pl.envs.observation import cameras_beside
from moto_pl.errors import SettingError
from moto_pl.files import check_can_write
from moto_pl.rollout.policy import ActMode


def run_play(
    checkpoint: Path | None,
    pretrained: str | None,
    episodes: int,
    mode: ActMode,
    seed: int,
    out: Path | None,
    device: str,
) -> int:
    """Rolls episodes, prints what they came to and writes a film; see :func:`moto_pl.cli.play`."""
    if (checkpoint is None) == (pretrained is None):
        found = "nothing" if checkpoint is None else f"{checkpoint}, with --pretrained {pretrained}"
        raise SettingError("checkpoint", found, "Give the path of a checkpoint, or --pretrained and a name.")
    if episodes < 1:
        raise SettingError("--episodes", episodes, "Give at least 1.")
    most = 2**31 - episodes  # the last episode's seed is below 2 ** 31
    if not 0 <= seed <= most:
        raise SettingError("--seed", seed, f"Give a whole number from 0 to {most}.")
    if out is not None and (out.suffix != ".mp4" or not out.parent.is_dir() or out.is_dir()):
        raise SettingError("--out", out, "Give the path of a film, which ends in .mp4, in a directory that is there.")
    if pretrained is not None:
        checkpoint = find(pretrained)
    assert checkpoint is not None
    agent, run = load_agent(checkpoint, device, "checkpoint"), checkpoint.resolve().parent.parent
    beside = (
        Path(f"{pretrained}.mp4") if pretrained is not None else run / "videos" / f"play_{agent.loaded_step:07d}.mp4"
    )
    film = out or beside
    check_can_write("--out", film, file=True)
    rolled = roll_own(agent, run, episodes, mode, seed, "checkpoint")
    for number, episode in enumerate(rolled):
        success = "success" if episode.succeeded else "no success"
        print(f"seed {seed + number}: return {episode.total_reward:.2f}, {success}, {episode.length} steps")
    mean = sum(episode.total_reward for episode in rolled) / episodes
    print(f"mean return {mean:.2f}, success in {sum(episode.succeeded for episode in rolled)} of {episodes}")
    try:
        write_video(film, side_by_side([cameras_beside(episode.image) for episode in rolled]))
    except OSError as error:
        fix = f"Name a film that can be written ({error.strerror or error})."
        raise SettingError("--out", film, fix) from None
    print(f"film: {film}")
    return 0
