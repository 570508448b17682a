"""Threads of this process that stand for the ranks of torch.distributed.

They are quick to start, and what damages a cell reaches them. Where all that have not
ended wait for each other, a rank would hang: here it is an error at once.
"""

import threading
from collections import defaultdict, deque
from unittest import mock

import torch


class Stuck(Exception):
    """Nobody is left who could send what this rank waits for."""


class Ranks:
    """As much of torch.distributed as the book uses, between so many threads."""

    def __init__(self, count):
        self.count, self.own = count, threading.local()
        self.changed, self.ended = threading.Condition(), 0
        self.waiting = {}  # by rank: has what it waits for come?
        self.given = [[] for _ in range(count)]  # by rank: all it gave to everybody
        self.posts = defaultdict(deque)  # from one rank to another

    def get_rank(self):
        return self.own.rank

    def get_world_size(self):
        return self.count

    def wait(self, ready):
        with self.changed:
            self.waiting[self.own.rank] = ready
            self.changed.notify_all()
            try:
                while not ready():
                    idle = not any(come() for come in self.waiting.values())
                    if idle and len(self.waiting) + self.ended == self.count:
                        raise Stuck(f"rank {self.own.rank}")
                    self.changed.wait()
            finally:
                del self.waiting[self.own.rank]

    def end(self):
        with self.changed:
            self.ended += 1
            self.changed.notify_all()

    def all_given(self, x):
        """What each rank gives, by rank."""
        mine = self.given[self.own.rank]
        turn = len(mine)
        mine.append(x)
        self.wait(lambda: all(len(gifts) > turn for gifts in self.given))
        return [gifts[turn] for gifts in self.given]

    def all_reduce(self, x):
        x.copy_(sum(self.all_given(x.clone())))

    def reduce_scatter(self, own, chunks):
        parts = [given[self.own.rank] for given in self.all_given(chunks)]
        own.data.copy_(sum(parts))

    def all_gather(self, chunks, own):
        for chunk, mine in zip(chunks, self.all_given(own), strict=True):
            chunk.copy_(mine)

    def all_to_all_single(self, into, rows, back, out):
        assert sum(out) == len(rows) and sum(back) == len(into)
        mine = [parts[self.own.rank] for parts in self.all_given(rows.split(out))]
        assert [len(part) for part in mine] == list(back)
        into.copy_(torch.cat(mine))

    def send(self, x, to):
        assert to in range(self.count)
        with self.changed:
            self.posts[self.own.rank, to].append(x.clone())
            self.changed.notify_all()

    def recv(self, x, source):
        post = self.posts[source, self.own.rank]
        self.wait(lambda: len(post) > 0)
        x.copy_(post.popleft())


def together(module, count, call, **others):
    """What `call()` returns in each of so many ranks; rank 0 is this thread.

    Meanwhile the threads stand for the module's `dist`, and `others` for what it
    calls so.
    """
    ranks, found, errors = Ranks(count), [None] * count, []

    def work(rank):
        ranks.own.rank = rank
        try:
            found[rank] = call()
        except Exception as error:
            errors.append(error)
        finally:
            ranks.end()

    threads = [
        threading.Thread(target=work, args=[rank], daemon=True)
        for rank in range(1, count)
    ]
    with mock.patch.multiple(module, dist=ranks, **others):
        for thread in threads:
            thread.start()
        work(0)
        for thread in threads:
            thread.join(60)
    for error in sorted(errors, key=lambda error: isinstance(error, Stuck)):
        raise error
    assert not any(ranks.posts.values()), "a message that nobody reads"
    return found
