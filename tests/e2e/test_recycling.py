"""A worker process ends after so many pages, with whatever native code has leaked; the next page gets a fresh one."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray

from cluster import tasks
from cluster.work import Started, Work
from tests.clusters import Cluster

PAGES_A_PROCESS = 3


def test_a_process_reads_so_many_pages_and_no_more(cluster: Cluster) -> None:
    """Ray counts the calls of a generator too. Production's own function, with a smaller number."""
    limit_s = cluster.blueprint.settings.page_timeout_s
    on_cpu = ray.remote(num_cpus=1, max_retries=0, max_calls=PAGES_A_PROCESS)(tasks.on_cpu._function)

    def page() -> Iterator[Started | int]:
        here = Started.here()
        yield here
        yield here.pid

    async def read() -> int:
        return int(await Work(on_cpu.remote(page), limit_s=limit_s).result())

    pages = Counter(asyncio.run(read()) for _ in range(3 * PAGES_A_PROCESS))
    assert max(pages.values()) == PAGES_A_PROCESS
    assert all(options["max_calls"] == tasks.RECYCLE_AFTER_PAGES for options in _options_of_what_reads_pages())


def _options_of_what_reads_pages() -> list[dict[str, object]]:
    functions: list[Any] = [tasks.on_cpu, tasks.page_image, tasks.page_marks]
    return [function._default_options for function in functions]
