"""Two machines that are none: network namespaces, each with a name and an address of its own, and a cable between them.

No rights are needed where the kernel lets users have namespaces of their own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from runs import ROOT, environment

#: What the script is given: two files of words, one a machine.
SCRIPT = """
set -e
trap 'kill $(jobs -p) 2>/dev/null' EXIT
echo host0 > /proc/sys/kernel/hostname
ip link set lo up
unshare -un sleep 900 >/dev/null 2>&1 & other=$!
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add name moto0 type veth peer name moto1 netns $other
ip addr add 10.77.0.1/24 dev moto0
ip link set moto0 up
nsenter -t $other -n -u sh -c 'echo host1 > /proc/sys/kernel/hostname; ip link set lo up
  ip addr add 10.77.0.2/24 dev moto1; ip link set moto1 up'
GLOO_SOCKET_IFNAME=moto0 "${@:2:$1}" & first=$!
GLOO_SOCKET_IFNAME=moto1 nsenter -t $other -n -u "${@:$1+2}" & second=$!
status=0
wait $first || status=$?
wait $second || status=$?
exit $status
"""


@cache
def reason() -> str | None:
    """Why this machine cannot play two; None where it can."""
    if missing := [name for name in ("unshare", "nsenter", "ip", "bash") if shutil.which(name) is None]:
        return f"{', '.join(missing)} not installed"
    done = subprocess.run(start_words([], [], "true"), capture_output=True, text=True, timeout=60)
    return f"no namespaces here ({done.stderr.strip()[:100]})" if done.returncode else None


def start_words(first: list[str], second: list[str], nothing: str = "") -> list[str]:
    """A command that runs one command on each machine until both have ended."""
    first, second = first or [nothing], second or [nothing]
    script = ["bash", "-c", SCRIPT, "machines", str(len(first)), *first, *second]
    return ["unshare", "-rnu", "--kill-child", *script]


def words(node: int, run: Path, *args: str) -> list[str]:
    """What one of two machines is to run: the debug configuration in one process, in a directory of its own."""
    return [
        *("moto_pl.cli", "fit", "--config", str(ROOT / "configs/debug.yaml"), "--video_episodes", "0"),
        *("--trainer.default_root_dir", str(run / f"node{node}"), "--trainer.num_nodes", "2"),
        *("--trainer.devices", "1", "--trainer.strategy", "ddp", "--data.exchange", "broadcast"),
        *("--data.num_envs", "2", "--data.env_workers", "0", "--data.eval_episodes", "2"),
        *("--data.value_steps", "0", "--evaluate_untrained", "false", "--model.init_args.optim.ema_decay", "0.9"),
        *args,
    ]


def torchrun(node: int, words: Sequence[str], address: str, port: int) -> list[str]:
    """The command that starts these words on that machine, of which the first one has the address."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--node_rank", str(node), "--master_addr", address, "--master_port", str(port), "-m", *words),
    ]


def fit(run: Path, *args: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Two machines' run to its end."""
    parts = [torchrun(node, words(node, run, *args), "10.77.0.1", 29400) for node in range(2)]
    return subprocess.run(
        start_words(*parts), env=environment(), capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )
