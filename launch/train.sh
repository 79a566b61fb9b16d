#!/usr/bin/env bash
# `gendr train` for engines that look at the exit status (GKE, XPK, the gcloud loop).
#
#     launch/train.sh FLAGS OF GENDR TRAIN
#
# SIGTERM is handed on once: a second one would end gendr before it has saved. Its status:
#
#     0 done    75 stopped and saved, start again    2 usage error, do not start again
#     other: failed, starting again goes on from the newest checkpoint
set -u

child='' stopped='' interrupted=1 status=0

stop() {
  interrupted=1
  # Forwarded once: a second signal ends the training without saving.
  if [ -z "$stopped" ] && [ -n "$child" ]; then kill -TERM "$child"; fi
  stopped=1
}
trap stop TERM

gendr train "$@" &
child=$!
if [ -n "$stopped" ]; then kill -TERM "$child"; fi # the signal came before the child

while [ -n "$interrupted" ]; do # a signal ends `wait` early, the child still saves
  interrupted=''
  wait "$child"
  status=$?
done

exit "$status"
