#!/usr/bin/env bash
# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
#
# Trains a configuration on this machine and starts it again after faults that a restart cures:
# exit code 42 ("restart me") and deaths by signals (128 and above, Ctrl-C excepted). A restart
# continues from the newest checkpoint. It stops on 0 (done) and on what a person must mend:
# 2 usage or configuration, 3 data, 4 checkpoint, 5 loss not finite, 1 a bug.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/local.sh [--dry-run] [--restarts N] [--wait SECONDS] CONFIG WORKDIR [--config.a.b=VALUE ...]
  --dry-run       print the command and stop
  --restarts N    starts after the first one, at most (default 5)
  --wait SECONDS  pause before the first restart; it doubles each time, up to 300 (default 5)
The environment variable PYTHON names the interpreter (default python).
TEXT
}

dry_run=false restarts=5 wait=5
while [[ $# -gt 0 ]]; do
  case $1 in
    --dry-run) dry_run=true ;;
    --restarts | --wait)
      if [[ ! ${2-} =~ ^[0-9]+$ ]]; then
        echo "local.sh: $1 needs a number" >&2
        exit 2
      fi
      if [[ $1 == --restarts ]]; then restarts=$2; else wait=$2; fi
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*)
      echo "local.sh: unknown option $1" >&2
      usage >&2
      exit 2
      ;;
    *) break ;;
  esac
  shift
done
if [[ $# -lt 2 ]]; then
  usage >&2
  exit 2
fi
command=("${PYTHON:-python}" -m nbp.train --config "$1" --workdir "$2" "${@:3}")

if $dry_run; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi

# A signal to this script must reach the training, which saves and stops; then nothing restarts.
child='' stopped=false
forward() {
  stopped=true
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap forward TERM INT

for ((attempt = 0; ; attempt++)); do
  "${command[@]}" &
  child=$!
  code=0
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # a trapped signal ended `wait`, not the training
    code=0
    wait "$child" || code=$?
  done
  child=''
  if $stopped || [[ $code -ne 42 && ($code -lt 128 || $code -eq 130) ]]; then
    exit "$code"
  fi
  if [[ $attempt -ge $restarts ]]; then
    echo "local.sh: exit code $code, and $restarts restarts are used up" >&2
    exit "$code"
  fi
  echo "local.sh: exit code $code; restart $((attempt + 1)) of $restarts in $wait s" >&2
  sleep "$wait" &
  child=$!
  wait "$child" || true
  if $stopped; then
    exit "$code"
  fi
  wait=$((wait * 2 > 300 ? 300 : wait * 2))
done
