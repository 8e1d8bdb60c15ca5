"""What clients ask for, and when: one home for the simulator, the planner and the load generator.

Named workloads are one file each; `named.py` lists them.
"""
