"""`baton bench planner`: how far the planner's predictions are off, against what others published.

    one_worker.py    a worker of any engine: what it puts into a step, and how long that takes
    closed_loop.py   what clients see that wait for each answer before they ask again
    open_loop.py     what those see that do not
    queue.py         a simulated prefill worker beside M/D/1
    distserve.py     DistServe's worked example
    rows.py          measured TTFT and TPOT, and which of them constants come from
    sources.py       the same from each source of step times
    fitting.py       where the constants come from
    configurator.py  one case beside the planner of those who measured the kernels
    command.py       all of it
"""
