"""What a visitor's recent comparisons computed, so that the next one computes only what it changes.

A denoiser call is found again by the bits of its inputs, so a comparison that uses the memory has the bits of one that
does not, whatever the scheduler.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

VISITOR_BYTES = 64 * 2**20
ALL_BYTES = 512 * 2**20
SECONDS = 600.0  # that a visitor's memory lives after its last use


class Memory:
    """Values by key, the least recently used ones forgotten beyond `VISITOR_BYTES`.

    Attributes:
        num_bytes: of the values.
        used: when a value was last asked for, as of `time.monotonic`.
    """

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.num_bytes = 0
        self.used = time.monotonic()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Any:
        """Look a value up; None where it is not there."""
        self.used = time.monotonic()
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Hashable, value: Any, num_bytes: int) -> None:
        """Keep a value.

        Args:
            key: to find it by.
            value: not None.
            num_bytes: of it; one larger than `VISITOR_BYTES` is not kept.
        """
        if num_bytes > VISITOR_BYTES:
            return
        if key in self._values:
            self.num_bytes -= self._values.pop(key)[1]
        self._values[key] = (value, num_bytes)
        self.num_bytes += num_bytes
        while self.num_bytes > VISITOR_BYTES:
            self.num_bytes -= self._values.popitem(last=False)[1][1]


class Memories:
    """The memories of a model's visitors: each has an own one, and all together at most `ALL_BYTES`."""

    def __init__(self) -> None:
        self._memories: dict[str, Memory] = {}
        self._timer: threading.Timer | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all memories."""
        return sum(memory.num_bytes for memory in list(self._memories.values()))

    def find(self, visitor: str) -> Memory:
        """Find a visitor's memory, a new one where there is none; others make room for it.

        Args:
            visitor: the session's name.

        Returns:
            The memory.
        """
        if self._timer is None:
            self._wait()
        others = sorted((each for each in list(self._memories) if each != visitor), key=self._get_used)
        while others and self.num_bytes > ALL_BYTES - VISITOR_BYTES:
            self.forget(others.pop(0))
        return self._memories.setdefault(visitor, Memory())

    def _get_used(self, visitor: str) -> float:
        memory = self._memories.get(visitor)
        return 0.0 if memory is None else memory.used

    def _wait(self) -> None:
        self._timer = threading.Timer(SECONDS / 2, self._sweep_and_wait)
        self._timer.daemon = True
        self._timer.start()

    def _sweep_and_wait(self) -> None:
        self.sweep()
        self._timer = None
        if self._memories:
            self._wait()

    def sweep(self) -> None:
        """Forget what was not used for `SECONDS`; while there is any memory this happens twice in that time."""
        for visitor in list(self._memories):
            if time.monotonic() - self._get_used(visitor) > SECONDS:
                self.forget(visitor)

    def forget(self, visitor: str) -> None:
        """Forget what a visitor computed.

        Args:
            visitor: the session's name.
        """
        self._memories.pop(visitor, None)


class Clock(Protocol):
    """What `remember_calls` needs of a stopwatch."""

    def read_clock(self) -> float: ...
    def paused(self) -> Any: ...
    def add(self, seconds: float) -> None: ...


@contextmanager
def remember_calls(network: Any, memory: Memory, stopwatch: Clock) -> Iterator[Callable[[], bool]]:
    """Let a network answer repeated calls from memory within the context. Its hooks and counters see every call.

    Args:
        network: called with `return_dict=False`.
        memory: the visitor's.
        stopwatch: gets the seconds that a remembered call once took; looking it up is not on it.

    Yields:
        A function that tells whether the last call was remembered.
    """
    compute, has_own = network.forward, "forward" in vars(network)
    was_remembered = False

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal was_remembered
        with stopwatch.paused():
            key = hash_call(args, kwargs)
            known = memory.get(key)
        was_remembered = known is not None
        if was_remembered:
            answers, seconds = known
            stopwatch.add(seconds)
            return tuple(answer.to(args[0].device) for answer in answers)
        begin = stopwatch.read_clock()
        answers = compute(*args, **kwargs)
        seconds = stopwatch.read_clock() - begin
        with stopwatch.paused():
            kept = tuple(answer.detach().cpu().clone() for answer in answers)
            memory.put(key, (kept, seconds), sum(answer.nbytes for answer in kept))
        return answers

    network.forward = forward
    try:
        yield lambda: was_remembered
    finally:
        if has_own:
            network.forward = compute
        else:
            del network.forward


def hash_call(*arguments: Any) -> bytes:
    """Hash the arguments of a call by their bits.

    Args:
        arguments: tensors, numbers, texts and None, in tuples, lists and dicts.

    Returns:
        The SHA-256 digest.
    """
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for name in sorted(value):
                digest.update(f"{name}=".encode())
                add(value[name])
        elif isinstance(value, (tuple, list)):
            digest.update(b"(")
            for each in value:
                add(each)
            digest.update(b")")
        elif hasattr(value, "detach"):
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
            # float32 holds every value of the narrower types, and NumPy does not know bfloat16
            digest.update((value.detach().float() if value.is_floating_point() else value).cpu().contiguous().numpy())
        else:
            digest.update(repr(value).encode())
        digest.update(b";")

    add(arguments)
    return digest.digest()
