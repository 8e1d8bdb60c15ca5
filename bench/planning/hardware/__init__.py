"""How long steps take on a device, by where that is known from.

    measured.py    a file of `baton profile`
    published.py   fits and tables that others published
    silicon.py     a database of measured kernels (an optional package)
    roofline.py    a device's figures, and how much of them is reached
    made.py        a machine made up for benchmarks of routing
    links.py       what blocks travel over between workers
    kinds.py       all of them by name: `worker_kinds`
"""
