#!/bin/sh
# Runs every program on real data, with torch.nn and with seqcuda, and writes examples/README.md from what they reached.
# usage: sh examples/run_all.sh DATA [OUT]
# DATA holds the folders sentiment-mr, multi30k-en-de, charlm-tinyshakespeare, tagging-ud-ewt, speech-japanesevowels and
# timeseries-etth1, each with the public files of that data set, as they are or gzip'd. Ctrl-C ends it; run again, it goes
# on with the program that was interrupted.
set -eu
[ $# -ge 1 ] || { echo "usage: sh examples/run_all.sh DATA [OUT]" >&2; exit 2; }
data=$1
out=${2:-out/all}

run() {
  name=$1
  shift
  [ ! -e "$out/$name/metrics.json" ] || return 0
  resume=
  ls "$out/$name"/checkpoint*.pt >/dev/null 2>&1 && resume=--resume
  echo "== $name"
  python "examples/$name.py" --out "$out/$name" $resume "$@"
}

run hello --backend both
run by_hand
run gradient_flow --backend both
run sentiment --backend both --data "$data/sentiment-mr"
run tagging --backend both --data "$data/tagging-ud-ewt"
run delayed_outputs --backend both --data "$data/speech-japanesevowels"
run forecasting --backend both --data "$data/timeseries-etth1/ETTh1.csv.gz"
run language_model --backend both --data "$data/charlm-tinyshakespeare/input.txt.gz" --hidden 256 --epochs 2 --every 250
run memory_resets --backend both
run two_processes --data "$data/sentiment-mr"
run translation --backend both --data "$data/multi30k-en-de" --epochs 5
python examples/table.py "$out"/*
