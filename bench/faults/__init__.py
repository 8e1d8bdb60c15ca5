"""`baton bench faults`: what happens to requests when processes, links and memory fail.

    entry     a router or worker whose bytes, frames or addresses are tampered with
    parts     the processes of a cluster, each of which can be killed, stopped and started again
    proxy     links that can be cut
    load      many streams at once, with the time of every token
    watcher   what the router says of its workers, polled
    judge     outputs compared, stalls bounded, nothing left behind
    matrix    the faults, one function each
    command   the command line and the table
"""
