"""Several new processes that are the ranks of one job, and what becomes of them.

    launch(train_together, 2, text)     # by rank: what train_together(text) returned

In each of them `torch.distributed` is ready, over gloo. Where one dies, or the job has
no end, that is a `RankError`, and all others are stopped.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from fieldguide.check import require

__all__ = ["RankError", "launch"]

RANK = "from fieldguide.ranks import be_rank; be_rank()"


class RankError(RuntimeError):
    """A rank that died or came to no end; `log` is all that it said."""

    def __init__(self, rank, code, log):
        why = f"failed with exit code {code}"
        if code is None:
            why = "had not ended in time"
        elif code < 0:
            why = f"was ended by {signal.Signals(-code).name}"
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
    door = socket.create_server(("127.0.0.1", 0))  # where they find each other
    port, options = door.getsockname()[1], {"is_master": True}
    options |= {"wait_for_workers": False, "master_listen_fd": door.detach()}
    store = dist.TCPStore("127.0.0.1", port, ranks, **options)
    with tempfile.TemporaryDirectory() as folder:
        task = pickle.dumps((target, arguments, limit_s))
        Path(folder, "task").write_bytes(task)
        started = []
        try:
            for rank in range(ranks):
                started.append(start_rank(rank, ranks, store.port, folder))
            wait_for_ranks(started, folder, limit_s)
        finally:
            for process in started:
                process.kill()
            for process in started:
                process.communicate()
        for rank in range(ranks):
            for line in Path(folder, f"{rank}.out").read_text().splitlines():
                print(f"rank {rank}: {line}")
        paths = [Path(folder, f"{rank}.result") for rank in range(ranks)]
        return [torch.load(path, weights_only=False) for path in paths]


def start_rank(rank, ranks, port, folder):
    """A process that calls `be_rank`; what it says is in the folder.

    Its input is a pipe that ends when this process does, however it ends.
    """
    told = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # it is open already
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    said = [Path(folder, f"{rank}.{end}") for end in ("out", "err")]
    with said[0].open("wb") as out, said[1].open("wb") as err:
        pipes = {"stdin": subprocess.PIPE, "stdout": out, "stderr": err}
        command = [sys.executable, "-c", RANK, folder]
        return subprocess.Popen(command, env=os.environ | told, **pipes)


def wait_for_ranks(started, folder, limit_s):
    """Come back when all ranks are done; RankError as soon as one dies."""
    end, codes = time.monotonic() + limit_s, [None]
    while None in codes:
        codes = [process.poll() for process in started]
        late = time.monotonic() > end
        for rank, code in enumerate(codes):
            if code or (code is None and late):
                said = (Path(folder, f"{rank}.{end}") for end in ("out", "err"))
                log = "".join(path.read_text(errors="replace") for path in said)
                raise RankError(rank, code, log)
        time.sleep(0.02)


def end_with_launcher():
    """Wait until the launcher is gone, whatever ended it; then go as well."""
    os.read(0, 1)  # the pipe's end
    os._exit(1)


def be_rank():
    """Join the other ranks, do the task, and store its result."""
    folder = Path(sys.argv[1])
    threading.Thread(target=end_with_launcher, daemon=True).start()
    try:
        torch.set_num_threads(1)
        target, arguments, limit_s = pickle.loads((folder / "task").read_bytes())
        dist.init_process_group("gloo", timeout=timedelta(seconds=limit_s))
        torch.save(target(*arguments), folder / f"{os.environ['RANK']}.result")
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        time.sleep(1)  # who fails because of another rank comes second
        os._exit(1)
