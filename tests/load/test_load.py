"""A minute of the load test; `python -m tests.load` runs five and prints the table of docs/page.md."""

import pytest

from tests.load.run import run


@pytest.mark.slow
def test_a_minute_of_load() -> None:
    """All goals but the page's time: that one is of a quiet machine, and the documentation's table has it."""
    table, missed, found, log = run(60)
    print(table)
    hard = [row for row in missed if not row.startswith("95 %")]
    assert not hard, f"{hard}\n{found.problems[:5]}\n{log[-3000:]}"
