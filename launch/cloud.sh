# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What tpu_pod.sh and gke.sh share: messages, the look at the configuration, commands that are shown
# in place of run, and an end that leaves nothing behind untold. To be sourced.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
delete=false dry_run=false # flags
# The command that deletes what was made, and what it means where that fails, or is not wanted.
removal=() risk='' left=''
# A folder for files, whether something was made, the process of a command that is awaited.
scratch='' touched=false child=''

say() { echo "${0##*/}: $1" >&2; }
fail() {
  say "$1"
  exit "${2:-2}"
}

# Looks at flags and configuration before a machine is asked for, where this project can run here.
# Folders that the configuration names are not looked at: they are those of the hosts. The arguments
# are the module that looks, and its own.
check() {
  local code=0 text
  text=$(cd "$root" && "${PYTHON:-python}" -m "$@" 2>&1 </dev/null) || code=$?
  case $code in
    0) ;;
    2) fail "${text##*$'\n'}; nothing was created" ;;
    *) say "the configuration is not checked: ${PYTHON:-python} cannot run $1 here (PYTHON names another)" ;;
  esac
}

# Prints a command so that a shell would read it back.
show() {
  local line
  line=$(printf '%q ' "$@")
  echo "${line% }"
}

# The one place that runs a command of the cloud.
run() {
  if $dry_run; then
    show "$@"
  else
    "$@"
  fi
}

# Makes the scratch folder. However the script ends, that is removed, and what was made is deleted
# with `removal` where `delete` says so, or else told of.
tidy_at_end() {
  scratch=$(mktemp -d)
  trap leave EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

leave() {
  local code=$?
  trap '' INT TERM
  [[ -z $child ]] || kill -- "-$child" 2>/dev/null || true
  if $touched; then
    if $delete; then
      run "${removal[@]}" || say "NOT DELETED, it may still $risk: $(show "${removal[@]}")"
    elif ! $dry_run; then
      say "$left; to delete it: $(show "${removal[@]}")"
    fi
  fi
  rm -rf "$scratch"
  exit "$code"
}

# Runs a command that may take long, so that a signal to this script is heard meanwhile. It has a
# process group of its own, in which all that it has started can be ended.
await() {
  local code=0
  set -m
  "$@" </dev/null &
  set +m
  child=$!
  wait "$child" || code=$?
  child=''
  return "$code"
}
