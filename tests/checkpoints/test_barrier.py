"""Messages of the coordination service, as they name who is late."""

from gendr_jax.checkpoints import barrier

TEXT = """DEADLINE_EXCEEDED: Barrier timed out. Id: gendr/restored/0::0. This usually \
happens because a task triggered the barrier too early or too slowly. Please look at \
the task logs (both timed out and first task) to debug further.
# of tasks that reached the barrier: 1/3.
The first task at the barrier: 1. Some timed out task names:
0
2
 [type.googleapis.com/tensorflow.CoordinationServiceError='']"""


def test_the_late_ones_are_named():
    assert barrier._late_processes(TEXT) == "process 0, 2"
    old = TEXT.replace("\n0\n", "\n/job:jax_worker/replica:0/task:0\n")
    assert barrier._late_processes(old) == "process 0, 2"
    assert (
        barrier._late_processes("UNAVAILABLE: gone\n away")
        == "others (UNAVAILABLE: gone away)"
    )


def test_one_process_waits_for_nobody():
    barrier.barrier("alone", seconds=0.001)
    assert barrier.anyone(True) is True and barrier.anyone(False) is False
