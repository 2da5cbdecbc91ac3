#!/usr/bin/env bash
# Several machines: start this script on each of them, with the same options. All must share the disk of OUT and IMAGES.
set -euo pipefail

IMAGES=${IMAGES:-/shared/images}         # a folder, a list file, a COCO JSON, a VOC devkit or a pack
OUT=${OUT:-/shared/runs/mine}            # new, or a run to resume
RECIPE=${RECIPE:-coco}                   # orl recipes lists them
NODES=${NODES:-2}                        # machines
PROCESSES=${PROCESSES:-8}                # GPUs of each machine
WORKERS=${WORKERS:-4}                    # worker processes that read images, for each GPU
FIRST_NODE=${FIRST_NODE:?set it to the name of one of the machines, which all connect to}
PORT=${PORT:-29400}                      # a free port of that machine, open to the others
JOB=${JOB:-orl}                          # a new name for each start

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + PROCESSES - 1) / PROCESSES ))}

torchrun --nnodes "$NODES" --nproc-per-node "$PROCESSES" \
    --rdzv-backend c10d --rdzv-endpoint "$FIRST_NODE:$PORT" --rdzv-id "$JOB" \
    -m orl run "$RECIPE" --images "$IMAGES" --out "$OUT" --workers "$WORKERS" "$@"
