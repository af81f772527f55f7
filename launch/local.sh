#!/usr/bin/env bash
# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
#
# Trains a configuration on this machine, in one process or in several that work together through
# jax.distributed, and starts it again after faults that a restart cures: exit code 42 ("restart
# me") and deaths by signals (128 and above, Ctrl-C excepted). A restart continues from the newest
# checkpoint. It stops on 0 (done) and on what a person must mend: 2 usage or configuration, 3 data,
# 4 checkpoint, 5 loss not finite, 1 a bug. See docs/launching.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/local.sh [options] CONFIG WORKDIR [--config.a.b=VALUE ...]
  --dry-run        print the commands and stop
  --processes N    processes that train together (default 1)
  --devices N      devices of each process: virtual ones on CPU; on GPU, with several processes,
                   the next ones in turn (default 1 each; one process alone takes all GPUs)
  --port N         port on which several processes meet, on 127.0.0.1 only (default: a free one)
  --grace SECONDS  time for the others to end when one process has failed (default 60)
  --restarts N     starts after the first one, at most (default 5)
  --wait SECONDS   pause before the first restart; it doubles each time, up to 300 (default 5)
The environment variable PYTHON names the interpreter (default python).
example:
  launch/local.sh configs/quickstart.py runs/quickstart
TEXT
}

fail() {
  echo "local.sh: $1" >&2
  exit 2
}

# Prints a command so that a shell would read it back.
show() {
  local line
  line=$(printf '%q ' "$@")
  echo "${line% }"
}

dry_run=false processes=1 devices='' port='' grace=60 restarts=5 wait=5
while [[ $# -gt 0 ]]; do
  case $1 in
    --dry-run) dry_run=true ;;
    --processes | --devices | --port | --grace | --restarts | --wait)
      [[ ${2-} =~ ^[0-9]+$ ]] || fail "$1 needs a number"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) fail "unknown option $1; --help lists them" ;;
    *) break ;;
  esac
  shift
done
if [[ $# -lt 2 ]]; then
  usage >&2
  exit 2
fi
[[ $processes -ge 1 && $devices != 0 ]] || fail "--processes and --devices must be 1 or more"
python=${PYTHON:-python}
command=("$python" -m nbp.train --config "$1" --workdir "$2" "${@:3}")

# Puts the command of process $1 into `full`, which meets the others at port $2.
compose() {
  local first=$(($1 * ${devices:-1})) own=${devices:-1} list variables=()
  if [[ $processes -gt 1 ]]; then
    list=$(seq -s , "$first" $((first + own - 1)))
    variables+=("NBP_COORDINATOR=127.0.0.1:$2" "NBP_PROCESSES=$processes" "NBP_PROCESS=$1")
    variables+=("JAX_LOCAL_DEVICE_IDS=$list")
  fi
  if [[ $processes -gt 1 || -n $devices ]]; then
    variables+=("XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$own")
  fi
  full=("${command[@]}")
  [[ ${#variables[@]} -eq 0 ]] || full=(env "${variables[@]}" "${command[@]}")
}

if $dry_run; then
  for ((i = 0; i < processes; i++)); do
    compose "$i" "${port:-PORT}"
    show "${full[@]}"
  done
  exit 0
fi

# A signal to this script must reach the training, which saves and stops; then nothing restarts.
children=() pause='' stopped=false
forward() {
  stopped=true
  kill -TERM ${children[@]+"${children[@]}"} ${pause:+"$pause"} 2>/dev/null || true
}
trap forward TERM INT

# Starts all processes. Lines of all but the first, which are errors, begin with their number.
start() {
  local i meeting=$port
  if [[ $processes -gt 1 && -z $port ]]; then
    meeting=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
  fi
  children=()
  for ((i = 0; i < processes; i++)); do
    compose "$i" "$meeting"
    if [[ $i -eq 0 ]]; then
      "${full[@]}" &
    else
      "${full[@]}" > >(awk -v label="[$i] " '{ print label $0; fflush() }' >&2) 2>&1 &
    fi
    children+=($!)
  done
}

# Waits for all processes and puts into `code` what decides: the first failure, or what a person
# must mend. The others cannot go on without one that failed: they end by themselves, or are killed.
collect() {
  local pid status alive deadline=''
  code=0
  while [[ ${#children[@]} -gt 0 ]]; do
    alive=()
    for pid in "${children[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        alive+=("$pid")
        continue
      fi
      status=0
      wait "$pid" || status=$?
      if [[ $status -ne 0 && ($code -eq 0 || ($status -ge 2 && $status -le 5)) ]]; then
        code=$status
      fi
    done
    children=(${alive[@]+"${alive[@]}"})
    [[ ${#children[@]} -gt 0 ]] || break
    if [[ $code -ne 0 ]]; then
      : "${deadline:=$((SECONDS + grace))}"
      if [[ $SECONDS -ge $deadline ]]; then
        echo "local.sh: killing the processes that still run $grace s after one failed" >&2
        kill -KILL "${children[@]}" 2>/dev/null || true
        deadline=$((SECONDS + grace))
      fi
    fi
    sleep 0.2 &
    wait $! || true
  done
}

for ((attempt = 0; ; attempt++)); do
  start
  collect
  if $stopped || [[ $code -ne 42 && ($code -lt 128 || $code -eq 130) ]]; then
    exit "$code"
  fi
  if [[ $attempt -ge $restarts ]]; then
    echo "local.sh: exit code $code, and $restarts restarts are used up" >&2
    exit "$code"
  fi
  echo "local.sh: exit code $code; restart $((attempt + 1)) of $restarts in $wait s" >&2
  sleep "$wait" &
  pause=$!
  wait "$pause" || true
  pause=''
  if $stopped; then
    exit "$code"
  fi
  wait=$((wait * 2 > 300 ? 300 : wait * 2))
done
