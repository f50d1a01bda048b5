"""The load test: the page in a process of its own, its visitors, and what was found against what is aimed for."""

import asyncio
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from tests.load.visitors import IDLE_TABS, VISITORS, Found, Visitor, choose_runs, hold_tab, raise_file_limit

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
WARM_UP_RUNS = 12
PATIENCE_SECONDS = 5  # of the visitors, after the end
SWEEP_SECONDS, FILE_SECONDS = 3, 8  # quick, so that the test sees the end of its files


@contextmanager
def serve_apart(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve the page in a process of its own, with a temporary directory of its own and quick sweeps.

    Args:
        folder: the directory.

    Yields:
        Its address and process id.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "TMPDIR": str(folder), "MALLOC_ARENA_MAX": "2"}
    environment.pop("GRADIO_TEMP_DIR", None)
    code = (
        "import sys; from app.arguments import prepare_environment; prepare_environment([]);"
        f"from app import upkeep, visitor_files; upkeep.SWEEP_SECONDS = {SWEEP_SECONDS};"
        f"visitor_files.sweep.__defaults__ = ((), {FILE_SECONDS}, visitor_files.MAX_BYTES);"
        f"from app.main import main; sys.exit(main(['--port', '{port}']))"
    )
    with open(folder / "page.log", "w") as log:
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(30)


async def measure(url: str, pid: int, folder: Path, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Let the visitors in.

    Args:
        url: of the page.
        pid: of its process.
        folder: its temporary directory.
        seconds: of the load.
        seed: of what the visitors do.

    Returns:
        What was found, by the rows of `tabulate`.
    """
    raise_file_limit()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=VISITORS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        await wait_until_up(client)
        runs = choose_runs((await client.get("/config")).json(), steps=6, bypass=(3, 5))
        own, end = list_files(folder), asyncio.Event()
        tabs = [asyncio.create_task(hold_tab(client, end)) for _ in range(IDLE_TABS)]
        await warm_up(client, runs)
        before, found = read_rss(pid), Found()
        until = time.monotonic() + seconds
        visits = [Visitor(client, runs, found).visit(until, random.Random(seed + i)) for i in range(VISITORS)]
        tasks = [asyncio.create_task(visit) for visit in visits]
        _, waiting = await asyncio.wait(tasks, timeout=seconds + PATIENCE_SECONDS)
        for task in waiting:  # they leave
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        held = sum(not tab.done() for tab in tabs)
        health = (await client.get("/health")).json()
        end.set()
        await asyncio.gather(*tabs, return_exceptions=True)
        alive = Found()
        number = next(iter(runs))
        await Visitor(client, {number: runs[number]}, alive).run(random.Random(2))  # this one waits for its answer
        after, files = await settle(pid, folder, own)
    return {
        "found": found, "health": health, "rss": (before, after), "files": files, "held": held,
        "alive": alive.answered + alive.left, "log": (folder / "page.log").read_text(),
    }  # fmt: skip


async def wait_until_up(client: httpx.AsyncClient) -> None:
    """Wait until the page answers, two minutes at most."""
    for _ in range(600):
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx.HTTPError:
            await asyncio.sleep(0.2)
    raise RuntimeError("the page does not answer.")


async def warm_up(client: httpx.AsyncClient, runs: dict[int, list[Any]]) -> None:
    """Load the page for each idle tab, and run everything until caches and the allocator are filled.

    Args:
        client: of all visitors.
        runs: as of `choose_runs`.
    """
    visitor = Visitor(client, runs, Found())
    chance = random.Random(1)
    for _ in range(IDLE_TABS // 4):
        await asyncio.gather(*(visitor.load_page() for _ in range(4)))
    for number, data in runs.items():
        await Visitor(client, {number: data}, Found()).run(random.Random(2))  # this one waits for its answer
    await asyncio.gather(*(visitor.run(chance) for _ in range(WARM_UP_RUNS)))


def list_files(folder: Path) -> set[Path]:
    """List the page's and its visitors' files in its temporary directory."""
    places = [place for name in ("latentcrf-page-*", "latentcrf-gradio-*") for place in folder.glob(name)]
    return {path for place in places for path in place.rglob("*") if path.is_file()}


async def settle(pid: int, folder: Path, own: set[Path]) -> tuple[float, int]:
    """Wait for the sweep.

    Args:
        pid: of the page's process.
        folder: its temporary directory.
        own: files of the page itself.

    Returns:
        RSS in MB, and how many files of visitors are left.
    """
    files = 1
    for _ in range(40):
        await asyncio.sleep(1)
        files = len(list_files(folder) - own)
        if files == 0:
            break
    return read_rss(pid), files


def read_rss(pid: int) -> float:
    """Read a process's resident memory in MB."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def tabulate(measured: dict[str, Any]) -> tuple[str, list[str]]:
    """Tabulate goal and found.

    Args:
        measured: as of `measure`.

    Returns:
        A table in Markdown, and the rows that missed their goal.
    """
    found: Found = measured["found"]
    before, after = measured["rss"]
    loads = np.array(found.loads)
    slow = float(np.quantile(loads, 0.95))
    runs = found.answered + found.refused + found.left
    traces = measured["log"].count("Traceback")
    rows = [
        ("failed page loads", "0", f"{found.failed_loads} of {len(loads)}", found.failed_loads == 0),
        ("95 % of page loads within", "1 s", f"{slow:.2f} s", slow <= 1),
        (
            "runs answered, refused with a sentence and an estimate, or left by the visitor", "all",
            f"{found.answered}, {found.refused}, {found.left} of {runs + len(found.problems)}", not found.problems,
        ),
        ("memory after, of before", "within 5 %", f"{before:.0f} to {after:.0f} MB ({after / before - 1:+.1%})",
         after <= 1.05 * before),
        ("files of visitors after the sweep", "0", str(measured["files"]), measured["files"] == 0),
        ("idle tabs still open", str(IDLE_TABS), str(measured["held"]), measured["held"] == IDLE_TABS),
        ("tracebacks in the log", "0", str(traces), traces == 0),
        ("queue after", "processing", f"{measured['health']['queue']}, a run is answered: {bool(measured['alive'])}",
         measured["health"]["ok"] and bool(measured["alive"])),
    ]  # fmt: skip
    lines = ["| | goal | found |", "|---|---|---|", *(f"| {name} | {goal} | {text} |" for name, goal, text, _ in rows)]
    return "\n".join(lines), [f"{name}: {text}" for name, _, text, is_met in rows if not is_met]


async def repeat(url: str, pid: int, count: int) -> tuple[float, float]:
    """Draw comparisons of two steps, one after the other.

    Args:
        url: of the page.
        pid: of its process.
        count: of the comparisons, after a warm-up of 20.

    Returns:
        RSS in MB before and after.

    Raises:
        RuntimeError: one was not answered.
    """
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await wait_until_up(client)
        runs = choose_runs((await client.get("/config")).json(), steps=2, bypass=(1, 2))
        number = min(runs)
        found = Found()
        before = 0.0
        for index in range(20 + count):
            before = read_rss(pid) if index == 20 else before
            await Visitor(client, {number: runs[number]}, found).run(random.Random(2))
        if found.answered != 20 + count:
            raise RuntimeError(f"{found.answered} of {20 + count} were answered: {found.problems[:3]}")
        return before, read_rss(pid)


def run_apart(measurement: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own: Playwright's synchronous tests leave a loop running in theirs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, measurement).result()


def run_repeatedly(count: int) -> tuple[float, float]:
    """Measure the memory of many generations; returns as of `repeat`."""
    with tempfile.TemporaryDirectory() as name, serve_apart(Path(name)) as (url, pid):
        return run_apart(repeat(url, pid, count))


def run(seconds: float) -> tuple[str, list[str], Found, str]:
    """Run the load test.

    Args:
        seconds: of the load.

    Returns:
        As of `tabulate`, what the visitors found, and the page's log.
    """
    with tempfile.TemporaryDirectory() as name, serve_apart(Path(name)) as (url, pid):
        measured = run_apart(measure(url, pid, Path(name), seconds))
    table, missed = tabulate(measured)
    return table, missed, measured["found"], measured["log"]
