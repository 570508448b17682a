"""Several new processes that are the ranks of one job, and what becomes of them.

    launch(train_together, 2, text)     # by rank: what train_together(text) returned

In each of them `torch.distributed` is ready, over gloo. Where one dies, or the job has
no end, that is a `RankError`, and all others are stopped.
"""

import logging
import os
import pickle
import sys
import tempfile
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fieldguide.check import require

__all__ = ["RankError", "launch"]

logging.getLogger("torch.multiprocessing.spawn").setLevel("ERROR")  # we say it


class RankError(RuntimeError):
    """A rank that died or came to no end; `log` is all that it said."""

    def __init__(self, rank, why, folder):
        said = (folder / f"{rank}.{end}" for end in ("out", "err"))
        log = "".join(
            path.read_text(errors="replace") for path in said if path.exists()
        )
        self.rank, self.log = rank, log.strip()
        last = self.log.splitlines()[-1:] or ["(nothing)"]
        super().__init__(f"rank {rank} {why}. It said last: {last[0]}")


def launch(target, ranks: int, *arguments, limit_s: float = 400) -> list:
    """Call target(*arguments) in so many new processes; results by rank.

    target  a function that a module defines: a new process imports it by name.

    What the ranks print is printed here, by rank. Of ranks that have not ended after
    `limit_s` seconds the first is named, even if it only waits for another.
    """
    ours = target.__module__ != "__main__"
    require(ours, "target", target, "a function that a module defines")
    with tempfile.TemporaryDirectory() as name:
        folder, end = Path(name), time.monotonic() + limit_s
        task = pickle.dumps((target, arguments))  # copies, no shared memory
        given = folder, ranks, task, limit_s
        job = mp.start_processes(be_rank, given, ranks, join=False, daemon=True)
        try:
            while not job.join(max(end - time.monotonic(), 0)):
                if time.monotonic() > end:
                    late = [process.is_alive() for process in job.processes]
                    raise RankError(late.index(True), "had not ended in time", folder)
        except mp.ProcessExitedException as error:
            why = f"failed with exit code {error.exit_code}"
            if error.signal_name:
                why = f"was ended by {error.signal_name}"
            raise RankError(error.error_index, why, folder) from None
        finally:
            for process in job.processes:
                process.kill()
                process.join()
        for rank in range(ranks):
            for line in (folder / f"{rank}.out").read_text().splitlines():
                print(f"rank {rank}: {line}")
        paths = [folder / f"{rank}.result" for rank in range(ranks)]
        return [torch.load(path, weights_only=False) for path in paths]


def end_with_launcher():
    """Wait until the launcher is gone, whatever ended it; then go as well."""
    mp.parent_process().join()
    os._exit(1)


def be_rank(rank, folder, ranks, task, limit_s):
    """Join the other ranks, do the task, and store its result."""
    threading.Thread(target=end_with_launcher, daemon=True).start()
    for stream, end in (sys.stdout, "out"), (sys.stderr, "err"):
        said = os.open(folder / f"{rank}.{end}", os.O_CREAT | os.O_WRONLY)
        os.dup2(said, stream.fileno())
    try:
        torch.set_num_threads(1)
        target, arguments = pickle.loads(task)
        store = dist.FileStore(str(folder / "store"), ranks)  # where they meet
        options = {"store": store, "timeout": timedelta(seconds=limit_s)}
        dist.init_process_group("gloo", rank=rank, world_size=ranks, **options)
        torch.save(target(*arguments), folder / f"{rank}.result")
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        time.sleep(1)  # who fails because of another rank comes second
        sys.exit(1)
