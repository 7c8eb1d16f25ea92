"""The queue as a directory tree: the whole protocol, without HTTP and without GPUs.

A job is a folder; its state is the directory that it is in; every transition is one rename(2).
`docs/protocol.md` is the contract. Read in this order:

    layout        where everything is
    durable_io    the two primitives: write a file, move a job
    capacity      whether there is room: in the queue, on the disk
    submit        in: written whole in .tmp/, made durable, one rename into incoming/
    idempotency   in, again: what a client sent twice is one job
    folder_check  what is in a folder that another process has filled
    admission     in, by hand: a guest becomes a job, or is refused
    claim         out: one rename into running/<worker>/; attempt, then commit, fail or release
    retry_marker  a job that ended once and was moved back starts again
    failure       the record of why a job failed
    hosts         which host a worker runs on: two hosts may have one name
    liveness      locks and heartbeats: which workers are there, and which are dead
    recovery      the reaper: what a dead worker held
    retirement    what a dead worker leaves whose name will not come back
    actions       cancel, retry, delete
    retention     prune and sweep
    webhook       which webhooks are accepted, and how far the messages of a job are
    lookup        where a job is
    status        what there is to tell of it
    watch         inotify hints
    maintenance   the threads of every server and worker: they admit, recover, sweep, retire

What must hold, whatever dies, and whenever: an accepted job is in exactly one state; a job in done/
has a result.json and all that it names; no job starts more often than its attempts allow; what a
dead process leaves behind is completed, requeued or deleted.

Assumed: rename(2) is atomic, flock(2) is dropped at death on one host, the spool is no overlayfs.
"""
