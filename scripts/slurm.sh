#!/bin/bash
# A run on one or more machines under SLURM that goes on by itself after preemption, a time limit or a lost node.
#   sbatch scripts/slurm.sh --config configs/tasks/metaworld/door_open.yaml
# Set nodes, GPUs, partition and time for your cluster; everything after the script's name goes to `moto fit`.
#SBATCH --job-name=moto
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2          # one task a GPU: trainer.devices below
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue                    # preempted jobs come back
#SBATCH --open-mode=append           # and go on writing to the same log
#SBATCH --signal=USR1@120            # two minutes' notice before the time limit: all tasks get it

set -u
# --kill-on-bad-exit: where one task fails, none is left waiting for it.
srun --kill-on-bad-exit=1 .venv/bin/moto fit "$@" \
  --trainer.accelerator gpu \
  --trainer.strategy ddp \
  --trainer.num_nodes "$SLURM_NNODES" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE"
status=$?

# 138 is 128 + SIGUSR1: a checkpoint was written because time is running out. Anything else is an end, good or bad.
if [ "$status" -eq 138 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
