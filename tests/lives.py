"""Long random lives (Hypothesis): short and the same each time in `make test`; with LIVES=2000, so many new ones."""

import os
from collections.abc import Callable

from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

LIVES = int(os.environ.get("LIVES", "0"))


class Life(RuleBasedStateMachine):
    """A machine whose every life is a transaction of its own, undone at its end."""

    def __init__(self) -> None:
        super().__init__()
        self._life = transaction.atomic()
        self._life.__enter__()

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self._life.__exit__(None, None, None)


def live(born: Callable[[], Life], *, lives: int, steps: int) -> None:
    """Live through `lives` of so many steps, unless LIVES says how many; the shortest that breaks a rule is shown."""
    run_state_machine_as_test(
        born,
        settings=settings(
            max_examples=LIVES or lives,
            stateful_step_count=steps,
            derandomize=not LIVES,
            print_blob=True,
            phases=[Phase.generate, Phase.shrink],  # to explain takes longer than to live
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
