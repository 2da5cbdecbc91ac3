#!/usr/bin/env bash
# One GPU (or a processor): look at the machine, then the three stages and the report.
set -euo pipefail

IMAGES=${IMAGES:-images}   # a folder, a list file, a COCO JSON, a VOC devkit or a pack
OUT=${OUT:-runs/mine}      # new, or to be continued
RECIPE=${RECIPE:-quick}    # orl recipes lists them
WORKERS=${WORKERS:-4}      # processes that read images

# Ends the script with the way out if this recipe will not work here.
orl doctor "$RECIPE" --images "$IMAGES" --out "$OUT" --workers "$WORKERS" "$@"
orl run "$RECIPE" --images "$IMAGES" --out "$OUT" --workers "$WORKERS" "$@"
