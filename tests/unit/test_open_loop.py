"""Open-loop load: latency counts from when a request was to leave, and failures and own lateness are told."""

import asyncio
import itertools
import math
from typing import Any

import pytest

from benchmarks.traffic import open_loop
from benchmarks.traffic.open_loop import TimedAnswer, schedule, summarize
from tests.unit.answering_server import answering


def test_an_even_schedule_is_even_and_a_poisson_one_has_its_rate() -> None:
    assert schedule(4, 1, poisson=False) == [0, 0.25, 0.5, 0.75]
    times = schedule(1000, 20)
    assert times == sorted(times) and len(times) == 20_000
    assert times[-1] == pytest.approx(20, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.05)  # as of exponential gaps
    assert times != schedule(1000, 20, seed=1) and times == schedule(1000, 20)
    with pytest.raises(ValueError, match="both must be above 0"):
        schedule(0, 1)


def test_a_failure_counts_as_the_longest_latency() -> None:
    found = summarize([0.010] * 97 + [0.050] + [math.nan] * 2, [0.0], rate=50.0, waited=0)
    assert (found.p50, found.p99, found.longest, found.failures) == (10.0, 50.0, 50.0, 2)
    nothing = summarize([math.nan] * 3, [], rate=1.0, waited=3)
    assert nothing.failures == 3 and nothing.p99 == 0.0 and not nothing.behind


def test_a_generator_that_is_late_says_so() -> None:
    assert not summarize([0.01] * 100, [0.001] * 100, rate=1.0, waited=0).behind
    late = summarize([0.01] * 100, [0.001] * 90 + [0.02] * 10, rate=1.0, waited=0)
    assert late.behind and late.lateness == 20.0


def test_a_stall_is_charged_to_all_that_was_due_meanwhile() -> None:
    # Every request but the first is answered at once; half of them were due while the first one was not.
    with answering(stall=lambda number: 0.4 if number == 0 else 0.0) as server:
        found = open_loop.run(server.url, [b"a", b"b"], schedule(50, 0.8, poisson=False), connections=1)
    assert (found.requests, found.failures) == (40, 0)
    assert found.longest >= 400 and found.waited >= 15
    assert found.p50 > 5  # a closed loop would have seen a median far below a millisecond
    assert {*server.bodies} == {b"a", b"b"} and len(server.bodies) == 40


def test_an_answer_other_than_200_is_a_failure() -> None:
    with answering(status=lambda number: 503 if number % 2 else 200) as server:
        found = open_loop.run(server.url, [b"a"], schedule(200, 0.1, poisson=False), connections=4)
    assert (found.requests, found.failures) == (20, 10)


def test_connections_send_the_next_request_when_the_last_is_answered() -> None:
    heads: list[str] = []
    under_way = most = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while head := await reader.read(1000):
            under_way, most = under_way + 1, max(most, under_way + 1)
            heads.append(head.decode())
            await asyncio.sleep(0)
            under_way -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    answers = _against(answer)
    assert len(heads) == len(answers) >= 3 and 1 <= most <= 3
    assert all(head.startswith("POST /predictions/x HTTP/1.1\r\n") and head.endswith("\r\n\r\nimage") for head in heads)
    assert all(each.status == 200 and each.received > each.sent for each in answers)


def test_a_request_that_is_refused_has_its_status() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull")
        writer.close()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.close()

    answers = _against(refuse)
    assert (answers[0].status, answers[0].body) == (503, b"full")
    assert {each.status for each in _against(hang_up)} == {0}


def test_load_is_sent_to_this_machine_only() -> None:
    with pytest.raises(ValueError, match="not on this machine"):
        open_loop.run("http://example.org/x", [b""], [0.0])


def _against(serve: Any) -> list[TimedAnswer]:
    """Send three connections' requests for a twentieth of a second to a server of this test."""

    async def both() -> list[TimedAnswer]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predictions/x"
        run = open_loop.Run(url, [b"image"], [0.0] * open_loop.MAX_REQUESTS, {}, timeout=60)
        asyncio.get_running_loop().call_later(0.05, run.stop)
        async with server:
            await run.all(3)
        while connections := asyncio.all_tasks() - {asyncio.current_task()}:  # a cancelled one leaves its socket open
            await asyncio.wait(connections)
        return run.answers

    return asyncio.run(both())
