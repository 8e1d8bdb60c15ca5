"""For tests of every kind."""

from __future__ import annotations

import resource

MANY_DESCRIPTORS = 16_384


def pytest_configure() -> None:
    """UCX workers that close while something is under way are kept until the process exits, with
    some 15 descriptors each. Hundreds of tests in one process come to more than a shell's usual
    limit of 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MANY_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
