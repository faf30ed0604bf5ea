"""What Ray is told of the tasks."""

from ray.remote_function import RemoteFunction

from cluster import tasks


def test_whatever_waits_for_a_cpu_is_one_function_to_ray() -> None:
    """Among calls of one function Ray keeps their order; of two it starves one, a letter behind a book."""
    functions = [function for function in vars(tasks).values() if isinstance(function, RemoteFunction)]
    take_a_cpu = [function for function in functions if function._default_options["num_cpus"]]
    assert len(functions) > 1
    assert take_a_cpu == [tasks.on_cpu]
