#!/usr/bin/env bash
# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
#
# Trains a configuration on a Cloud TPU: requests it as a queued resource, waits for it, copies this
# project to its hosts and installs requirements.txt there, runs the training on all hosts, shows
# the output, and does it again after a preemption or a fault that a restart cures. The training
# runs on the TPU, not in this script: after an interruption the same command watches it again.
# See docs/launching.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu_pod.sh --name NAME --type TYPE --zone ZONE --project PROJECT [options]
                         CONFIG WORKDIR [--config.a.b=VALUE ...]
  --name NAME          of the queued resource and of its node
  --type TYPE          accelerator type, such as v5litepod-16, v5p-64 or v6e-64
  --zone ZONE          default: the environment variable CLOUDSDK_COMPUTE_ZONE
  --project PROJECT    default: the environment variable CLOUDSDK_CORE_PROJECT
  --runtime VERSION    software of the TPU (default: the one for its type)
  --spot               cheaper, and may be taken away at any time
  --internal-ip        hosts without public addresses, reached from inside their network
  --service-account E  account of the hosts
  --nfs HOST:/EXPORT   mounted as /mnt/nbp on every host; WORKDIR and the data should lie there
  --setup FILE         script of the project that every host runs before the installation
  --valid-for TIME     how long the request may wait, such as 6h (default: without end)
  --restarts N         further starts, after preemptions and faults, at most (default 50)
  --poll SECONDS       between two looks at the state (default 30)
  --delete             delete the TPU when this script ends, for whatever reason
  --dry-run            print the commands and stop
The environment variable PYTHON names the interpreter that checks the configuration here, before
anything is requested (default python).
example:
  launch/tpu_pod.sh --name ucf-700m --type v6e-64 --zone us-east5-a --project my-project --spot \
    --nfs 10.0.0.2:/nbp --delete configs/ucf101/generator_700m.py /mnt/nbp/runs/ucf101 \
    --config.data.root=/mnt/nbp/ucf101
TEXT
}

# shellcheck source=launch/cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"

name='' type='' zone=${CLOUDSDK_COMPUTE_ZONE-} project=${CLOUDSDK_CORE_PROJECT-} runtime='' nfs=''
setup='' restarts=50 poll=30 internal_ip=false request=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --spot) request+=(--spot) ;;
    --internal-ip) internal_ip=true request+=(--internal-ips) ;;
    --delete) delete=true ;;
    --dry-run) dry_run=true ;;
    --name | --type | --zone | --project | --runtime | --nfs | --setup | --service-account | --valid-for)
      [[ -n ${2-} && $2 != --* ]] || fail "$1 needs a value"
      case $1 in
        --service-account) request+=("$1=$2") ;;
        --valid-for) request+=("--valid-until-duration=$2") ;;
        *) printf -v "${1#--}" %s "$2" ;;
      esac
      shift
      ;;
    --restarts | --poll)
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
for option in name type zone project; do
  [[ -n ${!option} ]] || fail "--$option is missing; nothing was created"
done
[[ $name =~ ^[a-z]([-a-z0-9]{0,60}[a-z0-9])?$ ]] ||
  fail "--name $name: use lower-case letters, digits and hyphens, a letter first"
[[ $# -ge 2 ]] || fail "name CONFIG and WORKDIR; --help shows how"
[[ -f $root/${1%%:*} ]] || fail "no configuration ${1%%:*} in $root; name it relative to there"
[[ $2 == /* ]] || fail "WORKDIR $2: name an absolute path on storage that all hosts share"
[[ -z $setup || -f $root/$setup ]] || fail "no script $setup in $root; name it relative to there"
if [[ -z $runtime ]]; then
  case $type in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "--type $type: name its software with --runtime" ;;
  esac
fi
check nbp.train --config "$1" --workdir "$2" --check "${@:3}"
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed; nothing was created"
files=(nbp configs launch requirements.txt)
[[ $1 == configs/* ]] || files+=("${1%%:*}")
[[ -z $setup ]] || files+=("$setup")

place=(--zone="$zone" --project="$project")
reach=("${place[@]}")
! $internal_ip || reach+=(--internal-ip)
tpu=(gcloud compute tpus queued-resources)
node=(gcloud compute tpus tpu-vm)
removal=("${tpu[@]}" delete "$name" "${place[@]}" --force --quiet)
training=(python -u -m nbp.train --config "$1" --workdir "$2" "${@:3}")

risk='be billed' left="$name may still exist and be billed"
tidy_at_end

# Runs tpu_host.sh with the arguments after the first on worker $1, a number or "all".
on_host() {
  local command
  command=$(printf '%q ' bash nbp/launch/tpu_host.sh "${@:2}")
  run "${node[@]}" ssh "$name" "${reach[@]}" --worker="$1" --command="${command% }"
}

# Prints the state of the queued resource: ABSENT where there is none, UNKNOWN where gcloud fails.
look() {
  if "${tpu[@]}" describe "$name" "${place[@]}" --format='value(state.state)' 2>"$scratch/error"; then
    return
  fi
  if grep -q NOT_FOUND "$scratch/error"; then
    echo ABSENT
  else
    echo UNKNOWN
  fi
}

remove() {
  run "${removal[@]}" || fail "$name could not be deleted, look after it: $(show "${removal[@]}")" 1
  touched=false
}

# Requests the TPU unless it is there, and waits until it can be used. $1 is its state.
acquire() {
  local state=$1 shown='' unknown=0
  while [[ $state != ACTIVE ]]; do
    [[ $state == "$shown" ]] || say "$name is $state"
    shown=$state
    case $state in
      ABSENT)
        touched=true
        if ! run "${tpu[@]}" create "$name" --node-id="$name" "${place[@]}" \
          --accelerator-type="$type" --runtime-version="$runtime" ${request[@]+"${request[@]}"} --quiet; then
          state=$(look)
          if [[ $state == ABSENT ]]; then touched=false; else remove; fi
          fail "$name could not be created (gcloud says why above); nothing is left running" 1
        fi
        ;;
      FAILED)
        touched=true
        "${tpu[@]}" describe "$name" "${place[@]}" --format='value(state.failedData.error.message)' >&2 || true
        remove
        fail "the request for $name failed; it is deleted, nothing is left running" 1
        ;;
      SUSPENDED) # preempted: its hosts are gone
        remove
        ;;
      UNKNOWN)
        unknown=$((unknown + 1))
        if ! $touched || [[ $unknown -ge 20 ]]; then
          fail "gcloud cannot tell the state of $name: $(tail -n 1 "$scratch/error")" 1
        fi
        ;;
      *) touched=true ;; # waiting, being provisioned or deleted
    esac
    [[ $state == ABSENT || $state == SUSPENDED ]] || await sleep "$poll"
    state=$(look)
  done
  touched=true
  say "$name is ACTIVE"
}

install() {
  local archive="$scratch/nbp.tar.gz"
  run tar --create --gzip --file="$archive" --directory="$root" --exclude=__pycache__ "${files[@]}" &&
    run "${node[@]}" scp "$archive" "$name:nbp.tar.gz" "${reach[@]}" --worker=all &&
    run "${node[@]}" ssh "$name" "${reach[@]}" --worker=all \
      --command='mkdir -p nbp && tar -xzf nbp.tar.gz -C nbp' &&
    on_host all prepare "$nfs" "$setup"
}

# Starts the training on all hosts, shows the output of the first, and puts into `code` how it
# ended: 0 where every host says so, else what a person must mend, else the first failure.
train() {
  local codes one breaks=0 lines=all silent=''
  code=137
  on_host all start "${training[@]}" || return 0
  until await on_host 0 follow "$lines"; do # the connection broke, or the host is gone
    breaks=$((breaks + 1)) lines=20
    [[ $(look) == @(ACTIVE|UNKNOWN) && $breaks -lt 20 ]] || return 0
    await sleep "$poll"
  done
  codes=$(on_host all finish 120) || silent=137 # a host did not answer
  if $dry_run; then
    echo "$codes"
    code=0
    return
  fi
  codes=$(sed -n 's/^.*nbp-exit \([0-9]*\|none\)$/\1/p' <<<"$codes" | sed 's/none/137/')
  [[ -n $codes ]] || return 0
  code=0
  for one in $codes $silent; do
    if [[ $one -ne 0 && ($code -eq 0 || ($one -ge 2 && $one -le 5)) ]]; then
      code=$one
    fi
  done
}

if $dry_run; then
  touched=true
  run "${tpu[@]}" describe "$name" "${place[@]}" --format='value(state.state)'
  run "${tpu[@]}" create "$name" --node-id="$name" "${place[@]}" \
    --accelerator-type="$type" --runtime-version="$runtime" ${request[@]+"${request[@]}"} --quiet
  install
  train
  exit 0
fi

for ((attempt = 0; ; attempt++)); do
  acquire "$(look)"
  code=137
  if on_host 0 running 2>/dev/null || install; then
    train
  elif [[ $(look) == ACTIVE ]]; then
    fail "the installation on $name failed (its output is above)" 1
  fi
  if [[ $code -ne 42 && $code -lt 128 ]]; then
    [[ $code -eq 0 ]] || say "the training ended with exit code $code"
    exit "$code"
  fi
  if [[ $attempt -ge $restarts ]]; then
    fail "exit code $code, and $restarts restarts are used up" "$code"
  fi
  say "exit code $code, or hosts lost; restart $((attempt + 1)) of $restarts"
  await sleep "$poll"
done
