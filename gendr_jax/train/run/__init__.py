"""The training loop and its services: checkpoints, logs, signals, watchdog.

loop.py             the loop
workdir.py          the folder of a run, local or in an object store
lock.py             one run a workdir
resume.py           which settings may change on resume
run_checkpoints.py  the checkpoints of the run
run_json.py         run.json: configuration, history of starts, time by phase
log.py              metrics.jsonl, TensorBoard, lines on the terminal
validation.py       metrics on held-out photographs
sample_sheet.py     sheets of sample pictures
feed.py             batches prefetched to the devices
compiled_step.py    the step as compiled programs
distributed.py      several processes
signals.py          SIGTERM and Ctrl-C
watchdog.py         ends a run that hangs
profile.py          profiler traces of some steps
xla_flags.py        presets of compiler options
"""
