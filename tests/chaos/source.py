"""The one who works in the watched folders: does the acts of the plan, and keeps the books.

- It alone writes there (the daemon deletes from `drop`), so it knows every state a file was ever in; a state is noted
  before it can be seen.
- What an act does depends on the plan and on the acts before it, never on time: the same seed leaves the same files.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.ledger import Ledger, hash_of
from tests.chaos.names import name
from tests.chaos.plan import MIB, Act

ROOTS = (b"outbox", b"second")
DROP = b"drop"
MOST_BYTES = 160 * MIB
MOST_FILES = 600
_DEEPEST = 5


class Source:
    """`outbox` and `second`, whose files stay, and `drop`, whose files are deleted once they have arrived."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger()
        self.sizes: dict[bytes, int] = {}  # what lives in the folders whose files stay
        self.dropped: dict[bytes, str] = {}  # the last version of everything put into `drop`
        self._top = os.fsencode(folder)
        self._making = os.path.join(self._top, b"making")
        self._folders = set(ROOTS)
        self._made = 0
        for each in (*ROOTS, DROP, b"making"):
            os.mkdir(self.place(each))

    def place(self, path: bytes) -> bytes:
        """Where it is."""
        return os.path.join(self._top, path)

    def do(self, act: Act) -> None:
        """One act; where there is nothing to do it to, something is made instead."""
        chance = random.Random(act.number)
        full = sum(self.sizes.values()) + act.size > MOST_BYTES or len(self.sizes) > MOST_FILES
        what = "delete" if full and act.what.startswith(("make", "grow", "replace")) else act.what
        doing: Callable[[random.Random, int], None] = getattr(self, f"_{what}")
        doing(chance, act.size)

    # Choosing

    def _any_file(self, chance: random.Random) -> bytes | None:
        return chance.choice(sorted(self.sizes)) if self.sizes else None

    def _any_folder(self, chance: random.Random) -> bytes:
        folder = chance.choice(sorted(self._folders))
        if chance.random() < 0.3 and folder.count(b"/") < _DEEPEST:
            folder = self._fresh(chance, folder)
            os.mkdir(self.place(folder))
            self._folders.add(folder)
        return folder

    def _fresh(self, chance: random.Random, folder: bytes) -> bytes:
        self._made += 1
        return os.path.join(folder, name(chance, self._made))

    # The books

    def _content(self, path: bytes) -> bytes:
        with open(self.place(path), "rb") as file:
            return file.read()

    def _has(self, path: bytes, content: bytes) -> None:
        self.ledger.note(path, hash_of(content))
        self.sizes[path] = len(content)

    def _put(self, path: bytes, content: bytes, mtime_ns: int | None = None) -> None:
        """There all at once, whatever was there before."""
        with open(self._making + b"/one", "wb") as file:
            file.write(content)
        if mtime_ns is not None:
            os.utime(self._making + b"/one", ns=(mtime_ns, mtime_ns))
        os.rename(self._making + b"/one", self.place(path))

    def _moved(self, old: bytes, new: bytes) -> None:
        """The books of a rename that is about to be done, of a file or of all that is in a folder."""
        for path in [path for path in self.sizes if path == old or path.startswith(old + b"/")]:
            there = new + path[len(old) :]
            self._has(there, self._content(path))
            del self.sizes[path]

    # Acts: files come

    def _make(self, chance: random.Random, size: int) -> None:
        """Written in place, in pieces, with pauses."""
        path = self._fresh(chance, self._any_folder(chance))
        self._has(path, b"")
        with open(self.place(path), "wb", buffering=0) as file:
            self._write(chance, file.fileno(), path, b"", size)

    def _write(self, chance: random.Random, descriptor: int, path: bytes, before: bytes, size: int) -> None:
        content, pieces = before, chance.choice((1, 1, 2, 4))
        for _ in range(pieces):
            piece = chance.randbytes(size // pieces)
            content += piece
            self._has(path, content)
            os.write(descriptor, piece)
            time.sleep(chance.choice((0, 0, 0.02, 0.1)))

    def _make_whole(self, chance: random.Random, size: int) -> None:
        path, content = self._fresh(chance, self._any_folder(chance)), chance.randbytes(size)
        self._has(path, content)
        self._put(path, content)

    def _make_many(self, chance: random.Random, _: int) -> None:
        folder = self._fresh(chance, self._any_folder(chance))
        os.mkdir(self.place(folder))
        self._folders.add(folder)
        for _number in range(chance.randrange(20, 150)):
            path, content = self._fresh(chance, folder), chance.randbytes(chance.randrange(3000))
            self._has(path, content)
            self._put(path, content)

    def _make_again(self, chance: random.Random, size: int) -> None:
        """The same bytes as another file's."""
        model = self._any_file(chance)
        if model is None:
            return self._make(chance, size)
        path, content = self._fresh(chance, self._any_folder(chance)), self._content(model)
        self._has(path, content)
        self._put(path, content)

    # Acts: files change

    def _grow(self, chance: random.Random, size: int) -> None:
        path = self._any_file(chance)
        if path is None:
            return self._make(chance, size)
        before = self._content(path)
        with open(self.place(path), "ab", buffering=0) as file:
            self._write(chance, file.fileno(), path, before, size // 4)

    def _edit(self, chance: random.Random, size: int) -> None:
        path = self._any_file(chance)
        if path is None or not self.sizes[path]:
            return self._make(chance, size)
        self._edit_in_place(chance, path, self._content(path))

    def _edit_in_place(self, chance: random.Random, path: bytes, content: bytes) -> None:
        start = chance.randrange(len(content))
        piece = chance.randbytes(min(len(content) - start, chance.randint(1, 100_000)))
        self._has(path, content[:start] + piece + content[start + len(piece) :])
        with open(self.place(path), "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), piece, start)

    def _truncate(self, chance: random.Random, size: int) -> None:
        path = self._any_file(chance)
        if path is None:
            return self._make(chance, size)
        length = chance.randint(0, self.sizes[path])
        self._has(path, self._content(path)[:length])
        os.truncate(self.place(path), length)

    def _replace(self, chance: random.Random, size: int) -> None:
        path, content = self._any_file(chance), chance.randbytes(size)
        if path is None:
            return self._make(chance, size)
        self._has(path, content)
        self._put(path, content)

    def _disguise(self, chance: random.Random, size: int) -> None:
        """Replaced by other bytes with the same size and time."""
        path = self._any_file(chance)
        if path is None:
            return self._make(chance, size)
        content = chance.randbytes(self.sizes[path])
        mtime_ns = os.stat(self.place(path)).st_mtime_ns
        self._has(path, content)
        self._put(path, content, mtime_ns)

    def _disguise_in_place(self, chance: random.Random, size: int) -> None:
        """Changed within, and the time set back."""
        path = self._any_file(chance)
        if path is None or not self.sizes[path]:
            return self._make(chance, size)
        mtime_ns = os.stat(self.place(path)).st_mtime_ns
        self._edit_in_place(chance, path, self._content(path))
        os.utime(self.place(path), ns=(mtime_ns, mtime_ns))

    def _touch(self, chance: random.Random, size: int) -> None:
        path = self._any_file(chance)
        if path is None:
            return self._make(chance, size)
        moment = chance.randrange(2_000_000_000_000_000_000)
        os.utime(self.place(path), ns=(moment, moment))

    def _chmod(self, chance: random.Random, size: int) -> None:
        path = self._any_file(chance)
        if path is None:
            return self._make(chance, size)
        os.chmod(self.place(path), chance.choice((0o600, 0o644, 0o755)))

    # Acts: files and folders move and go

    def _rename(self, chance: random.Random, size: int) -> None:
        old = self._any_file(chance)
        if old is None:
            return self._make(chance, size)
        new = self._fresh(chance, self._any_folder(chance))
        self._moved(old, new)
        os.rename(self.place(old), self.place(new))

    def _swap(self, chance: random.Random, size: int) -> None:
        one, other = self._any_file(chance), self._any_file(chance)
        if one is None or other is None or one == other:
            return self._make(chance, size)
        first, second = self._content(one), self._content(other)
        self._has(one, second)
        self._has(other, first)
        os.rename(self.place(one), self._making + b"/swap")
        os.rename(self.place(other), self.place(one))
        os.rename(self._making + b"/swap", self.place(other))

    def _delete(self, chance: random.Random, size: int) -> None:
        path = self._any_file(chance)
        if path is None:
            return self._make(chance, min(size, MIB))
        del self.sizes[path]
        os.unlink(self.place(path))

    def _movable(self, chance: random.Random) -> bytes | None:
        folders = sorted(self._folders.difference(ROOTS))
        return chance.choice(folders) if folders else None

    def _move_folder(self, chance: random.Random, size: int) -> None:
        """A whole folder gets another name, in its own root or the other."""
        old = self._movable(chance)
        if old is None:
            return self._make(chance, size)
        below = [folder for folder in self._folders if folder == old or folder.startswith(old + b"/")]
        homes = sorted(folder for folder in self._folders.difference(below) if folder.count(b"/") < 2)
        new = self._fresh(chance, chance.choice(homes))
        self._moved(old, new)
        self._folders.difference_update(below)
        self._folders.update(new + folder[len(old) :] for folder in below)
        os.rename(self.place(old), self.place(new))

    def _delete_folder(self, chance: random.Random, size: int) -> None:
        old = self._movable(chance)
        if old is None:
            return self._make(chance, size)
        self._folders = {folder for folder in self._folders if folder != old and not folder.startswith(old + b"/")}
        self.sizes = {path: size for path, size in self.sizes.items() if not path.startswith(old + b"/")}
        shutil.rmtree(self.place(old))

    def _become_folder(self, chance: random.Random, size: int) -> None:
        """A folder takes the place of a file."""
        path = self._any_file(chance)
        if path is None or path.count(b"/") >= _DEEPEST:
            return self._make(chance, size)
        del self.sizes[path]
        os.unlink(self.place(path))
        os.mkdir(self.place(path))
        self._folders.add(path)
        inside, content = self._fresh(chance, path), chance.randbytes(size)
        self._has(inside, content)
        self._put(inside, content)

    # Acts: what is deleted once it has arrived

    def _drop(self, chance: random.Random, size: int) -> None:
        self._drop_at(self._fresh(chance, DROP), chance.randbytes(size))

    def _drop_over(self, chance: random.Random, size: int) -> None:
        """Under a name that was used before, whether its file has gone already or not."""
        path = chance.choice(sorted(self.dropped)) if self.dropped else self._fresh(chance, DROP)
        self._drop_at(path, chance.randbytes(size))

    def _drop_at(self, path: bytes, content: bytes) -> None:
        self.ledger.note(path, hash_of(content))
        self.dropped[path] = hash_of(content)
        self._put(path, content)

    def _drop_grow(self, chance: random.Random, size: int) -> None:
        """Somebody writes to a file that may be about to be deleted."""
        path = chance.choice(sorted(self.dropped)) if self.dropped else None
        piece = chance.randbytes(min(size, MIB) + 1)
        try:
            descriptor = os.open(self.place(path), os.O_RDWR | os.O_APPEND) if path is not None else None
        except FileNotFoundError:
            return  # it has arrived, and is gone
        if path is None or descriptor is None:
            return self._drop(chance, size)
        with open(descriptor, "r+b", buffering=0) as file:
            content = file.read() + piece
            self.ledger.note(path, hash_of(content))
            self.dropped[path] = hash_of(content)
            os.write(descriptor, piece)
