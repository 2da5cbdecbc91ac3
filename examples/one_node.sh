#!/usr/bin/env bash
# All GPUs of one machine: torchrun starts a process for each.
set -euo pipefail

IMAGES=${IMAGES:-images}        # a folder, a list file, a COCO JSON, a VOC devkit or a pack
OUT=${OUT:-runs/mine}           # new, or a run to resume
RECIPE=${RECIPE:-coco}          # orl recipes lists them
PROCESSES=${PROCESSES:-8}       # GPUs of this machine
WORKERS=${WORKERS:-4}           # worker processes that read images, for each GPU

# torchrun would give each process one thread; divide the CPU cores among them instead.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + PROCESSES - 1) / PROCESSES ))}

torchrun --standalone --nproc-per-node "$PROCESSES" -m orl run "$RECIPE" \
    --images "$IMAGES" --out "$OUT" --workers "$WORKERS" "$@"
