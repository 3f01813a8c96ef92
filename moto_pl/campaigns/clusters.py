"""Runs of a campaign on SLURM, through submitit, and on a Ray cluster. Both are imported only when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from moto_pl.campaigns.plan import Campaign
from moto_pl.campaigns.workers import Job, Outcome, Process, Worker, end, watch, work
from moto_pl.errors import SettingError


def _missing(where: str, package: str) -> SettingError:
    return SettingError("--where", f"{where}, without {package}", f"Install it: pip install 'moto_pl[{where}]'.")


class SlurmJob:
    """What a job on SLURM does; before its time is up it writes a checkpoint, and is queued again.

    Args:
        job: the attempt.
        parent: a process without which it ends; None where it outlives the campaign.
    """

    def __init__(self, job: Job, parent: int | None = None) -> None:
        self.job, self.parent = job, parent
        self._process: Process | None = None

    def __call__(self) -> Outcome:
        """Runs it to its end."""
        self._process = Process(self.job)
        return watch(self._process, lambda: self.parent is None or _is_there(self.parent))

    def checkpoint(self) -> Any:
        """Called by submitit on its signal: what is to be queued in place of this."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            end(self._process)
        return DelayedSubmission(SlurmJob(self.job, self.parent))


class SlurmWorkers:
    """Jobs of SLURM.

    The campaign's ``slurm`` names what submitit's executor takes (``slurm_partition``, ``timeout_min``,
    ``gpus_per_node``, ...); ``cluster: local`` there tries it on this machine.

    Raises:
        SettingError: without submitit or SLURM, or with a parameter that submitit does not know.
    """

    def __init__(self, campaign: Campaign) -> None:
        try:
            import submitit
        except ImportError:
            raise _missing("slurm", "submitit") from None
        options = {"cluster": "slurm", **campaign.slurm}
        cluster = str(options.pop("cluster"))
        try:
            self._executor = submitit.AutoExecutor(folder=campaign.runs / ".slurm", cluster=cluster)
            self._executor.update_parameters(cpus_per_task=campaign.threads, **options)
        except Exception as error:  # submitit raises many kinds
            fix = "Correct slurm in the campaign's file; cluster: local there tries it on this machine."
            raise SettingError("slurm", f"{campaign.slurm} ({' '.join(str(error).split())})", fix) from None
        self._local, self._folder = cluster == "local", campaign.runs / ".slurm"

    def start(self, job: Job) -> Worker:
        """Submits one."""
        self._executor.update_parameters(name=job.name.replace("/", "-").replace(" ", "_"))
        return _Submitted(self._executor.submit(SlurmJob(job, os.getpid() if self._local else None)))

    def find(self, job_id: str) -> Worker | None:
        """A job that was submitted before and is still there."""
        if self._local:
            return None
        import submitit

        return _Submitted(submitit.SlurmJob(self._folder, job_id))

    def close(self) -> None:
        """Nothing is held: jobs go on by themselves."""


class _Submitted:
    def __init__(self, job: Any) -> None:
        self._job = job
        self.job_id: str | None = str(job.job_id)

    def poll(self) -> Outcome | None:
        if not self._job.done():
            return None
        try:
            return Outcome(*self._job.result())
        except Exception as error:  # whatever ended it, and UncompletedJobError
            return Outcome(None, f"job {self.job_id}: {_last_line(error)}")

    def stop(self) -> None:
        self._job.cancel(check=False)

    kill = stop


class RayWorkers:
    """Tasks of a Ray cluster.

    The campaign's ``ray`` may hold ``address`` (``auto``, or another; null starts Ray on this machine), and for
    each run ``num_gpus`` and ``resources``.

    Raises:
        SettingError: without ray, without that cluster, or with another parameter.
    """

    #: What ``ray`` may hold.
    OPTIONS = ("address", "num_gpus", "resources")

    def __init__(self, campaign: Campaign) -> None:
        try:
            import ray
        except ImportError:
            raise _missing("ray", "ray") from None
        for name in campaign.ray:
            if name not in self.OPTIONS:
                raise SettingError(f"ray.{name}", "an unknown key", f"Give {', '.join(self.OPTIONS)}.")
        address = campaign.ray.get("address")
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        here: dict[str, Any] = {"num_cpus": campaign.slots * campaign.threads, "include_dashboard": False}
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
                **(here if address is None else {}),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            fix = "Start the cluster with ray start, or leave address out."
            raise SettingError("ray.address", f"{address} ({' '.join(str(error).split())})", fix) from None
        self._ray = ray
        options = {name: value for name, value in campaign.ray.items() if name != "address"}
        # Whether a run is taken up again is the campaign's to say.
        self._work = ray.remote(num_cpus=campaign.threads, max_retries=0, **options)(work)

    def start(self, job: Job) -> Worker:
        """Submits one."""
        return _Remote(self._ray, self._work.remote(job))

    def find(self, job_id: str) -> Worker | None:
        """None: Ray ends the tasks of a campaign that has ended."""
        return None

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()


class _Remote:
    job_id = None

    def __init__(self, ray: Any, task: Any) -> None:
        self._ray, self._task = ray, task

    def poll(self) -> Outcome | None:
        ready, _ = self._ray.wait([self._task], timeout=0)
        if not ready:
            return None
        try:
            return Outcome(*self._ray.get(self._task))
        except Exception as error:  # the task's own, and Ray's for a lost worker or machine
            return Outcome(None, f"Ray: {_last_line(error)}")

    def stop(self) -> None:
        self._ray.cancel(self._task, force=False)

    def kill(self) -> None:
        self._ray.cancel(self._task, force=True)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _is_there(pid: int) -> bool:
    """Whether a process of this machine goes on; one that nobody has taken note of the end of does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without /proc
        return True
