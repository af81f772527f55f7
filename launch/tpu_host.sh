#!/usr/bin/env bash
# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
#
# What launch/tpu_pod.sh does on each host of a TPU; it is copied there and called through ssh.
#
#   tpu_host.sh prepare [SERVER:/EXPORT] [SETUP]  mounts the export, runs the script, installs
#   tpu_host.sh running                           succeeds if a training runs here
#   tpu_host.sh start COMMAND...                  starts the command, unless it is running
#   tpu_host.sh follow LINES                      shows its output, from LINES before the end, as
#                                                 long as it runs; "all" shows all of it
#   tpu_host.sh finish SECONDS                    waits for it, kills it after SECONDS, and prints
#                                                 "nbp-exit CODE", or "nbp-exit none" if it is gone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
state=$HOME/nbp-run
mount=/mnt/nbp
venv=$HOME/nbp-venv

boot=$(cat /proc/sys/kernel/random/boot_id) # after a reboot a process's number means another one

is_running() {
  [[ -s $state/pid && ! -e $state/code && $(cat "$state/boot") == "$boot" ]] &&
    kill -0 "$(cat "$state/pid")" 2>/dev/null
}

case ${1-} in
  prepare)
    export_=${2-} setup=${3-}
    if [[ -n $export_ ]] && ! mountpoint --quiet "$mount"; then
      if ! command -v mount.nfs >/dev/null; then
        sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
        sudo apt-get -qq -o DPkg::Lock::Timeout=600 install -y nfs-common
      fi
      sudo mkdir -p "$mount"
      sudo mount -t nfs -o hard,noatime "$export_" "$mount"
    fi
    if [[ -n $setup ]]; then
      bash "$setup"
    fi
    # Images of TPUs bring an older Python than JAX needs; uv brings a newer one.
    wanted=$(sha256sum requirements.txt)
    if [[ $(cat "$venv/installed" 2>/dev/null) != "$wanted" ]]; then
      python3 -m pip install --user --quiet uv
      python3 -m uv venv --quiet --clear --python 3.12 "$venv"
      python3 -m uv pip install --quiet --python "$venv/bin/python" --requirement requirements.txt 'jax[tpu]'
      echo "$wanted" >"$venv/installed"
    fi
    ;;
  running) is_running ;;
  start)
    if is_running; then
      exit 0
    fi
    mkdir -p "$state"
    rm -f "$state/code"
    echo "$boot" >"$state/boot"
    : >"$state/log"
    # Away from the connection, which may break while the training goes on.
    # shellcheck disable=SC2016
    PATH=$venv/bin:$PATH NBP_DISTRIBUTED=auto NBP_STATE=$state setsid nohup bash -c \
      'code=0; "$@" >>"$NBP_STATE/log" 2>&1 || code=$?; echo "$code" >"$NBP_STATE/code"' \
      nbp "${@:2}" >/dev/null 2>&1 </dev/null &
    echo $! >"$state/pid"
    ;;
  follow)
    from=${2:-all}
    [[ $from != all ]] || from=+1
    tail --lines="$from" --follow --pid="$(cat "$state/pid")" "$state/log"
    ;;
  finish)
    deadline=$((SECONDS + ${2:-0}))
    while is_running && [[ $SECONDS -lt $deadline ]]; do
      sleep 1
    done
    if is_running; then
      kill -KILL -- "-$(cat "$state/pid")" 2>/dev/null || true # setsid made it lead its group
      echo 137 >"$state/code"
    fi
    echo "nbp-exit $(cat "$state/code" 2>/dev/null || echo none)"
    ;;
  *)
    echo "tpu_host.sh: use prepare, running, start, follow or finish" >&2
    exit 2
    ;;
esac
