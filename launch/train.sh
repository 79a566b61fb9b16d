#!/usr/bin/env bash
# `gendr train` for launchers that read the exit status (GKE, XPK, gcloud-ssh.sh).
#
#     launch/train.sh FLAGS OF GENDR TRAIN
#
# SIGTERM is forwarded once: a second one would end gendr before it has saved. Exit status:
#
#     0 done    75 stopped and saved, start again    2 usage error, do not start again
#     other: failed, a new start resumes from the newest checkpoint
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
if [ -n "$stopped" ]; then kill -TERM "$child"; fi # SIGTERM before the child started

while [ -n "$interrupted" ]; do # a signal ends `wait` while the child is still saving
  interrupted=''
  wait "$child"
  status=$?
done

exit "$status"
