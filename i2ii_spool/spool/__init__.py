"""The queue as a directory tree: its whole protocol, without HTTP and without GPUs.

A job is a folder; its state is the directory in which it lies; every transition is one rename(2).
Read in this order:

    layout      where everything lies
    durable     the two primitives: write a file, move a job
    submit      in: written whole in .tmp/, made durable, one rename into incoming/
    keys        in, again: what was sent twice is one job
    guests      in, by hand: folders that somebody moved or copied into incoming/
    claim       out: one rename into running/<worker>/; attempt, then commit, fail or give back
    failure     writing down why a job failed
    recovery    what a dead worker held
    workers     who works here, and who is dead
    actions     cancel, retry, remove
    retention   how long ended jobs stay
    lookup      where a job lies
    status      what there is to say of it
    wake        waking up when something arrives
    housekeeping  what every server and worker does to keep it in order

What must hold, whatever dies wherever: an accepted job is in exactly one state; what lies in done/
has a result.json and all that it names; no job is begun more often than its attempts allow; nothing
is parked where nobody looks. Assumed: rename(2) is atomic, flock(2) is dropped at death on one
host, the file system is not an overlayfs.
"""
