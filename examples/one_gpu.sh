#!/usr/bin/env bash
# One GPU (or a CPU): check the machine, then run the three stages and the report.
set -euo pipefail

IMAGES=${IMAGES:-images}   # a folder, a list file, a COCO JSON, a VOC devkit or a pack
OUT=${OUT:-runs/mine}      # new, or a run to resume
RECIPE=${RECIPE:-quick}    # orl recipes lists them
WORKERS=${WORKERS:-4}      # worker processes that read images

# Ends the script with an explanation if this recipe will not work here.
orl doctor "$RECIPE" --images "$IMAGES" --out "$OUT" --workers "$WORKERS" "$@"
orl run "$RECIPE" --images "$IMAGES" --out "$OUT" --workers "$WORKERS" "$@"
