"""Users of the server that runs in the current directory, for locust.

    python -m tests.load.run                                     what `make load` does: see there
    python -m locust -f tests/load/locustfile.py --mix bad=1     locust itself, with its page

Each user asks one thing after the other, as `--mix` weighs them: one image, several in one request, bad ones, and with
wrong tokens. The images are the golden ones of the archives, so that every answer can be held to the version that gave
it: a wrong answer is a failure, and so is a bad request that gets another status than it should.
"""

import json
import random
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from locust import FastHttpUser, constant, events, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from serving.client import VERSION_HEADER, Client
from serving.client.deadline import Deadline
from serving.errors import ServingError
from serving.lifecycle.golden_check import WrongAnswer
from tests.load import questions
from tests.load.history import History
from tests.load.questions import INVALID_KEY, Exams, Question
from tests.load.swaps import Swaps

MIX = "single=70,several=20,bad=5,token=5"
OUTPUT = Path("logs/load")
FILE = "history.json"
TOLD, PAUSE = 5.0, 0.1  # seconds between lines of progress; of waiting for something to end
RENEWED = 3  # attempts with a token that may be renewed meanwhile
DEADLINE = 30.0  # seconds that an answer has


def options(parser: ArgumentParser) -> None:
    """Name what can be set; an environment variable as well, LOAD_MIX for --mix."""
    add = parser.add_argument
    add("--mix", default=MIX, env_var="LOAD_MIX", help=f"weights of the kinds of request (default: {MIX})")
    add("--models", default="", env_var="LOAD_MODELS", help="model names, separated by commas (default: all)")
    add("--requests", type=int, default=0, env_var="LOAD_REQUESTS", help="stop after this many requests")
    add("--swap", default="", metavar="NAME=VERSION,VERSION", env_var="LOAD_SWAP", help="deploy these versions in turn")
    add("--swap-pause", type=float, default=5.0, metavar="SECONDS", help="pause between two deployments")
    add("--failures", type=float, default=0.0, metavar="SHARE", help="largest share of requests that may fail")
    add("--p95", type=float, default=1000.0, metavar="MS", help="largest 95th percentile of each kind of request")
    add("--output", default=str(OUTPUT), metavar="FOLDER", help="write history.json to this folder")


class Plan:
    """What all users share."""

    def __init__(self, chosen: Any) -> None:
        self.makes = questions.mix(chosen.mix)
        self.swaps = Swaps(chosen.swap, chosen.swap_pause)
        self.client = Client(deadline=DEADLINE)
        self.exams = Exams(self.client, Path.cwd(), [name for name in chosen.models.split(",") if name])
        self.wanted: int = chosen.requests
        self.start()

    def start(self) -> None:
        """Forget what an earlier run counted."""
        self.history = History()
        self.begun = self.done = 0
        self.beside: list[gevent.Greenlet] = []
        self.stopping = Event()

    def begin(self) -> bool:
        """Return whether one more request is to be sent, and count it."""
        if self.wanted and self.begun >= self.wanted:
            return False
        self.begun += 1
        return True


plan: Plan  # of this process


def prepare(environment: Environment, **_: Any) -> None:
    """Look at the server and its archives; end where there is nothing to ask."""
    global plan
    try:
        plan = Plan(environment.parsed_options)
    except (ServingError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    environment.host = environment.host or plan.client.inference


def start(environment: Environment, **_: Any) -> None:
    """Begin to count, to tell, and to swap."""
    plan.start()
    plan.beside = [gevent.spawn(tell), gevent.spawn(end, environment)]
    if plan.swaps.versions:
        live = plan.client.describe(plan.swaps.name).version
        plan.beside.append(gevent.spawn(plan.swaps.run, plan.history, live, plan.stopping))


def tell() -> None:
    """Print a line every few seconds."""
    while not plan.stopping.wait(TOLD):
        print(plan.history.line(plan.wanted), file=sys.stderr)


def end(environment: Environment) -> None:
    """Stop when as many requests as wanted are answered."""
    while not plan.stopping.wait(PAUSE):
        if plan.wanted and plan.done >= plan.wanted:
            runner: Any = environment.runner
            # In a greenlet of its own: stopping waits for this one.
            gevent.spawn(runner.stop if environment.web_ui else runner.quit)
            return


def stop(environment: Environment, **_: Any) -> None:
    """Let a deployment end, and write what happened."""
    chosen: Any = environment.parsed_options
    plan.stopping.set()
    gevent.joinall(plan.beside)
    print(plan.history.line(plan.wanted), file=sys.stderr)
    folder = Path(chosen.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(plan.history.document()) + "\n")


def note(response_time: float, exception: Exception | None, **_: Any) -> None:
    """Keep the time of each answer."""
    plan.history.add(response_time, failed=exception is not None)


def judge(environment: Environment, **_: Any) -> None:
    """Say whether the limits are kept, also with the exit code."""
    limits: Any = environment.parsed_options
    runner: Any = environment.runner
    total = environment.stats.total
    faults = [f"a deployment failed: {each.error}" for each in plan.history.swaps if each.error]
    if plan.swaps.versions and not plan.history.swaps:
        faults.append("the load ended before the first deployment: make it longer, or --swap-pause shorter")
    faults += [each["msg"] for each in runner.exceptions.values()]
    if not total.num_requests:
        faults.append("no request was sent")
    elif total.fail_ratio > limits.failures:
        faults.append(f"{total.num_failures:,} of {total.num_requests:,} requests failed")
    for entry in environment.stats.entries.values():
        if (p95 := entry.get_response_time_percentile(0.95)) > limits.p95:
            faults.append(f"{entry.name}: p95 is {p95:.0f} ms, the limit is {limits.p95:g} ms")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    environment.process_exit_code = int(bool(faults))


class ImageUser(FastHttpUser):
    """Asks one thing after the other."""

    wait_time = constant(0)
    network_timeout = connection_timeout = DEADLINE

    @task
    def ask(self) -> None:
        """Send one request and hold its answer to what it should be."""
        if not plan.begin():
            gevent.sleep(PAUSE)
            return
        try:
            model = random.choice(plan.exams.models)
            question = random.choice(plan.makes)(model, plan.exams.images(model))
            with self.send(question) as response:
                try:
                    check(response, question, model)
                    response.success()
                except ServingError as error:
                    response.failure(str(error))
        finally:
            plan.done += 1

    def send(self, question: Question) -> ResponseContextManager:
        """Return the response; to the next token where that of the moment was renewed on the way."""
        deadline = Deadline(DEADLINE)
        client: Any = self.client  # whose types allow no bytes
        for _ in range(RENEWED):
            token = plan.client.tokens.current("inference", deadline)
            header = {"Authorization": f"Bearer {question.token}"} if question.token else token.header
            headers = {"Content-Type": question.content_type, **header}
            response: ResponseContextManager = client.post(
                question.path, data=question.body, headers=headers, name=question.name, catch_response=True
            )
            if question.token or kind(response) != INVALID_KEY:
                break
            plan.client.tokens.after_refusal("inference", token, deadline)
        return response


def kind(response: ResponseContextManager) -> str:
    """Return the type of an error, empty for an answer."""
    try:
        return str(response.json()["type"]) if response.status_code >= 400 else ""
    except (ValueError, KeyError, TypeError):
        return ""


def check(response: ResponseContextManager, question: Question, model: str) -> None:
    """Hold an answer to what it should be.

    Raises:
        WrongAnswer: it is another, or there is none.
        ArchiveError, ClientError: what it should be cannot be known.
    """
    if not response.status_code:
        raise WrongAnswer(f"no answer: {type(getattr(response, 'error', None)).__name__}")
    if response.status_code != question.code or (question.kind and kind(response) != question.kind):
        wanted = f"{question.code} {question.kind}".strip()
        raise WrongAnswer(f"{wanted} expected, got {response.status_code}: {(response.text or '')[:200]}")
    if question.images:
        try:
            document = response.json()
        except ValueError as error:
            raise WrongAnswer("the answer is not JSON") from error
        headers: Any = response.headers
        plan.exams.check(question, model, headers[VERSION_HEADER], document)


hooks: Any = events  # locust declares no types for them
hooks.init_command_line_parser.add_listener(options)
hooks.init.add_listener(prepare)
hooks.test_start.add_listener(start)
hooks.test_stop.add_listener(stop)
hooks.request.add_listener(note)
hooks.quitting.add_listener(judge)
