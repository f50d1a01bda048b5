"""Which steps of a run are left out: checked, and counted in whole steps."""

import numbers

Bypass = tuple[int | float, int | float]


def check_bypass(bypass: Bypass) -> Bypass:
    """The bypass in plain numbers, ints that count steps and floats that are fractions.

    Raises:
        ValueError: what is wrong with it, as far as that can be told without n.
    """
    rule = "Accepted are two whole numbers, 1 <= first < last <= number of steps, or fractions between 0.0 and 1.0."
    if not isinstance(bypass, (tuple, list)) or len(bypass) != 2:
        raise ValueError(f"bypass is {bypass!r}. {rule}")
    for name, value in zip(("first", "last"), bypass, strict=True):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"bypass: {name} is {value!r}, not a number. {rule}")
        if value < 0 or (not isinstance(value, numbers.Integral) and not value <= 1):
            raise ValueError(f"bypass: {name} is {value}. {rule}")
    counted = [isinstance(value, numbers.Integral) for value in bypass]
    if counted[0] == counted[1] and bypass[0] > bypass[1]:
        raise ValueError(f"bypass: first ({bypass[0]}) comes after last ({bypass[1]}). {rule}")
    first, last = (int(value) if whole else float(value) for value, whole in zip(bypass, counted, strict=True))
    return first, last


def resolve_bypass(bypass: Bypass, num_steps: int) -> tuple[int, int]:
    """`bypass` in whole steps of a run of `num_steps`. Raises a ValueError where it does not fit."""
    bypass = check_bypass(bypass)
    first, last = (value if isinstance(value, int) else round(value * num_steps) for value in bypass)
    if first == last <= num_steps:
        return first, last
    if first > last:
        raise ValueError(f"bypass {bypass} is ({first}, {last}) of {num_steps} steps: first comes after last.")
    if last > num_steps:
        raise ValueError(
            f"bypass ends at step {last}, but the run has {num_steps} steps; last may be at most {num_steps}."
        )
    if first < 1:
        raise ValueError(
            f"bypass begins at step {first} of {num_steps}; first must be at least 1: "
            "the CRF works on what the U-Net has begun."
        )
    return first, last
