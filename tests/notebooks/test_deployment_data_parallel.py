"""The parts: memory, the ring, ranks that train together, and their launcher."""

import contextlib
import functools
import io
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import cells
import pytest
import threads
import torch
import torch.distributed as dist
import yaml
from torch.distributed.fsdp import FSDPModule

from fieldguide import data
from fieldguide.deployment import data_parallel
from fieldguide.transformers.training import train

ASSETS = data.files.ASSETS / "data-parallel"
together = functools.partial(threads.together, data_parallel)


# Memory and parts


def test_memory_is_that_of_the_paper():
    sizes = {"plain": 120, "sharded states": 31.4}
    sizes |= {"sharded gradients": 16.6, "sharded weights": 1.9}
    assert [*data_parallel.SPREAD] == [*sizes]
    for way, gb in sizes.items():
        kept = data_parallel.device_bytes(7.5e9, 64, way)
        assert [*kept] == ["weights", "gradients", "states"]
        assert round(sum(kept.values()) / 1e9, 1) == gb
    kept = data_parallel.device_bytes(10, 2, "sharded states")
    assert kept == {"weights": 20, "gradients": 20, "states": 60}


def test_parts_make_up_the_batch():
    for batch, ranks in (12, 4), (3, 1), (5, 5):
        parts = [data_parallel.part_of_batch(batch, r, ranks) for r in range(ranks)]
        found = [i for part in parts for i in range(batch)[part]]
        assert found == [*range(batch)]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_the_ring_adds_up(ranks):
    held = cells.random(ranks, ranks, 3)
    before = held.clone()
    steps = [held, *data_parallel.ring_steps(held)]
    assert len(steps) == 1 + 2 * (ranks - 1)
    cells.close(steps[-1], before.sum(0).expand_as(held))
    assert (held == before).all()
    for old, new in itertools.pairwise(steps):
        changed = (old != new).any(-1)
        assert (changed.sum(1) == 1).all(), "each rank receives one chunk"
    for rank in range(ranks if ranks > 1 else 0):
        to = (rank + 1) % ranks  # it sends the chunk of its own number first
        cells.close(steps[1][to, rank], held[to, rank] + held[rank, rank])


# Ranks that train, between threads


def test_a_loss_takes_its_part_of_a_whole_batch():
    ids, V = data_parallel.some_ids()
    model = data_parallel.fresh_gpt(V)

    def run():
        return data_parallel.loss_of_part(model, ids, cells.generator())().item()

    parts, whole = together(2, run), together(1, run)
    assert parts[0] != parts[1] and len(parts) == 2
    cells.close(sum(parts) / 2, whole[0], 1e-5)


def losses_alone():
    ids, V = data_parallel.some_ids()
    model = data_parallel.fresh_gpt(V)
    made = [data_parallel.plain_adamw(model.parameters())]
    draws = cells.generator(1)
    recipe = data_parallel.small_recipe()
    return train(model, ids, recipe, generator=draws, made=made)


def short(steps):
    """The page's recipe with fewer steps."""
    return data_parallel.RECIPE | {"steps": steps}


def with_recipe(recipe, call):
    with mock.patch.object(data_parallel, "RECIPE", recipe):
        return call()


def test_ranks_train_as_one_process_does():
    ways = {"plain": data_parallel.kept_by_all}
    ways["sharded gradients"] = data_parallel.sharded_gradients
    assert [*data_parallel.WAYS] == [*ways, "sharded weights"]
    with mock.patch.object(data_parallel, "WAYS", ways):
        found, alone = with_recipe(
            short(5), lambda: (together(2, data_parallel.train_ways), losses_alone())
        )
    plain = with_recipe(short(5), lambda: together(4, data_parallel.train_plain))
    for losses in plain:
        cells.close(losses, alone, 1e-4)
    size = {"plain": (4, 4, 8), "sharded gradients": (4, 2, 4)}
    _, V = data_parallel.some_ids()
    P = sum(p.numel() for p in data_parallel.fresh_gpt(V).parameters())
    for rank in found:
        assert [*rank] == [*size]
        for way, kept in rank.items():
            cells.close(kept["losses"], alone, 1e-4)
            names = "weights", "gradients", "states"
            assert tuple(round(kept[n] / P, 2) for n in names) == size[way]


def test_the_mean_gradient_and_its_clip():
    def run():
        rank = data_parallel.dist.get_rank()
        p, q = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 3))
        p.grad, q.grad = torch.full((2,), 3.0 + rank), torch.full((3,), 6.0 * rank)
        length = data_parallel.average_gradients([p, q], 1.0)
        return length, p.grad, q.grad

    for length, p, q in together(3, run):
        right = torch.tensor([4.0] * 2 + [6.0] * 3)
        cells.close(length, right.norm(), 1e-5)
        cells.close(torch.cat([p, q]), right / right.norm(), 1e-5)


def test_a_shard_of_adam_is_adam():
    """With nine parameters, which five ranks cannot share equally."""

    def run():
        linear = torch.nn.Linear(2, 3, bias=True)
        with torch.no_grad():
            for p in linear.parameters():
                p.fill_(0.5)
        optimizer = data_parallel.ShardedAdamW(linear.parameters(), 0.1)
        plain = torch.nn.Linear(2, 3)
        plain.load_state_dict(linear.state_dict())
        other = data_parallel.plain_adamw(plain.parameters(), 0.1)
        for step in range(4):
            for g in optimizer.param_groups + other.param_groups:
                g["lr"] = 0.1 / (step + 1)
            for place, p in enumerate(linear.parameters()):
                mean = torch.arange(p.numel()).view_as(p) - 2.0 + step + place
                p.grad = mean + (data_parallel.dist.get_rank() - 2.0)
                [*plain.parameters()][place].grad = mean
            optimizer.step()
            other.step()
            assert all(p.grad is None for p in linear.parameters())
            means = torch.cat([q.grad.flatten() for q in plain.parameters()])
            first = 2 * data_parallel.dist.get_rank()
            right = means[first : first + 2]  # one is left for the last rank
            cells.close(optimizer.own.grad[: len(right)], right, 1e-6)
        return linear, plain, optimizer

    for linear, plain, optimizer in together(5, run):
        for p, q in zip(linear.parameters(), plain.parameters(), strict=True):
            cells.close(p, q, 1e-5)
        assert optimizer.own.numel() == 2  # 9 in five shards
        kept = data_parallel.rank_bytes(linear, optimizer)
        assert kept == {"weights": 36, "gradients": 8, "states": 16}


def test_weights_are_shared_out_for_all_blocks():
    """In a group of one, whose part is everything."""
    hook = sys.excepthook
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ids, V = data_parallel.some_ids()
        model = data_parallel.fresh_gpt(V)
        before = [p.detach().clone() for p in model.parameters()]
        made, clip = data_parallel.sharded_weights(model)
        assert isinstance(made, torch.optim.AdamW)
        for p, q in zip(model.parameters(), before, strict=True):
            cells.close(p.full_tensor(), q)
            assert p.device_mesh.size() == 1 and p.device_mesh.device_type == "cpu"
        assert all(isinstance(part, FSDPModule) for part in (*model.blocks, model))
        losses = data_parallel.train_in_ranks(model, ids, made, clip)
        cells.close(losses, losses_alone(), 1e-4)
        whole = 4 * sum(q.numel() for q in before)
        kept = data_parallel.rank_bytes(model, made)
        assert kept == {"weights": whole, "gradients": whole, "states": 2 * whole}
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook  # torch has put its own in front


def test_one_weight_of_the_example():
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert together(2, data_parallel.one_weight) == [5.0, 5.0]
    lines = "x = [1.0, 2.0], gradient -1.0", "x = [3.0, 4.0], gradient 11.0"
    assert sorted(said.getvalue().splitlines()) == sorted(lines)
    assert together(4, data_parallel.one_weight) == [5] * 4


# Checkpoints, in this process


def test_the_last_complete_checkpoint_counts():
    with tempfile.TemporaryDirectory() as folder:
        assert data_parallel.last_checkpoint(folder) == 0
        for step, whole in (5, True), (10, True), (15, False):
            place = Path(folder, f"step-{step}")
            place.mkdir()
            if whole:
                (place / ".metadata").touch()
        assert data_parallel.last_checkpoint(folder) == 10


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_where_it_was():
    def job(folder, steps, every=2):
        call = lambda: data_parallel.train_job(folder, every)  # noqa: E731
        return with_recipe(short(steps), lambda: together(1, call)[0])

    folders = tempfile.TemporaryDirectory(), tempfile.TemporaryDirectory()
    with folders[0] as one, folders[1] as two, mock.patch.object(os, "kill") as kill:
        done, whole = job(one, 4)
        assert done == 0 and len(whole) == 4
        done, first = job(two, 3)
        cells.close(first, whole[:3], 1e-6)
        done, rest = job(two, 4)
        assert done == 2 and len(rest) == 2
        cells.close(rest, whole[2:], 1e-6)
    assert not kill.called


# The launcher, with quick commands


def watched(codes, limit_s=20):
    """Run one command a rank; what `wait_for_ranks` says, and the processes."""
    body = f"import os, sys, time; r = int(os.environ['RANK']); {codes}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", body]
        with data_parallel.running(command, 2, 1234, folder) as started:
            assert len(started) == 2
            try:
                data_parallel.wait_for_ranks(started, folder, limit_s)
                error = None
            except data_parallel.RankError as found:
                error = found
            said = [data_parallel.log_of_rank(folder, rank) for rank in range(2)]
    ended = {process.poll() for process in started}
    assert ended <= {0, 7, -signal.SIGKILL}, "one is left, or ended by itself"
    assert error is None or -signal.SIGKILL in ended, "one was not stopped"
    return error, said


def test_a_rank_that_dies_is_named():
    """The other one waits for ever: until it is killed, or its launcher is gone."""
    error, _ = watched(
        "print('here', r, flush=True); r or sys.stdin.read(); sys.exit(7)"
    )
    assert error.rank == 1 and error.log == "here 1"
    assert str(error) == "rank 1 failed with exit code 7. It said last: here 1"
    error, _ = watched("r and sys.stdin.read(); os.kill(os.getpid(), 9)")
    assert error.rank == 0
    assert str(error) == "rank 0 was ended by SIGKILL. It said last: (nothing)"
    error, _ = watched("r and sys.stdin.read()", limit_s=0.5)
    assert error.rank == 1 and "rank 1 had not ended after 0.5 s" in str(error)


def test_what_ranks_return_and_print_comes_back():
    code = "import os, pathlib, pickle, shutil, sys; r = os.environ['RANK']; "
    code += "folder = pathlib.Path(sys.argv[1]); print('rank', r); "
    code += "print(*pickle.loads((folder / 'task').read_bytes())); "
    with tempfile.TemporaryDirectory() as folder:
        place, said = Path(folder, "result"), io.StringIO()
        torch.save({"found": 3}, place)
        code += f"shutil.copy({str(place)!r}, folder / f'{{r}}.result')"
        with (
            mock.patch.object(data_parallel, "RANK", code),
            contextlib.redirect_stdout(said),
        ):
            job = data_parallel.train_job
            found = data_parallel.launch(job, 2, "here", 3, limit_s=50)
    assert found == [{"found": 3}] * 2
    task = f"{data_parallel.__name__} train_job ('here', 3) 50"
    lines = [f"rank {r}: {line}" for r in (0, 1) for line in (f"rank {r}", task)]
    assert said.getvalue().splitlines() == lines


# The launcher, with real ranks: three launches


def children():
    """Processes that this one has started and that are alive."""
    task = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return task.read_text().split() if task.exists() else []


def test_a_killed_job_goes_on():
    """A rank is killed: named, none is left; the rest is as if nothing had happened."""
    before = children()
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(data_parallel.RankError) as error:
            data_parallel.launch(data_parallel.train_job, 2, folder, 5, 8)
        assert error.value.rank == 1 and "ended by SIGKILL" in str(error.value)
        assert error.value.log.endswith("step 8")
        assert set(children()) <= set(before)
        found = data_parallel.launch(data_parallel.train_job, 2, folder, 5)
    alone = losses_alone()
    for done, losses in found:
        assert done == 5
        cells.close(losses, alone[5:], 1e-3)


def test_the_file_for_a_cluster_runs():
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node=2", str(ASSETS / "train.py"), folder]
        said = []
        for _ in range(2):  # the second start finds the job finished
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
            assert data_parallel.last_checkpoint(folder) == 20
        found = re.search("0 steps .* last loss is ([0-9.]+)", said[0])
        assert abs(float(found[1]) - losses_alone()[-1]) < 0.05
        assert "20 steps were done before; none was left" in said[1]


def test_files_for_clusters_can_be_parsed():
    for name in "two-nodes.sh", "train.slurm":
        subprocess.run(["bash", "-n", ASSETS / name], check=True)
    job = yaml.safe_load((ASSETS / "train.yaml").read_text(encoding="utf-8"))
    assert job["spec"]["trainer"]["numNodes"] == 2


def test_a_taken_port_is_said_by_launch():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            data_parallel.launch(data_parallel.one_weight, 2, port=port)
