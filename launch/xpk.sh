#!/usr/bin/env bash
# CiDA distillation by XPK (github.com/AI-Hypercomputer/xpk) on a cluster made by XPK.
# Started again with the same --workdir, the run resumes.

# --- edit ---
PROJECT=my-project
ZONE=us-east5-b
CLUSTER=my-cluster
BUCKET=my-bucket
IMAGE=REGION-docker.pkg.dev/$PROJECT/REPOSITORY/gendr:tpu # launch/Dockerfile, RUN_AS=root
STORAGE=gendr-bucket # `xpk storage attach` of $BUCKET, type gcsfuse, mounted at /bucket
TPU=v6e-64           # v5litepod-256, v6e-256; v5p counts cores: v5p-1024 has 512 chips
SLICES=1
BATCH=64             # of all slices together, a multiple of their chips
# --- end ---

set -euo pipefail

# `exec`: XPK sends SIGTERM to the shell that runs the command; exec makes that train.sh.
# XPK restarts on its own codes (42 and 127 to 255), 75 (stopped and saved) and 1 (failed).
# Exit status 2, a usage error, ends the workload.
xpk workload create \
  --project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER" \
  --workload="${WORKLOAD:-gendr-distill}" --docker-image="$IMAGE" --storage="$STORAGE" \
  --tpu-type="$TPU" --num-slices="$SLICES" \
  --max-restarts=100 --restart-on-exit-codes=1,75 --termination-grace-period-seconds=120 \
  --command="exec launch/train.sh --distributed --config=configs/distill.py \
    --workdir=gs://$BUCKET/runs/distill --config.mesh=data=-1,fsdp=8 \
    --config.batch_size=$BATCH \
    --config.data.path='/bucket/inputs/shards/*.array_record' \
    --config.init.vae=/bucket/inputs/base --config.init.unet=/bucket/inputs/base \
    --config.init.dino=/bucket/inputs/dinov2 --config.init.prompt=/bucket/inputs/prompt.npz" \
  "$@" # such as --dry-run
