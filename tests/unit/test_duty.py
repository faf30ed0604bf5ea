"""Supervisors share a cluster by what they have to read: a job gets the same whoever has it."""

import pytest

from cluster.duty import share


@pytest.mark.parametrize(
    ("mine", "others", "slots"),
    [
        (1, 0, 32),  # alone: everything
        (0, 0, 32),  # ready for its first job
        (3, 3, 16),
        (1, 7, 4),  # one job of eight
        (7, 1, 28),
        (0, 3, 8),  # a job that comes gets its part
        (1, 1_000, 1),  # never none
    ],
)
def test_a_supervisors_share_is_that_of_its_jobs(mine: int, others: int, slots: int) -> None:
    """Of 32 slots, in proportion to the jobs that have pages to read, here and elsewhere."""
    assert share(32, mine=mine, others=others) == slots


def test_peers_with_the_same_work_do_not_lengthen_rays_queue() -> None:
    """What two, three or eight supervisors give out is what one does, but for the rounding up."""
    for peers in (2, 3, 8):
        shares = [share(32, mine=4, others=4 * (peers - 1)) for _ in range(peers)]
        assert 32 <= sum(shares) < 32 + peers
