#!/usr/bin/env bash
# Everything that wants a GPU, in order of worth, on a machine that has one for minutes only: compiled operators, their parity,
# whole steps, operators, an exact resume, a training run. Each part has a time limit, and the next one runs whatever became of it.
#
#   bash benchmarks/gpu.sh [--dry] [--seconds N] [--out FOLDER] [PART...]
#   bash benchmarks/gpu.sh --pack PYTHON
#
# PART: build, tests, step, ops, resume, run; all by default, in this order. --seconds: for all of them together (540); what the
# others leave is the training run's. --out: the results, eight files at most (benchmarks/results/gpu_<device>_<date>).
# --dry: the same on a CPU at small sizes, in a copy of the tree, so that nothing fails on the GPU for a silly reason.
#
# The machine needs Python 3.12, torch, lightning and what they bring; nothing is downloaded. What else it lacks lies in ./wheels, which
# --pack makes on a machine that has the same Python and torch, nvcc, and pip's index: the packages, and moto_pl built for CUDAARCHS
# (90). Two runs of ten minutes: "--seconds 570 build tests step ops resume", then "--seconds 570 build run".
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} ALL=(build tests step ops resume run)
# Seconds that a part may take; the run gets what is left.
declare -A LIMIT=([build]=150 [tests]=150 [step]=170 [ops]=100 [resume]=90 [run]=3600)
# What the GPU's image lacks and training needs; these and the tree travel in 64 MiB. Gymnasium-Robotics (the kitchen) and
# imageio-ffmpeg (films) stay behind: they alone are larger.
CARRIED=(metaworld mujoco glfw PyOpenGL gymnasium Farama-Notifications jsonargparse docstring_parser typeshed_client minari
  importlib_resources)
ABSENT=(gymnasium_robotics imageio_ffmpeg pettingzoo av onnxruntime ruff)

sources() { find csrc CMakeLists.txt setup.py -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-64; }

pack() { # PYTHON: makes ./wheels
  local python=$1
  rm -rf wheels && mkdir wheels
  for name in "${CARRIED[@]}"; do
    version=$(grep -ioP "^$name==\K.*" constraints.txt || true)
    "$python" -m pip download -q --no-deps --only-binary=:all: -d wheels "$name${version:+==$version}" || return 1
  done
  CUDAARCHS=${CUDAARCHS:-90} MOTO_BUILD=require "$python" -m pip wheel -q --no-build-isolation --no-deps -w wheels . || return 1
  sources >wheels/SOURCES
  du -sh wheels
}

dry_copy() { # FOLDER: the tree as it travels, without its history and what git ignores
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do [[ -e $file ]] && printf '%s\0' "$file"; done |
    tar --null -T - -c | tar -x -C "$1"
  if [[ -d wheels ]]; then cp -r wheels "$1/wheels"; fi
  # What was built here saves the time of a build where it is of this Python and torch.
  if compgen -G "moto_pl/_C*.so" >/dev/null; then cp moto_pl/_C*.so moto_pl/_build.json "$1/moto_pl/"; fi
}

part_build() {
  if compgen -G "wheels/*.whl" >/dev/null; then
    # Unpacked rather than installed: all of them are plain folders, and it takes no time.
    "$PYTHON" -c "import glob, sys, zipfile
for name in glob.glob('wheels/*.whl'):
    if not name.startswith('wheels/moto_pl-'): zipfile.ZipFile(name).extractall(sys.argv[1])" "$SITE"
    # The module of the wheel, if it is of these sources: another torch or Python is found out when it is loaded.
    if [[ "$(cat wheels/SOURCES 2>/dev/null)" == "$(sources)" ]]; then
      "$PYTHON" -c "import glob, zipfile
for name in glob.glob('wheels/moto_pl-*.whl'):
    zipped = zipfile.ZipFile(name)
    zipped.extractall('.', [f for f in zipped.namelist() if f.startswith('moto_pl/_C') or f == 'moto_pl/_build.json'])"
    else
      echo "build: the wheel is not of these sources"
    fi
  fi
  if check_build; then return 0; fi
  CUDAARCHS=${CUDAARCHS:-90} MOTO_BUILD=require "$PYTHON" setup.py -q build_ext --inplace && check_build
}

check_build() { "$PYTHON" -c "import sys, torch
from moto_pl.ops.extension import available, build_info, status
print(status(), build_info().get('cuda_architectures', ''))
sys.exit(not available() or (torch.cuda.is_available() and not build_info()['cuda']))"; }

part_tests() {
  local names=(tests/parity/test_cuda.py tests/agents/test_capture.py tests/ops/test_philox.py tests/ops/test_lambda_return.py
    tests/replay/test_loader.py tests/replay/test_sampler.py)
  local marked=(-m gpu)
  if [[ $DRY ]]; then marked=(-m "gpu or not slow" -k "gpu or cuda or philox"); fi
  "$PYTHON" -m pytest -p no:xdist -p no:cacheprovider -q -rs --tb=short --junit-xml="$WORK/tests.xml" "${marked[@]}" "${names[@]}"
  local status=$?
  "$PYTHON" -m benchmarks.gpu_parity "$WORK/tests.xml" | tee "$RESULTS/tests.txt"
  return $status
}

part_step() {
  local sizes=(--configs tasks/metaworld demo --rounds 20)
  if [[ $DRY ]]; then sizes=(--configs debug --rounds 1); fi
  "$PYTHON" -m benchmarks.gpu_step "${sizes[@]}" --out "$RESULTS/step.json"
}

part_ops() {
  local sizes=(--device cuda --shapes 3 1 --rounds 5)
  if [[ $DRY ]]; then sizes=(--shapes 0 --tasks observe --quick); fi
  "$PYTHON" -m benchmarks.ops "${sizes[@]}" --out "$WORK/ops" && cp "$WORK"/ops/*.json "$RESULTS/ops.json"
}

part_resume() { "$PYTHON" -m benchmarks.gpu_resume --work "$WORK/resume" --out "$RESULTS/resume.json"; }

part_run() {
  local config=tasks/reach run=$WORK/run status
  if answers_egl; then config=tasks/metaworld/drawer_open; else echo "run: no rendering, so the reaching task"; fi
  local settings=(--config "configs/$config.yaml" --size paper --data.eval_every 1000 --data.eval_episodes 20 --trainer.precision bf16-mixed)
  if [[ $DRY ]]; then
    settings=(--config "configs/$config.yaml" --size debug --data.eval_episodes 1 --data.value_steps 10)
    settings+=(--data.env_workers 0 --data.offline_steps 10 --data.online_steps 5)
    if [[ $config != tasks/reach ]]; then settings+=(--data.build_options.episodes 2); fi
  fi
  # Stopped like any job whose time is up, which leaves a checkpoint.
  timeout --signal=TERM --kill-after=30 $((PART_SECONDS * 4 / 5)) "$PYTHON" -m moto_pl.cli fit "${settings[@]}" \
    --trainer.default_root_dir "$run" --video_episodes 0
  status=$?
  if ((status == 124 || status == 143)); then echo "run: its time was up, as foreseen" && status=0; fi
  keep_run "$run"
  if [[ -e $run/checkpoints/last.ckpt && ! $DRY ]]; then
    timeout $((PART_SECONDS / 6)) "$PYTHON" -m moto_pl.cli validate --ckpt_path "$run/checkpoints/last.ckpt" \
      --data.eval_episodes 20 --video_episodes 0 | tee "$run/validate.txt"
    keep_run "$run"
  fi
  return $status
}

answers_egl() { timeout 60 "$PYTHON" -c "from moto_pl import doctor; print('rendering:', doctor.measure_rendering(0.5))"; }

# Figures without weights and episodes, which are larger than what may come back.
keep_run() { (cd "$1" 2>/dev/null && find . -type f -size -4M ! -name '*.ckpt' ! -name '*.safetensors' -print0 | tar --null -T - -czf "$RESULTS/run.tar.gz"); }

# The command line.

DRY=${DRY:-} seconds=540 out= parts=()
while (($#)); do
  case $1 in
    --pack) pack "${2:?--pack takes the Python that the wheels are for}" && exit 0 || exit 1 ;;
    --one) # a part, from below, within its time limit
      "part_$2"
      exit
      ;;
    --dry) DRY=1 ;;
    --seconds) seconds=${2:?} && shift ;;
    --out) out=${2:?} && shift ;;
    build | tests | step | ops | resume | run) parts+=("$1") ;;
    *)
      echo "PART: found '$1'. Use ${ALL[*]}." >&2
      exit 2
      ;;
  esac
  shift
done
((${#parts[@]})) || parts=("${ALL[@]}")

fact() { "$PYTHON" -c "import torch; print($1)"; }
if [[ $DRY ]]; then
  name=dry
else
  name=$(fact "torch.cuda.get_device_name().replace(' ', '_')") || { echo "no CUDA device, or a torch without CUDA; --dry runs on a CPU" >&2 && exit 2; }
fi
RESULTS=${out:-benchmarks/results/gpu_${name}_$(date +%F)}
mkdir -p "$RESULTS" && RESULTS=$(cd "$RESULTS" && pwd)
WORK=$(mktemp -d "${TMPDIR:-/tmp}/moto_gpu.XXXXXX") SITE=$WORK/site
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$SITE"
if [[ $DRY ]]; then
  mkdir "$WORK/tree" && dry_copy "$WORK/tree" && cd "$WORK/tree" || exit 2
  for part in "${ALL[@]}"; do LIMIT[$part]=$((seconds / 3)); done # they only keep a part that hangs from holding up the rest
  export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
  # What this environment may have and the GPU's lacks.
  echo "import sys; sys.modules.update(dict.fromkeys('${ABSENT[*]}'.split()))" >"$SITE/sitecustomize.py"
else
  export MUJOCO_GL=${MUJOCO_GL:-egl}
fi
export DRY RESULTS WORK SITE PYTHON PYTHONUNBUFFERED=1 PYTHONPATH=$SITE:$PWD:$PWD/tests MINARI_DATASETS_PATH=$WORK/datasets
export CUBLAS_WORKSPACE_CONFIG=:4096:8 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONDONTWRITEBYTECODE # or each part compiles the package again
fact "'Python', __import__('platform').python_version(), 'torch', torch.__version__, 'on', torch.cuda.get_device_name() if torch.cuda.is_available() else 'the CPU'" |
  tee "$RESULTS/summary.txt"

failed=0
for part in "${parts[@]}"; do
  left=$((seconds - SECONDS - 10)) PART_SECONDS=${LIMIT[$part]}
  ((PART_SECONDS <= left)) || PART_SECONDS=$left
  if ((PART_SECONDS < 15)); then
    echo "$part: not begun, $left s were left" | tee -a "$RESULTS/summary.txt" && failed=1
    continue
  fi
  export PART_SECONDS
  begun=$SECONDS
  echo "== $part, $SECONDS s after the start"
  timeout --signal=TERM --kill-after=20 "$PART_SECONDS" bash benchmarks/gpu.sh --one "$part" 2>&1 | tee -a "$RESULTS/log.txt"
  status=${PIPESTATUS[0]}
  ((status == 0)) || failed=1
  echo "$part: $( ((status == 0)) && echo good || echo "exit status $status"), $((SECONDS - begun)) s" | tee -a "$RESULTS/summary.txt"
done
exit $failed
