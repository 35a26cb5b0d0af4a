#!/usr/bin/env bash
# Everything that needs a GPU, in one command on a bare machine without a network. See usage below.
set -uo pipefail

usage() {
  cat << 'TEXT'
bash benchmarks/gpu.sh [--only STAGE,STAGE...] [--budget SECONDS] [FOLDER]

Builds the library for this machine's GPU, tests and measures it, and writes logs and JSON to FOLDER (default
benchmarks/results/gpu). Stages, in this order:

  machine   what this machine is
  build     the library with CUDA, for this GPU alone, into a temporary folder; nothing is installed
  tests     pytest -m cuda
  sanitize  compute-sanitizer memcheck and racecheck over benchmarks/sanitize_case.py, where the tool exists
  probe     benchmarks/probe/costs.cu: barriers, distributed shared memory, launches, rates    -> costs.json
  bench     benchmarks/run.py --device cuda                                                    -> bench.json
  tune      benchmarks/tune.py --quick                                                         -> tune.json
  profile   hardware counters of the main kernels by ncu, where the tool works

A stage has its own time limit within the budget of all (default 570 seconds); the last one gets all that is left. A
failure stops no later stage. Logs end up in one file, log.txt. The exit status is 1 if build, tests or sanitize failed,
2 if there is nothing to run on. --only runs those stages, and the build where they need it. Two variables are read:
PYTHON, the interpreter (default python3), and HAMILTORCH_COMMIT, what the results call this copy where git does not say.
TEXT
}

ALL="machine build tests sanitize probe bench tune profile"
only=$ALL
BUDGET=570
FOLDER=$(dirname "$0")/results/gpu
while (($#)); do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --only) only=${2:?--only needs stages} && only=${only//,/ } && shift ;;
    --budget) BUDGET=${2:?--budget needs seconds} && shift ;;
    -*) usage >&2 && exit 2 ;;
    *) FOLDER=$1 ;;
  esac
  shift
done
for stage in $only; do
  [[ " $ALL " == *" $stage "* ]] || { echo "gpu.sh: no stage $stage; there are: $ALL" >&2 && exit 2; }
done
# What imports the library needs it built.
[[ " $only " =~ \ (tests|sanitize|bench|tune|profile)\  && " $only " != *" build "* ]] && only="build $only"

export PYTHON=${PYTHON:-python3} PATH=$PATH:/usr/local/cuda/bin

# The GPU's architecture: with its own instructions ("90a") where they are a set apart.
ARCHITECTURE=$("$PYTHON" -c '
import torch
if not torch.cuda.is_available():
    raise SystemExit(f"torch {torch.__version__} sees no CUDA device")
major, minor = torch.cuda.get_device_capability()
print(f"{major}{minor}" + ("a" if major >= 9 else ""))' 2>&1) || {
  echo "gpu.sh: nothing to run on: ${ARCHITECTURE##*$'\n'}" >&2
  exit 2
}
export ARCHITECTURE=${ARCHITECTURE##*$'\n'} # what stands before it are warnings

mkdir -p "$FOLDER" && FOLDER=$(cd "$FOLDER" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
WORK=$(mktemp -d) || exit 2
export FOLDER WORK SITE=$WORK/site
export PYTHONPATH=$SITE${PYTHONPATH:+:$PYTHONPATH}

SKIPPED=77 # a stage's exit status where the machine lacks what it needs

stage_machine() {
  nvidia-smi || true
  nvcc --version || true
  "$PYTHON" --version
  "$PYTHON" -m pip list 2> /dev/null | grep -iE '^(torch|jax|triton|numpy|pybind11|scikit.build|cmake|ninja|pytest) ?' || true
  for tool in compute-sanitizer ncu; do command -v "$tool" || echo "no $tool"; done
}

stage_build() {
  CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) "$PYTHON" -m pip install --no-index --no-build-isolation --no-deps \
    --disable-pip-version-check --upgrade --target "$SITE" -C cmake.define.HAMILTORCH_CUDA=ON \
    -C "cmake.define.HAMILTORCH_CUDA_ARCHITECTURES=$ARCHITECTURE-real" .
  "$PYTHON" -m hamiltorch_ext
}

stage_tests() {
  local ignored=()
  # The experiment's tests need packages of its own.
  "$PYTHON" -c 'import av, typer' 2> /dev/null || ignored=('--ignore-glob=*/test_worlds_*')
  "$PYTHON" -m pytest tests -m cuda -q --durations=5 -p no:cacheprovider "${ignored[@]}"
}

stage_sanitize() {
  command -v compute-sanitizer || return "$SKIPPED"
  # Only our kernels: torch's are many and not in question. Without torch's cache of memory every tensor is an
  # allocation of its own, beyond whose end memcheck sees.
  local tool failed=0
  for tool in memcheck racecheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout --kill-after=5 $((STAGE_SECONDS / 2 - 3)) compute-sanitizer \
      --tool "$tool" --kernel-name kns=hamiltorch --report-api-errors no --print-limit 20 --error-exitcode 3 \
      "$PYTHON" benchmarks/sanitize_case.py || { echo "$tool: exit status $?" && failed=1; }
  done
  return "$failed"
}

stage_probe() {
  rm -f "$FOLDER/costs.json"
  nvcc -std=c++17 -O3 -gencode "arch=compute_$ARCHITECTURE,code=sm_$ARCHITECTURE" benchmarks/probe/costs.cu \
    -o "$WORK/costs"
  local rc=0
  "$WORK/costs" > "$WORK/costs.json" || rc=$?
  if [[ -s $WORK/costs.json ]]; then cat "$WORK/costs.json" && mv "$WORK/costs.json" "$FOLDER/costs.json"; fi
  return "$rc"
}

stage_bench() {
  rm -f "$FOLDER/bench.json"
  # What is begun has to end in time as well; a case in which much is compiled may take a minute.
  "$PYTHON" benchmarks/run.py --device cuda --output "$FOLDER/bench.json" \
    --budget $((STAGE_SECONDS > 120 ? STAGE_SECONDS - 60 : STAGE_SECONDS / 2))
}

stage_tune() {
  rm -f "$FOLDER/tune.json"
  "$PYTHON" benchmarks/tune.py --quick --budget $((STAGE_SECONDS * 2 / 3)) --output "$FOLDER/tune.json"
}

stage_profile() {
  command -v ncu || return "$SKIPPED"
  # The clocks stay as they are.
  ncu --clock-control none --kernel-name-base demangled --kernel-name regex:hamiltorch \
    --launch-count 40 --section SpeedOfLight --section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis \
    --section WarpStateStats --section LaunchStats \
    "$PYTHON" benchmarks/profile_case.py rollout/paper/b1 rollout/paper/b32 rollout/paper/b1024 training/paper/b32
}
export -f stage_machine stage_build stage_tests stage_sanitize stage_probe stage_bench stage_tune stage_profile
export SKIPPED PYTHONUNBUFFERED=1

fold_logs() { # few files are easier to carry off than many
  for stage in $ALL; do
    [[ -f $FOLDER/$stage.log ]] || continue
    printf '\n======== %s\n' "$stage" && cat "$FOLDER/$stage.log" && rm "$FOLDER/$stage.log"
  done > "$FOLDER/log.txt"
  rm -rf "$WORK"
}
trap fold_logs EXIT

last=
for stage in $ALL; do
  [[ " $only " == *" $stage "* ]] && last=$stage
done
failed=0
summary=()
run_stage() { # name, seconds it may take at most
  local name=$1 limit=$2 left=$((BUDGET - SECONDS)) start=$SECONDS rc state
  [[ " $only " == *" $name "* ]] || return 0
  if ((left < 5)); then
    summary+=("$(printf '%-9s %-24s' "$name" 'not run: out of time')")
    [[ " build tests sanitize " == *" $name "* ]] && failed=1
    return 0
  fi
  [[ $name == "$last" ]] || ((left < limit)) && limit=$left
  echo "== $name (at most $limit s)"
  STAGE_SECONDS=$limit timeout --kill-after=10 "$limit" bash -euo pipefail -c "stage_$name" > "$FOLDER/$name.log" 2>&1
  rc=$?
  case $rc in
    0) state=ok ;;
    "$SKIPPED") state="not run: no such tool" ;;
    124 | 137) state="FAILED: out of time" ;;
    *) state="FAILED: status $rc" ;;
  esac
  if [[ $state == FAILED* ]]; then
    tail -n 40 "$FOLDER/$name.log"
    [[ " build tests sanitize " == *" $name "* ]] && failed=1
  fi
  summary+=("$(printf '%-9s %-24s %4d s' "$name" "$state" $((SECONDS - start)))")
}

run_stage machine 20
run_stage build 200
run_stage tests 120
run_stage sanitize 90
run_stage probe 45
run_stage bench 230
run_stage tune 60
run_stage profile 60

printf '\n'
printf '%s\n' "${summary[@]}"
echo "results in $FOLDER, $SECONDS s in all"
exit "$failed"
