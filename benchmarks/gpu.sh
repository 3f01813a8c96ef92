#!/usr/bin/env bash
# Everything that wants a GPU, on a machine that has one and a torch for it: builds the CUDA kernels there, tests them, measures
# them, and trains.
#
#   bash benchmarks/gpu.sh [PARTS] [RESULTS]
#
# PARTS, in quotes: of "build tests ops step run" those that are wanted; all by default. RESULTS: a folder, by default
# benchmarks/results/gpu_<device>_<date>. What the machine lacks is installed from wheels in ./wheels, where that folder is there;
# nothing is downloaded. Environment: CUDAARCHS (the device's own by default), RUN_SECONDS (most that the training run takes, 240).
set -euo pipefail
cd "$(dirname "$0")/.."
export MUJOCO_GL=${MUJOCO_GL:-egl} PYTHONUNBUFFERED=1
PYTHON=${PYTHON:-python3}

fact() { "$PYTHON" -c "import torch; assert torch.cuda.is_available(), 'no CUDA device, or a torch without CUDA'; print($1)"; }
device=$(fact "torch.cuda.get_device_name().replace(' ', '_')")
parts=${1:-build tests ops step run}
results=${2:-benchmarks/results/gpu_${device}_$(date +%F)}
mkdir -p "$results"
"$PYTHON" -c "import platform, torch; print(torch.cuda.get_device_name(), 'torch', torch.__version__, 'Python', platform.python_version())" |
  tee "$results/machine.txt"

for part in $parts; do
  echo "== $part, $SECONDS s after the start"
  case $part in
    build)
      if compgen -G "wheels/*.whl" >/dev/null; then "$PYTHON" -m pip install -q --no-index --no-deps wheels/*.whl; fi
      export CUDAARCHS=${CUDAARCHS:-$(fact "'%d%d' % torch.cuda.get_device_capability()")}
      MOTO_BUILD=require "$PYTHON" -m pip install -q --no-build-isolation --no-deps -e .
      "$PYTHON" -c "from moto_pl.ops.extension import build_info, status; print(status()); assert build_info()['cuda'], 'no CUDA kernels'"
      ;;
    tests) "$PYTHON" -m pytest -p no:xdist -q -rs -m gpu 2>&1 | tee "$results/tests.txt" ;;
    ops) "$PYTHON" -m benchmarks.ops --device cuda --out "$results" 2>&1 | tee "$results/ops.txt" ;;
    step)
      "$PYTHON" -m benchmarks.train_step --configs debug demo tasks/metaworld --out "$results/train_step.json" 2>&1 |
        tee "$results/train_step.txt"
      ;;
    run)
      # From ten demonstrations to a fine-tuned policy, on the GPU; stopped like any job whose time is up, which leaves a checkpoint.
      timeout --signal=TERM --kill-after=60 "${RUN_SECONDS:-240}" moto demo --dir "$results/run" 2>&1 | tee "$results/run.txt" ||
        echo "the run was stopped after ${RUN_SECONDS:-240} s"
      ;;
    *)
      echo "PARTS: found '$part'. Use build, tests, ops, step and run." >&2
      exit 2
      ;;
  esac
done
