"""`baton bench planner`: how far the planner's predictions are off, against what others published.

    queue.py        a simulated prefill worker beside M/D/1
    distserve.py    DistServe's worked example
    closed_loop.py  what clients see that wait for each answer before they ask again
    rows.py         measured TTFT and TPOT of such clients, and which of them constants come from
    sources.py      the same from each source of step times
    fitting.py      where the constants come from
    command.py      all of it
"""
