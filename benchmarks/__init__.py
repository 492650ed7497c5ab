"""`make bench`: the speed of the service compared with the speed of what limits it, measured in one run on one machine.

Reading order:

    run         one run: starts the processes, measures the cases, returns the results
    cases       the callback cases; submitting, dispatching, collecting, flood, ceiling, crash and slow_disk have others
    neighbours  the p99 of callbacks and posts beside each kind of noise
    seed        tasks that wait for their callbacks, and those callbacks, signed
    ours        the service under test as a process; reference starts the servers that it is compared with
    drive       starts a load generator (load) with prepared requests and reads the outcome of each
    growth      fills a database with months of finished tasks
    two_sizes   compares a small database with a large one: hot paths (growing), whole tasks (grown_tasks) and callbacks
    stored      checks that every acknowledged callback is in the database
    report      renders the results: ratios first, then the figures; chart draws them

The service is a black box: it is started by its command and used over HTTP.
"""
