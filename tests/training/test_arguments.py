"""Options with a range: the value, or an error that names option, value and range."""

import argparse
import math

import pytest

from latentcrf.utils.arguments import float_between, int_between


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int_between(1, 8), "1", 1),
        (int_between(1, 8), "8", 8),
        (int_between(-3, 2**63 - 1), str(2**63 - 1), 2**63 - 1),
        (float_between(0, 1), "0", 0.0),
        (float_between(0, 1), "1e0", 1.0),
        (float_between(0, 0.1, above=True), "1e-9", 1e-9),
        (float_between(1, math.inf), "inf", math.inf),
    ],
)
def test_values_within_the_range(kind: object, text: str, value: float) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=kind)  # type: ignore[arg-type]
    found = parser.parse_args([f"--size={text}"]).size
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "accepted"),
    [
        (int_between(1, 8), "0", "1 to 8"),
        (int_between(1, 8), "9", "1 to 8"),
        (int_between(1, 8), "2.5", "1 to 8"),
        (int_between(1, 8), "many", "1 to 8"),
        (float_between(0, 1), "-0.1", "0 to 1"),
        (float_between(0, 1), "nan", "0 to 1"),
        (float_between(0, 1), "inf", "0 to 1"),
        (float_between(0, 1), "half", "0 to 1"),
        (float_between(0, 100_000, above=True), "0", "above 0, at most 100000"),
        (float_between(1, math.inf), "nan", "1 to inf"),
    ],
)
def test_other_values_are_refused(kind: object, text: str, accepted: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=kind)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args([f"--size={text}"])
    assert exit_.value.code == 2
    assert f"argument --size: {text} is out of range: {accepted}." in capsys.readouterr().err
