"""`make bench`: how fast the service is beside what bounds it, measured in one run on one machine.

The way through it:

    run         one run: what is started, which cases are measured, what is written
    cases       what is measured of callbacks; submitting, collecting, crashing and slow_flush are further cases
    seed        tasks that wait for their callback, and those callbacks, signed
    ours        the real service as a process; reference has the servers beside it
    drive       a generator process (load) is handed requests and answers with what came of each
    growth      months of finished tasks, made up
    two_sizes   a small record beside a large one: what the hot paths take on both (growing), and callbacks
    stored      whether everything that was acknowledged is in the database
    report      the ratios first, then the figures; chart draws them

The service is a black box here: it is started as anybody starts it and reached over HTTP.
"""
