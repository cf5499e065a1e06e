"""What `torchrun` starts twice for the tests: all that needs two processes, in one go."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import estimates_of_two
import interrupted_two
import loops_of_two
import sharded_of_two
import torch

import vfunc


def main(output: str, stream: str, *feedback: str) -> None:
    with vfunc.joined() as processes:
        found = {
            "estimates": estimates_of_two.differences(processes),
            "loops": loops_of_two.distances(processes, stream, feedback),
            "summed": loops_of_two.summed_numbers(processes),
            "interrupted": interrupted_two.stopped_and_resumed(processes, Path(output).parent),
            "different": told(processes),
            "sharded": sharded_of_two.trial(processes, Path(output).parent),
        }
        every = processes.every(found)
        if processes.first:
            Path(output).write_text(json.dumps(every), encoding="utf-8")


def told(processes: vfunc.Processes) -> str:
    """What is said of replicas that are not the same."""
    same = {"a": torch.ones(3), "b": torch.arange(2)}
    processes.require_same("what is the same", same)
    try:
        processes.require_same("the learner", same | {"a": torch.full((3,), processes.rank)})
    except vfunc.UserError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
