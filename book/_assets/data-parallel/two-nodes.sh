#!/bin/bash
# The same on both nodes: bash two-nodes.sh ADDRESS-OF-THE-FIRST-NODE FOLDER
torchrun --nnodes=2 --nproc-per-node=8 --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-endpoint="$1:29400" --rdzv-id=book \
  train.py "$2"
