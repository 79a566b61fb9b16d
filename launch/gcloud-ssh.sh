#!/usr/bin/env bash
# CiDA distillation on one Cloud TPU slice, using only gcloud: queue for the slice,
# install, train, and resume from the newest checkpoint when the slice is preempted.
#
#     launch/gcloud-ssh.sh        # runs until training is done, then deletes the slice
#
# Ctrl-C ends only this script: the slice is kept, and costs money, until it is deleted.
#
# For more than one slice, or a chip newer than v6e (not in the Cloud TPU API), use
# gke-jobset.yaml or xpk.sh.

# --- edit ---
PROJECT=my-project
ZONE=us-east5-b
NAME=gendr-distill
TYPE=v6e-64             # v5litepod-256, v6e-256; v5p counts cores: v5p-1024 has 512 chips
RUNTIME=v2-alpha-tpuv6e # v5e: v2-alpha-tpuv5-lite; v5p: v2-alpha-tpuv5
PROVISION=--spot        # or --reserved, or --guaranteed
BATCH=64                # a multiple of the chips
REPO=https://github.com/OWNER/gendr_jax.git
REF=main
BUCKET=my-bucket
RETRIES=20              # after failures; preemptions are not counted
# --- end ---

set -uo pipefail
TPUS=(gcloud compute tpus)
WHERE=(--project="$PROJECT" --zone="$ZONE" --quiet)

state() {
  "${TPUS[@]}" queued-resources describe "$NAME" "${WHERE[@]}" \
    --format='value(state.state)' 2>/dev/null || echo ABSENT
}

delete() {
  "${TPUS[@]}" queued-resources delete "$NAME" "${WHERE[@]}" --force
}

create() {
  "${TPUS[@]}" queued-resources create "$NAME" "${WHERE[@]}" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "$PROVISION"
}

everywhere() {
  "${TPUS[@]}" tpu-vm ssh "$NAME" "${WHERE[@]}" --worker=all --command="$1"
}

# The VM's own Python may be too old; uv installs one. Inputs are copied to every host.
INSTALL="set -e
python3 -m pip install --quiet --user uv
test -d gendr_jax || git clone --quiet --branch '$REF' '$REPO' gendr_jax
test -d venv || ~/.local/bin/uv venv --quiet --python 3.12 venv
~/.local/bin/uv pip install --quiet --python venv './gendr_jax[tpu]'
mkdir -p inputs && gcloud storage rsync --recursive 'gs://$BUCKET/inputs' inputs"

# flock: a training whose connection was lost must end before the next one can start.
TRAIN="cd gendr_jax && PATH=~/venv/bin:\$PATH flock ~/gendr.lock \
launch/train.sh --distributed --config=configs/distill.py \
--workdir=gs://$BUCKET/runs/distill --config.mesh=data=-1,fsdp=8 --config.batch_size=$BATCH \
--config.data.path=\"\$HOME/inputs/shards/*.array_record\" \
--config.init.vae=\$HOME/inputs/base --config.init.unet=\$HOME/inputs/base \
--config.init.dino=\$HOME/inputs/dinov2 --config.init.prompt=\$HOME/inputs/prompt.npz"

failures=0
failed() {
  failures=$((failures + 1))
  if [ "$failures" -gt "$RETRIES" ]; then exit "$1"; fi
}

while true; do
  case "$(state)" in
    ACTIVE)
      status=0
      if everywhere "$INSTALL"; then everywhere "$TRAIN" || status=$?; else status=1; fi
      case $status in
        0) delete && exit 0 ;;
        2) echo "usage error: the slice is kept, delete it or correct this file" >&2
          exit 2 ;;
      esac
      now=$(state)
      echo "exit status $status, the slice is $now" >&2
      if [ "$now" = ACTIVE ]; then failed "$status"; fi
      ;;
    ABSENT) create || failed 1 ;;
    FAILED | SUSPENDED) delete ;; # preempted: queue for another slice
  esac
  sleep "${PAUSE:-60}"
done
