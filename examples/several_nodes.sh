#!/usr/bin/env bash
# Several machines: start this script on each of them, with the same settings. OUT and IMAGES lie on a disk that all share.
set -euo pipefail

IMAGES=${IMAGES:-/shared/images}         # a folder, a list file, a COCO JSON, a VOC devkit or a pack
OUT=${OUT:-/shared/runs/mine}            # new, or to be continued
RECIPE=${RECIPE:-coco}                   # orl recipes lists them
NODES=${NODES:-2}                        # machines
PROCESSES=${PROCESSES:-8}                # GPUs of each
WORKERS=${WORKERS:-4}                    # processes that read images, for each GPU
FIRST_NODE=${FIRST_NODE:?name one of the machines: where all of them meet}
PORT=${PORT:-29400}                      # free on that machine, and open to the others
JOB=${JOB:-orl}                          # a name that is new for each start

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + PROCESSES - 1) / PROCESSES ))}

torchrun --nnodes "$NODES" --nproc-per-node "$PROCESSES" \
    --rdzv-backend c10d --rdzv-endpoint "$FIRST_NODE:$PORT" --rdzv-id "$JOB" \
    -m orl run "$RECIPE" --images "$IMAGES" --out "$OUT" --workers "$WORKERS" "$@"
