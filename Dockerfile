# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
#
# The project with the locked versions of requirements.txt, for one kind of accelerator:
#
#   docker build --tag nbp:cpu .
#   docker build --build-arg ACCELERATOR=tpu --build-arg RUN_AS=root --tag REGISTRY/nbp:1 .
#   docker run --rm --user "$(id -u)" --volume "$PWD/runs:/runs" nbp:cpu \
#     python -u -m nbp.train --config configs/quickstart.py:smoke --workdir /runs/smoke
FROM python:3.12-slim-bookworm

# cpu, tpu, or cuda for GPUs of NVIDIA.
ARG ACCELERATOR=cpu
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /nbp

# Before the code, so that a change of the code does not install everything again.
COPY requirements.txt .
RUN case "$ACCELERATOR" in \
      cpu) set -- ;; \
      tpu) set -- 'jax[tpu]' ;; \
      cuda) set -- 'jax[cuda13]' 'tokamax==0.0.17' ;; \
      *) echo "ACCELERATOR must be cpu, tpu or cuda, not $ACCELERATOR" >&2; exit 1 ;; \
    esac && pip install --requirement requirements.txt "$@"

COPY nbp nbp
COPY configs configs
RUN useradd --create-home --uid 1000 nbp

# The device files of a TPU belong to root; everything else runs without its rights.
ARG RUN_AS=nbp
USER $RUN_AS
CMD ["python", "-u", "-m", "nbp.train", "--help"]
