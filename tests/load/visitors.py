"""Visitors that load the page, run what computes, cancel and leave, with what they were answered."""

import asyncio
import json
import random
import resource
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

IDLE_TABS = 200
VISITORS = 50
ANSWER_SECONDS = 900  # that a visitor waits for an answer


@dataclass
class Found:
    """What the visitors found.

    Attributes:
        loads: seconds of each page load.
        failed_loads: page loads without the page.
        answered: runs that ended with a result.
        refused: runs that were refused with a sentence and a wait estimate.
        left: runs that the visitor cancelled or left, at the end of the test too.
        problems: whatever else happened, as sentences.
        waits: seconds from a run's request to its answer.
    """

    loads: list[float] = field(default_factory=list)
    failed_loads: int = 0
    answered: int = 0
    refused: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class Visitor:
    """A visitor with one tab.

    Args:
        client: of all visitors.
        runs: data of each kind of run, by its function's number.
        found: shared by all.
    """

    def __init__(self, client: httpx.AsyncClient, runs: dict[int, list[Any]], found: Found) -> None:
        self.client, self.runs, self.found = client, runs, found

    async def visit(self, until: float, chance: random.Random) -> None:
        """Load the page and run something, again and again.

        Args:
            until: on the clock of `time.monotonic`.
            chance: decides what the visitor does.
        """
        await asyncio.sleep(chance.uniform(0, 3))
        while time.monotonic() < until:
            await self.load_page()
            await self.run(chance)
            await asyncio.sleep(chance.uniform(0.2, 3))

    async def load_page(self) -> None:
        """Load the page, and what it asks for at once."""
        began = time.monotonic()
        try:
            answers = [await self.client.get("/"), await self.client.get("/config")]
            if any(answer.status_code != 200 for answer in answers):
                self.found.failed_loads += 1
        except httpx.HTTPError:
            self.found.failed_loads += 1
        self.found.loads.append(time.monotonic() - began)

    async def run(self, chance: random.Random) -> None:
        """Start a run; wait for its answer, cancel it, or leave."""
        numbers = list(self.runs)  # the compare tab's is the first, and the quickest
        session, number = secrets.token_hex(5), chance.choices(numbers, [6] + [1] * (len(numbers) - 1))[0]
        body = {"data": self.runs[number], "fn_index": number, "session_hash": session}
        patience = chance.choice((None, None, chance.uniform(0.1, 4), chance.uniform(0.1, 20)))
        began = time.monotonic()
        try:
            answer = await self.client.post("/gradio_api/queue/join", json=body)
            if answer.status_code == 503:
                is_sentence = "Please try again then" in answer.text and "before you, about" in answer.text
                self.found.refused += is_sentence
                if not is_sentence:
                    self.found.problems.append(f"refused: {answer.text[:200]}")
                return
            event = answer.json()["event_id"]
            await asyncio.wait_for(self.listen(session), patience or ANSWER_SECONDS)
            self.found.answered += 1
            self.found.waits.append(time.monotonic() - began)
        except asyncio.CancelledError:
            self.found.left += 1
            raise
        except TimeoutError:
            if patience is None:
                self.found.problems.append(f"no answer in {ANSWER_SECONDS} s")
                return
            self.found.left += 1
            if chance.random() < 0.5:  # cancels, else just leaves
                body = {"session_hash": session, "fn_index": number, "event_id": event}
                await self.client.post("/gradio_api/cancel", json=body)
        except (httpx.HTTPError, ValueError, KeyError, RuntimeError) as error:
            self.found.problems.append(repr(error)[:200])

    async def listen(self, session: str) -> None:
        """Listen until the run ends.

        Raises:
            RuntimeError: it ended without a result.
        """
        async with self.client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        if not message["success"]:
                            raise RuntimeError(f"failed: {str(message)[:150]}")
                        return
                    if message["msg"] == "unexpected_error":
                        raise RuntimeError(f"ended: {str(message)[:150]}")
        raise RuntimeError("the stream ended without an answer")


async def hold_tab(client: httpx.AsyncClient, until: asyncio.Event) -> None:
    """Hold an idle tab open: the heartbeat that the page keeps.

    Args:
        client: of all visitors.
        until: is set when the tab is closed.
    """
    async with client.stream("GET", f"/gradio_api/heartbeat/{secrets.token_hex(5)}") as stream:
        lines = stream.aiter_lines()
        reading = asyncio.ensure_future(anext(lines))
        await until.wait()
        reading.cancel()


def choose_runs(config: dict[str, Any], steps: int, bypass: tuple[int, int]) -> dict[int, list[Any]]:
    """Choose what visitors run: compare and the analyses, small.

    Args:
        config: of the page.
        steps: of the runs, where a tab has them.
        bypass: first and last.

    Returns:
        Data by the function's number.
    """
    components = {each["id"]: each for each in config["components"]}
    small = {
        "prompt": "red apple", "steps": steps, "bypass-start": bypass[0], "bypass-end": bypass[1],
        "convergence-steps": steps, "convergence-bypass-start": bypass[0], "convergence-bypass-end": bypass[1],
        "convergence-seeds": 1, "variance-runs": 2, "diversity-seeds": 4, "diversity-methods": [],
    }  # fmt: skip
    runs = {}
    for dependency in config["dependencies"]:
        names = [components[id]["props"].get("elem_id") or "" for id in dependency["inputs"]]
        tab = "prompt" in names or any(name in names for name in ("variance-runs", "convergence-seeds"))
        is_run = len(names) > 4 and components[dependency["inputs"][1]]["type"] == "state" and dependency["queue"]
        if is_run and (tab or "diversity-seeds" in names):
            values = []
            for index, id in enumerate(dependency["inputs"]):
                value = components[id]["props"].get("value")
                stateful = components[id]["type"] == "state"
                values.append(1 if index == 0 else None if stateful else small.get(names[index], value))
            runs[dependency["id"]] = values
    return runs


def raise_file_limit() -> None:
    """Let this process hold a connection for each visitor and tab."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
