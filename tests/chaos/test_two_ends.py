"""The client's machine against the server's session rules: requests and answers get lost, come twice and out of order,
both sides crash between any two steps, sessions expire, the file changes, and two clients share one memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from chunkyd.catalog.base import SessionState
from chunkyd.errors import NetworkError, Problem
from chunkyd.protocol.ranges import RangeSet
from chunkyd.server.session import LiveSession
from chunkyd.upload.machine import AskStatus, Event, Failed, Initiate, Known, Refused, Request, Send, Stored
from tests.chaos.model_client import RULES, TOTAL, ModelClient, SharedMemory
from tests.chaos.model_server import MAX_CHUNK, TTL, ModelServer, Work

LONG = os.environ.get("CHUNKYD_LONG_TESTS") == "1"


TROUBLES = [
    "client_crashes",
    "file_changes",
    *["session_is_ended"] * 2,
    *["request_is_lost"] * 2,
    *["request_comes_twice"] * 4,
    *["initiate_comes_late"] * 2,
    *["answer_is_lost"] * 2,
    *["body_is_broken"] * 2,
    "server_crashes",
    "time_passes",
]


def content(version: int) -> bytes:
    """The bytes of a version."""
    return random.Random(version).randbytes(TOTAL)


@dataclasses.dataclass(eq=False)
class Wire:
    """A request on its way to the server, or (with its answer) back."""

    client: ModelClient
    life: int
    request: Request
    session_id: str
    version: int
    key: bytes = b""
    answer: Event | None = None
    opened: str | None = None


class TwoEnds(RuleBasedStateMachine):
    """Everything that may happen between two clients and a server."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.version = 1
        self.server = ModelServer()
        memory = SharedMemory()
        chance = random.Random(1)
        self.clients = [ModelClient(number, memory, chance.random) for number in (1, 2)]
        self.memory = memory
        self.going: list[Wire] = []
        self.served: list[Wire] = []  # initiates that came once, at least
        self.keys = itertools.count()
        self.coming: list[Wire] = []
        self.bodies: dict[int, tuple[Work, Wire | None]] = {}
        self.seen: dict[str, RangeSet] = {}
        self.received = 0  # bytes of chunks whose head was accepted
        self.stored = 0
        self.interruptions = 0

    # Work goes on: with more of it than trouble, or nothing is ever half done

    @rule(turns=st.lists(st.integers(0, 999), min_size=10, max_size=60))
    def work_goes_on(self, turns: list[int]) -> None:
        """Clients ask, requests arrive, bodies end, answers arrive: in any order."""
        for turn in turns:
            ways = [self._client_asks, self._client_asks]
            ways += [self._request_arrives] * bool(self.going) + [self._body_is_whole] * bool(self.bodies)
            ways += [self._answer_arrives] * bool(self.coming) + [self._work_of_the_server]
            ways[turn % len(ways)](turn // len(ways))

    def _client_asks(self, turn: int) -> None:
        client = self.clients[turn % 2]
        if client.machine is None:
            client.begin(self.version)
        for request in client.requests(self.now):
            self._send(client, request)

    def _send(self, client: ModelClient, request: Request) -> None:
        """The key is the same for the same session of the same version, whichever life of the client asks for it."""
        session_id = client.sessions.get(request.session, "")
        key = repr((client.version, request.session, client.number)).encode()
        self.going.append(Wire(client, client.life, request, session_id, client.version, key))

    def _request_arrives(self, turn: int) -> None:
        self._serve(self.going.pop(turn % len(self.going)), heard=True)

    def _body_is_whole(self, turn: int) -> None:
        self._end_body(list(self.bodies)[turn % len(self.bodies)], "whole")

    def _answer_arrives(self, turn: int) -> None:
        self._hear(self.coming.pop(turn % len(self.coming)))

    def _work_of_the_server(self, turn: int) -> None:
        self.now += 0.5
        if turn % 3 == 0:
            self.server.verify()

    # Trouble

    @rule(kind=st.sampled_from(TROUBLES), number=st.integers(0, 999))
    def trouble(self, kind: str, number: int) -> None:
        """Something goes wrong, or is done by somebody else."""
        self.interruptions += 1
        trouble: Callable[[int], None] = getattr(self, f"_{kind}")
        trouble(number)

    def _client_crashes(self, number: int) -> None:
        """What it has sent may still arrive."""
        self.clients[number % 2].leave()

    def _file_changes(self, _: int) -> None:
        """Both clients notice before they send anything more; what they have sent may come at any time."""
        self.version += 1
        for client in self.clients:
            client.leave()

    def _session_is_ended(self, number: int) -> None:
        """The answer may be lost; until the server says that it is gone it is ended again."""
        if self.memory.endings:
            self._end(sorted(self.memory.endings)[number % len(self.memory.endings)], heard=number % 3 > 0)

    def _end(self, session_id: str, *, heard: bool) -> None:
        try:
            self.server.end(session_id, self.now)
        except Problem as found:
            assert found.name in ("invalid-session-id", "session-expired")
        self.seen.pop(session_id, None)
        if heard:
            self.memory.endings.discard(session_id)

    def _request_is_lost(self, number: int) -> None:
        if self.going:
            self._lose(self.going.pop(number % len(self.going)))

    def _request_comes_twice(self, number: int) -> None:
        """Nobody hears the first answer."""
        if self.going:
            self._serve(self.going[number % len(self.going)], heard=False)

    def _initiate_comes_late(self, number: int) -> None:
        """Repeated by something on the way, after whatever has happened since."""
        if self.served:
            self._serve(self.served[number % len(self.served)], heard=False)

    def _answer_is_lost(self, number: int) -> None:
        if self.coming:
            self._lose(self.coming.pop(number % len(self.coming)))

    def _body_is_broken(self, number: int) -> None:
        """Its bytes may have been written, but none counts."""
        if self.bodies:
            self._end_body(list(self.bodies)[number // 2 % len(self.bodies)], ("cut", "corrupt")[number % 2])

    def _server_crashes(self, number: int) -> None:
        """Bodies under way are torn; requests that wait for an answer never get one."""
        self.server.crash(number % MAX_CHUNK)
        for _, reply in self.bodies.values():
            if reply is not None:
                self._lose(reply)
        self.bodies.clear()

    def _time_passes(self, number: int) -> None:
        """Backoffs end, sessions expire."""
        self.now += (1.0, 10.0, 150.0)[number % 3]

    # The network

    def _lose(self, wire: Wire) -> None:
        wire.answer, wire.opened = Failed(wire.request, NetworkError("no answer")), None
        self._hear(wire)

    def _hear(self, wire: Wire) -> None:
        client = wire.client
        if wire.life != client.life or client.machine is None:
            return
        assert wire.answer is not None
        if wire.opened is not None and not client.opened(wire.request, wire.opened):
            self.going.append(
                Wire(client, wire.life, wire.request, client.sessions[wire.request.session], wire.version)
            )
            return
        refused = wire.answer.problem.name if isinstance(wire.answer, Refused) else ""
        initiated = isinstance(wire.request, Initiate) and not wire.session_id  # and not only asked about
        if initiated and refused == "session-expired":  # the key of an earlier upload
            again = dataclasses.replace(wire, key=b"fresh%d" % next(self.keys), answer=None, opened=None)
            self.going.append(again)
            return
        client.machine.handle(wire.answer, self.now)
        client.after(self.now)

    # The server

    def _serve(self, wire: Wire, *, heard: bool) -> None:
        reply = dataclasses.replace(wire)
        request = wire.request
        try:
            if isinstance(request, Send):
                start, stop = request.chunk
                body = content(wire.version)[start:stop]
                work = self.server.admit(wire.session_id, request.chunk, body, self.now)
                if work is not None:
                    self.received += stop - start
                    self.bodies[id(work)] = (work, reply if heard else None)
                    return
                reply.answer = Stored(request, self.server.find(wire.session_id, self.now).status(), 1.0)
            elif isinstance(request, AskStatus) or wire.session_id:
                session = self.server.find(wire.session_id, self.now)
                reply.answer = self._known(request, session)
            else:
                if wire not in self.served:
                    self.served.append(wire)
                session = self.server.initiate(content(wire.version), wire.key, wire.version, self.now)
                reply.opened = session.session_id
                reply.answer = self._known(request, session)
        except Problem as found:
            reply.answer = Refused(request, found)
        if heard:
            self.coming.append(reply)

    def _known(self, request: Request, session: LiveSession) -> Known:
        limits = (MAX_CHUNK, 9) if isinstance(request, Initiate) else (None, None)
        return Known(request, session.status(), tuple(session.missing()), *limits)

    def _end_body(self, number: int, outcome: str) -> None:
        work, reply = self.bodies.pop(number)
        try:
            self.server.finish(work, outcome, self.now)
            self.stored += sum(last - first for first, last in work.claim.writes)
            answer: Event | None = Stored(reply.request, work.session.status(), 1.0) if reply else None  # type: ignore[arg-type]
        except Problem as found:
            answer = Refused(reply.request, found) if reply else None
        if reply is not None:
            reply.answer = answer
            self.coming.append(reply)

    # What must hold at every moment

    @invariant()
    def published_versions_existed(self) -> None:
        """What is published is, byte for byte, one version."""
        versions = [content(version) for version in range(1, self.version + 1)]
        assert all(each in versions for each in self.server.published)

    @invariant()
    def stored_stays_stored(self) -> None:
        """No range of a living session is ever taken back; memory and catalog agree; the bytes are the right ones."""
        for session_id, session in self.server.live.items():
            stored = RangeSet(self.server.catalog.stored(session_id))
            assert stored == session.stored
            before = self.seen.get(session_id, RangeSet())
            assert all(stored.covers(*each) for each in before)
            self.seen[session_id] = stored.copy()
            there = self.server.content(session)
            right = [content(version) for version in range(1, self.version + 1)]
            assert any(all(there[a:b] == each[a:b] for a, b in stored) for each in right)

    @invariant()
    def nobody_writes_the_same_bytes(self) -> None:
        """Chunks in progress are disjoint in what they write, and write nothing that is stored."""
        for session_id, session in self.server.live.items():
            writes = [each for work in self.server.work if work.session is session for each in work.claim.writes]
            assert RangeSet(writes).total == sum(stop - start for start, stop in writes), session_id
            assert not any(session.stored.overlaps(*each) for each in writes)

    @invariant()
    def complete_is_published(self) -> None:
        """A client that believes in completion is right."""
        for client in self.clients:
            for version in client.completed:
                assert content(version) in self.server.published

    @invariant()
    def little_is_sent_twice(self) -> None:
        """An interruption costs at most what was on its way."""
        on_its_way = len(self.clients) * RULES.parallel_chunks * MAX_CHUNK
        assert self.received <= self.stored + (self.interruptions + 1) * on_its_way

    def teardown(self) -> None:
        """However it stands: left alone, both clients complete the last version, and nothing is left behind."""
        begun = self.now
        while True:
            late = "never at rest, or only once what was stuck had expired"
            assert self.now - begun < TTL / 2, f"{late}: {self._picture()}"
            if not any(self._has_work(client) for client in self.clients) and not self.memory.endings:
                break
            self._calm_turn()
        assert self.server.published[-1] == content(self.version)
        left = [record for record in self.server.catalog.sessions() if self.server.catalog.stored(record.session_id)]
        assert not left, "a session with stored chunks was known to its client, and so was ended"
        assert not [each for each in left if each.state is SessionState.DEAD]

    def _picture(self) -> str:
        clients = [(client.version, client.sessions, vars(client.machine or client)) for client in self.clients]
        records = list(self.server.catalog.sessions(tombstones=True))
        return f"{self.now=} {clients=} {self.memory=} {records=} {self.server.work=}"

    def _has_work(self, client: ModelClient) -> bool:
        return bool(client.machine or self.memory.sessions) or self.version not in client.completed

    def _calm_turn(self) -> None:
        self.now += 0.1
        for client in self.clients:
            if client.machine is None and self._has_work(client):
                client.begin(self.version)
            if client.machine is not None:
                self.now = max(self.now, min(client.machine.wake_at() or self.now, self.now + 5.0))
                for request in client.requests(self.now):
                    self._send(client, request)
        while self.going:
            self._serve(self.going.pop(0), heard=True)
        for number in list(self.bodies):
            self._end_body(number, "whole")
        self.server.verify()
        while self.coming:
            self._hear(self.coming.pop(0))
        for session_id in sorted(self.memory.endings):
            if session_id not in self.memory.sessions.values():
                self._end(session_id, heard=True)
        self.stored_stays_stored()


PROFILE = settings(
    max_examples=2000 if LONG else 60,
    stateful_step_count=100 if LONG else 50,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)


def test_two_ends() -> None:
    """Whatever comes between two clients and the server's rules, the invariants hold."""
    run_state_machine_as_test(TwoEnds, settings=PROFILE)  # type: ignore[no-untyped-call]
