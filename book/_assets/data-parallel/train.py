"""Train with checkpoints in a folder: one rank of torchrun's job."""

import sys

import torch.distributed as dist

from fieldguide.deployment.data_parallel import train_job

dist.init_process_group("gloo")  # for processors
done, losses = train_job(sys.argv[1])
if dist.get_rank() == 0:
    last = "none was left"
    if len(losses):
        last = f"the last loss is {losses[-1]:.2f}"
    print(f"{done} steps were done before; {last}")
dist.destroy_process_group()
