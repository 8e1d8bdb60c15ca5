"""How many workers read prompts, write tokens, or do both: the model, the search, the controller.

    workload.py      what arrives: rate, burstiness, lengths
    queueing.py      waiting for one of k servers
    phases.py        what a pool makes of a workload
    tails.py         percentiles of that
    split.py         the best division of the workers there are
    transfers.py     what hand-offs ask of links
    layouts.py       what a stated layout is worth, of workers that may be unlike by role
    observation.py   a workload from requests as they come, and whether it has changed
    moves.py         which workers change their role, and what that costs
    controller.py    when
    leader.py        which router may

All of it is pure: the live controller, the simulator and the planner ask the same files.
"""
