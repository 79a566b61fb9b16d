"""One training run, from its start to its end.

loop.py             the loop
workdir.py          the folder of a run, here or in an object store
resume.py           what may change between two starts
run_checkpoints.py  the checkpoints of the run
run_json.py         run.json: configuration, history of starts, time by phase
log.py              metrics.jsonl, TensorBoard, lines on the terminal
sample_sheet.py     sheets of sample pictures
feed.py             batches onto devices, one ahead
compiled_step.py    the step as compiled programs
distributed.py      several processes
signals.py          SIGTERM and Ctrl-C
watchdog.py         a run that hangs
profile.py          traces of some steps
xla_flags.py        sets of compiler options by name
"""
