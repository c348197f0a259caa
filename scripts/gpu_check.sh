#!/usr/bin/env bash
# On a machine with a GPU and nvcc: builds for that GPU, runs the tests that need it, measures the engines against cuDNN,
# and runs some of the tests under compute-sanitizer. Installs nothing.
#
# usage: scripts/gpu_check.sh [FOLDER [SECONDS]]
#   FOLDER    gets the logs, the results as JSON and their page (default: out/gpu_check)
#   SECONDS   in which all of it ends (default: 520): the most important layers are measured first
# PYTHON: one that has torch with CUDA, setuptools, ninja and pytest (default: that of the active environment). The exit
# status is 0 where everything ran and was right, 2 where nothing can run here.
set -uo pipefail

out=$(realpath -m "${1:-out/gpu_check}") seconds=${2:-520}
cd "$(dirname "$0")/.."
python=${PYTHON:-${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/}python3}
failed=()

stop() {
  echo "error: $1" >&2
  exit 2
}

left() { echo $((seconds - SECONDS)); }

# step NAME LIMIT COMMAND...: at most so many seconds, and what is left; the log goes to FOLDER/NAME.log.
step() {
  local name=$1 limit=$2
  shift 2
  ((limit <= $(left))) || limit=$(left)
  if ((limit < 1)); then
    echo "== $name: not run, no time is left"
    failed+=("$name, not run")
    return 1
  fi
  echo "== $name, at most $limit seconds"
  timeout --kill-after=5 "$limit" "$@" </dev/null >"$out/$name.log" 2>&1
  local status=$?
  tail -n 4 "$out/$name.log" | cut -c -200
  ((status == 0)) || failed+=("$name, exit status $status, see $out/$name.log")
  return $status
}

[[ $seconds =~ ^[1-9][0-9]*$ ]] || stop "SECONDS must be a number above 0, got $seconds"
mkdir -p "$out" || stop "$out cannot be made"
architecture=$("$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}.{minor}" + "a" * (major == 9))' 2>&1 | tail -n 1)
[[ $architecture =~ ^[0-9]+\.[0-9]a?$ ]] || stop "$python finds no GPU: $architecture"

export TORCH_CUDA_ARCH_LIST=$architecture SEQCUDA_CUDA=1 OMP_WAIT_POLICY=passive PYTHONPATH=$PWD PYTHONUNBUFFERED=1
step build $((seconds / 2)) "$python" setup.py build_ext --inplace || {
  cat "$out/build.log"
  stop "the extension could not be built"
}
"$python" -m seqcuda info | tee "$out/info.log"

# Names, since what ends a step early prints no summary, and where a test hangs.
pytest=("$python" -m pytest -v -m gpu -p no:cacheprovider -o faulthandler_timeout=20)
tests=(tests/test_cuda.py tests/test_cuda_device.py tests/test_cli.py)
"$python" -c 'import xdist' 2>/dev/null && tests+=(-n "$(($(nproc) < 8 ? $(nproc) : 8))")
"$python" -c 'import pytest_timeout' 2>/dev/null && tests+=(--timeout=40 --timeout-method=thread)
# Apart: an engine that hangs, or leaves a process no GPU to use, takes the tests of no other with it.
step tests-stepwise $((seconds / 6)) "${pytest[@]}" "${tests[@]}" -k "not group and not cluster"
step tests-group $((seconds / 8)) "${pytest[@]}" "${tests[@]}" -k group
step tests-cluster $((seconds / 8)) "${pytest[@]}" "${tests[@]}" -k "cluster and not group"

# What is left, but for writing the last results, and for the sanitizers a sixth of all or half of what is left.
sanitizer=$(command -v compute-sanitizer || command -v "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
limit=$(left) kept=0
[ -n "$sanitizer" ] && kept=$((seconds / 6 < limit / 2 ? seconds / 6 : limit / 2))
((limit -= kept))
step benchmarks "$limit" "$python" -m benchmarks.cuda --seconds "$((limit > 30 ? limit - 15 : 1))" --out "$out"

# Last: under a sanitizer a step takes as long as it is given.
try() { timeout $(($(left) < 60 ? $(left) : 60)) "$@" >"$out/sanitizer.log" 2>&1; }
if [ -z "$sanitizer" ]; then
  echo "== compute-sanitizer is not installed"
elif (($(left) > 1)) && ! try "$sanitizer" "$python" -c 'import torch; torch.zeros(1, device="cuda")'; then
  echo "== compute-sanitizer cannot run here: $(grep -m 1 -i error "$out/sanitizer.log")"
else
  # Without torch's cache of memory an index outside a tensor is outside what was allocated.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  sanitize() {
    step "$1" "$2" "$sanitizer" --tool "$1" --error-exitcode 1 --report-api-errors no \
      "${pytest[@]}" tests/test_cuda_device.py -k sanitizer_sample
  }
  sanitize memcheck $(($(left) / 2))
  sanitize racecheck "$(left)"
fi

for name in "${failed[@]}"; do
  echo "FAILED: $name"
done
echo "$SECONDS seconds; everything is in $out"
exit $((${#failed[@]} > 0))
