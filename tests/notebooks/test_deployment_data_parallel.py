"""The parts: memory, the ring, ranks that train together, and jobs that go on."""

import copy
import functools
import re
import subprocess
import sys

import cells
import pytest
import threads
import torch
import yaml

from fieldguide import data
from fieldguide.deployment import data_parallel
from fieldguide.transformers.training import train

ASSETS = data.files.ASSETS / "data-parallel"
together = functools.partial(threads.together, data_parallel)


def start():
    model, ids = data_parallel.small_start()
    made = torch.optim.AdamW(model.parameters(), **data_parallel.ADAMW)
    return model, ids, made, cells.generator(1)


@functools.cache
def losses_alone():
    model, ids, made, draws = start()
    recipe = data_parallel.Recipe(20, **data_parallel.RECIPE)
    return train(model, ids, recipe, generator=draws, made=[made])


def test_memory_is_that_of_the_paper():
    sizes = {"plain": 120, "sharded states": 31.4}
    sizes |= {"sharded gradients": 16.6, "sharded weights": 1.9}
    assert [*data_parallel.SPREAD] == [*sizes]
    for way, gb in sizes.items():
        kept = data_parallel.device_bytes(7.5e9, 64, way)
        assert round(sum(kept.values()) / 1e9, 1) == gb
    kept = data_parallel.device_bytes(10, 2, "sharded states")
    assert kept == {"weights": 20, "gradients": 20, "states": 60}


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_the_ring_adds_up(ranks):
    held = cells.random(ranks, ranks, 3)
    before = held.clone()
    steps = [held, *data_parallel.ring_steps(held)]
    assert len(steps) == 1 + 2 * (ranks - 1)
    cells.close(steps[-1], before.sum(0).expand_as(held))
    assert (held == before).all()
    for rank in range(ranks if ranks > 1 else 0):
        to = (rank + 1) % ranks  # it sends the chunk of its own number first
        cells.close(steps[1][to, rank], held[to, rank] + held[rank, rank])


# Ranks that train, between threads


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_train_as_one_process_does(ranks):
    def run():
        return data_parallel.train_in_ranks(*start(), steps=5)

    for losses in together(ranks, run):
        cells.close(losses, losses_alone()[:5], 1e-4)


def test_each_way_trains_the_same_and_keeps_its_part():
    def sharded(model):  # the page's needs real processes
        return data_parallel.ShardedAdamW(model.parameters(), **data_parallel.ADAMW)

    found = together(2, data_parallel.train_ways, sharded_weights=sharded)
    size = {"plain": (4, 4, 8), "sharded gradients": (4, 2, 4)}
    P = sum(p.numel() for p in start()[0].parameters())
    for rank in found:
        for way, parts in size.items():
            kept = rank[way]
            cells.close(kept["losses"], losses_alone(), 1e-3)
            names = "weights", "gradients", "states"
            assert tuple(round(kept[n] / P, 2) for n in names) == parts


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

    start = torch.nn.Linear(2, 3)

    def run():
        linear, plain = copy.deepcopy(start), copy.deepcopy(start)
        options = data_parallel.ADAMW
        optimizer = data_parallel.ShardedAdamW(linear.parameters(), **options)
        other = torch.optim.AdamW(plain.parameters(), **options)
        pairs = list(zip(linear.parameters(), plain.parameters(), strict=True))
        for step in range(4):
            for p, q in pairs:
                q.grad = cells.random(*p.shape, seed=step).float()
                p.grad = q.grad + (data_parallel.dist.get_rank() - 2.0)
            for each in optimizer, other:
                each.param_groups[0]["lr"] = 0.1 / (step + 1)
                each.step()
        assert optimizer.own.numel() == 2 and linear.weight.grad is None
        kept = data_parallel.rank_bytes(linear, optimizer)
        assert kept == {"weights": 36, "gradients": 8, "states": 16}
        return linear, plain

    for linear, plain in together(5, run):
        for p, q in zip(linear.parameters(), plain.parameters(), strict=True):
            cells.close(p, q, 1e-5)


# Jobs that go on


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_at_the_last_complete_checkpoint(tmp_path):
    def job(steps):
        return together(
            1, lambda: data_parallel.train_job(str(tmp_path), 2, steps=steps)
        )[0]

    done, first = job(3)
    assert done == 0
    cells.close(first, losses_alone()[:3], 1e-4)
    (tmp_path / "step-3").mkdir()  # is not complete
    done, rest = job(4)
    assert done == 2
    cells.close(rest, losses_alone()[2:4], 1e-4)


def test_the_files_for_a_cluster(tmp_path):
    for name in "two-nodes.sh", "train.slurm":
        subprocess.run(["bash", "-n", ASSETS / name], check=True)
    job = yaml.safe_load((ASSETS / "train.yaml").read_text(encoding="utf-8"))
    assert job["spec"]["trainer"]["numNodes"] == 2
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", str(ASSETS / "train.py"), str(tmp_path)]
    said = []
    for _ in range(2):  # the second start finds the job finished
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    found = re.search("0 steps .* last loss is ([0-9.]+)", said[0])
    assert abs(float(found[1]) - losses_alone()[-1]) < 0.05
    assert "20 steps were done before; none was left" in said[1]
