from collections.abc import Iterator
from pathlib import Path

import pytest

from .kannel import Kannel


@pytest.fixture
def kannel(tmp_path: Path) -> Iterator[Kannel]:
    with Kannel(tmp_path) as gateway:
        yield gateway
    print(gateway.logs())  # pytest shows it with a test that failed
