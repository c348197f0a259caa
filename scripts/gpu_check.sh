#!/usr/bin/env bash
# On a machine with a GPU and nvcc: builds for that GPU, runs the tests that need it, some of them under
# compute-sanitizer, and measures the engines against cuDNN. Installs nothing.
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

tests=("$python" -m pytest -q -m gpu -p no:cacheprovider tests/test_cuda.py tests/test_cuda_device.py tests/test_cli.py)
workers=()
"$python" -c 'import xdist' 2>/dev/null && workers=(-n "$(($(nproc) < 8 ? $(nproc) : 8))")
step tests $((seconds / 4)) "${tests[@]}" "${workers[@]}"

sanitizer=$(command -v compute-sanitizer || command -v "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
if [ -z "$sanitizer" ]; then
  echo "== compute-sanitizer is not installed"
elif ! timeout 60 "$sanitizer" "$python" -c 'import torch; torch.zeros(1, device="cuda")' >"$out/sanitizer.log" 2>&1; then
  echo "== compute-sanitizer cannot run here: $(grep -m 1 -i error "$out/sanitizer.log")"
else
  # Without torch's cache of memory an index outside a tensor is outside what was allocated.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  for tool in memcheck racecheck; do
    step "$tool" $((seconds / 6)) "$sanitizer" --tool "$tool" --error-exitcode 1 \
      --report-api-errors no "${tests[@]}" -k sanitizer_sample
  done
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
fi

# What is left, but for writing the last results.
step benchmarks "$(left)" "$python" -m benchmarks.cuda --seconds "$(($(left) > 30 ? $(left) - 15 : 1))" --out "$out"

for name in "${failed[@]}"; do
  echo "FAILED: $name"
done
echo "$SECONDS seconds; everything is in $out"
exit $((${#failed[@]} > 0))
