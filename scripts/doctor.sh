#!/bin/sh
# Prints a Python that can build and run seqcuda, or says in one sentence on stderr what this machine lacks.
# usage: doctor.sh VENV    VENV: the virtual environment in use or to be made

fail() {
  echo "seqcuda: $1." >&2
  exit 1
}

fits() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' >/dev/null 2>&1
}

venv=$1
python=
for candidate in "$venv/bin/python" "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10 python3.14; do
  if fits "$candidate"; then
    python=$candidate
    break
  fi
  if [ "$candidate" = "$venv/bin/python" ] && [ -e "$candidate" ]; then
    fail "the virtual environment $venv has no Python 3.10 to 3.14; leave it or delete it"
  fi
done
[ -n "$python" ] || fail "no Python 3.10 to 3.14 found (python3, python3.10 ... python3.14 on PATH); install one or set PYTHON"

compiler=${CXX:-c++}
command -v ${compiler%% *} >/dev/null 2>&1 ||
  fail "no C++ compiler (${compiler%% *}) found; install one with C++20 (GCC 11 or Clang 14) or set CXX"
echo '#include <concepts>' | $compiler -std=c++20 -fsyntax-only -x c++ - >/dev/null 2>&1 ||
  fail "the C++ compiler ($compiler) does not know C++20; GCC 11 or Clang 14 does"

headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || fail "the headers of $("$python" -V) are missing; install python3-dev or python3-devel"

if [ ! -x "$venv/bin/python" ]; then
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "$("$python" -V) cannot make virtual environments; install python3-venv"
  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
  [ "$free" -ge 3000 ] || fail "$free MB of disk space are left here, and torch needs at least 3000"
fi
echo "$python"
