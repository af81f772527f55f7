# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What .ci/run and .ci/newest share. To be sourced at the root of the repository.

# Prints the lines of the code block after the comment `<!-- ci: NAME -->` in README.md.
readme_block() {
  awk -v mark="<!-- ci: $1 -->" '
    $0 == mark { found = 1; next }
    found && /^```/ { if (inside) exit; inside = 1; next }
    inside' README.md
}

# Prints README's quickstart command in its shortened form, with workdir $1.
quickstart_command() {
  local line
  line=$(readme_block quickstart | grep -- '-m nbp.train ') || {
    echo "README.md has no nbp.train line after <!-- ci: quickstart -->" >&2
    return 1
  }
  line=${line/configs\/quickstart.py/configs\/quickstart.py:smoke}
  echo "${line/runs\/quickstart/$1}"
}

# Runs one part and prints how long it took.
part() {
  local name=$1 began=$SECONDS
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  "$@"
  printf '== %s took %d s\n' "$name" "$((SECONDS - began))"
}

# Fails unless the quickstart left its products in workdir $1.
check_products() {
  local product
  for product in samples/grid.gif samples/samples.npz report/moving-shapes.json \
    report/index.html report/tokenizer_curves.png report/generator_curves.png; do
    test -s "$1/$product" || {
      echo "the quickstart left no $product" >&2
      return 1
    }
  done
}
