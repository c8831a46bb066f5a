"""What one chore's jobs come to is no other's trouble, nor the worker's."""

from concurrent.futures import ThreadPoolExecutor

from smsportal.chores import Chore, Chores


def test_a_job_whose_outcome_cannot_be_written_keeps_no_other_from_its_end():
    waiting, written = [1, 0, 2], []

    def claim(under_way):
        claimed, waiting[:] = list(waiting), []
        return claimed

    chores = Chores(Chore("halves", 3, claim, lambda job: job, lambda job, result: written.append(2 / result)))
    with ThreadPoolExecutor(3) as pool:
        chores.begin(pool)
    chores.finish()

    assert written == [2, 1]
