"""Campaigns on submitit's local executor, and on Ray with two slots on this machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from campaigns_files import SHORT, TINY, attempts, processes, run, start, wait_for, write
from moto_pl.campaigns.clusters import RayWorkers, SlurmWorkers
from moto_pl.campaigns.plan import read_campaign
from moto_pl.errors import SettingError


def needs(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'moto_pl[slurm,ray]'")


CLUSTERS = [
    pytest.param("slurm", {"slurm": {"cluster": "local"}}, marks=needs("submitit")),
    pytest.param("ray", {"ray": {}}, marks=needs("ray")),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("where", "keys"), CLUSTERS)
def test_a_campaign_on_a_cluster(where: str, keys: dict[str, Any], tmp_path: Path, reach_dataset: Path) -> None:
    """Two at a time; one is killed and taken up again, and one fails for good."""
    agents = {"MOTO": [], "refused": ["--data.replay_limit_gb=0.00001"]}
    base = (*TINY, *SHORT[:2], "--data.online_steps=18", "--data.updates_per_episode=2")
    path = write(tmp_path, reach_dataset, base, agents=agents, slots=2, retries=1, **keys)
    moto, refused = (one.directory for one in read_campaign(path).grid())
    campaign = start(path, "--where", where)
    try:
        wait_for(lambda: (moto / "checkpoints/last.ckpt").exists())
        os.kill(next(pid for pid, root in processes(tmp_path).items() if root == moto), signal.SIGKILL)
        said, error = campaign.communicate(timeout=280)
    finally:
        campaign.kill()
    assert campaign.returncode == 1, error
    assert "reach/MOTO/default/seed0: failed (1 of 2), taken up again: killed by SIGKILL" in said
    assert "reach/MOTO/default/seed0: done, 20/20" in said and (attempts(moto), attempts(refused)) == (2, 1)
    assert "reach/refused/default/seed0: failed (1 of 2), given up: data.replay_limit_gb" in said
    assert (tmp_path / "results/tiny/MOTO/reach.csv").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("where", "keys"), CLUSTERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_its_end_is_the_runs_end(
    number: signal.Signals, where: str, keys: dict[str, Any], tmp_path: Path, reach_dataset: Path
) -> None:
    base = (*TINY, *SHORT[:2], "--data.online_steps=4000", "--data.eval_episodes=0")
    path = write(tmp_path, reach_dataset, base, **keys)
    (one,) = read_campaign(path).grid()
    campaign = start(path, "--where", where)
    try:
        wait_for(lambda: (one.directory / "checkpoints/last.ckpt").exists())
        campaign.send_signal(number)
        campaign.communicate(timeout=100)
    finally:
        campaign.kill()
    wait_for(lambda: not processes(tmp_path), 60)
    if number == signal.SIGTERM:
        assert campaign.returncode == 128 + number
        assert "SIGTERM: saved" in (one.directory / "log.txt").read_text()


@pytest.mark.parametrize(("where", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_without_its_package_a_cluster_is_refused(
    where: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    campaign = read_campaign(write(tmp_path))
    with pytest.raises(SettingError, match=rf"^--where: found {where}, without {package}.*moto_pl\[{where}\]"):
        (SlurmWorkers if where == "slurm" else RayWorkers)(campaign)


@needs("submitit")
@pytest.mark.parametrize("slurm", [{"cluster": "local", "slurm_partitoin": "x"}, {"cluster": "nowhere"}, {}])
def test_what_submitit_does_not_know_is_refused(slurm: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="^slurm: found"):
        SlurmWorkers(read_campaign(write(tmp_path, slurm=slurm)))


@needs("ray")
@pytest.mark.parametrize("ray", [{"adress": "auto"}, {"address": "auto"}])
def test_what_ray_does_not_find_is_refused(ray: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, ray=ray)
    done = run(path, "--where", "ray")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("moto: ray."), done.stderr
