"""A program for the tests to kill: a queue at work in four threads, which tells each thing only after it is recorded.

python -m tests.jobs.busy FOLDER RUN SEED
"""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

from chunkyd.clock import SystemClock
from chunkyd.files import Fingerprint
from chunkyd.jobs.job import Change, Job
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason
from tests.jobs.shared import HASH, URL, open_queue

PATHS = [b"%d" % number for number in range(12)] + [b"0/%d" % number for number in range(4)]
_GUARD = threading.Lock()


def tell(*words: object) -> None:
    """One line, whole, at once."""
    with _GUARD:
        sys.stdout.write(" ".join(str(word) for word in words) + "\n")
        sys.stdout.flush()


def watch(queue: Queue, chance: random.Random, run: int) -> None:
    """Offer ever newer versions; now and then the user interferes."""
    for step in range(1_000_000):
        number = run * 1_000_000 + step + 1
        path = chance.choice(PATHS)
        if queue.offer([Change("films", path, Fingerprint(1, 1, 100, number, number))]):
            tell("offered", path.decode(), number)
        if chance.random() < 0.02:
            queue.pause_user()
            tell("paused", 1)
            queue.resume_user()
            tell("paused", 0)


def work(queue: Queue, chance: random.Random, run: int) -> None:
    """Claim and take jobs to one of their ends."""
    while True:
        job = queue.claim(f"run-{run}", ["films"])
        if job is not None:
            carry(queue, chance, job, run)


def carry(queue: Queue, chance: random.Random, job: Job, run: int) -> None:
    """One job."""
    if job.arrived is None:
        session = job.session_id or f"s-{run}-{job.id}-{job.claims}"
        if not queue.opened(job, session, URL, HASH):
            queue.release(job)
            return
        tell("opened", session)
        queue.progress(job, chance.randrange(100), 10)
        if chance.random() < 0.3:
            chance.choice(
                [
                    lambda: queue.release(job),
                    lambda: queue.restart(job, "expired"),
                    lambda: queue.gone(job),
                    lambda: queue.fail(job, Reason.SOURCE, "no"),
                ]
            )()
            return
        if not queue.finishing(job, URL):
            queue.release(job)
            return
        tell("arrived", job.id)
    if queue.done(job, job.fingerprint):
        tell("done", job.id)


def main() -> None:
    """Work until killed."""
    folder, run, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    queue = open_queue(folder, SystemClock())
    queue.recover(f"run-{run}")
    threads = [
        threading.Thread(target=target, args=(queue, random.Random(seed + number), run), daemon=True)
        for number, target in enumerate((watch, work, work, work))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
