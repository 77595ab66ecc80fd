"""Command line of the training: renders, trains the stages, writes the weights; resumes where it stopped."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from server_stub.tiny import WEIGHTS_DIR
from server_stub.tiny.train import stages

STAGES = ("autoencoder", "towers", "eyes", "denoiser", "finish", "export")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m server_stub.tiny.train", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures and checkpoints (about 2 GB)")
    parser.add_argument("--out", type=Path, default=WEIGHTS_DIR, help="where the finished weights go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for all cores")
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--stage", choices=STAGES, action="append", help="only these stages, in order; default all")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every stage")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the denoiser: needs a C++ compiler, takes 0.6 of the time",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    run = stages.Run(args.work, args.out, args.seed, args.device, args.pictures, args.scale, args.compile)
    for stage in args.stage or STAGES:
        getattr(run, stage)()


if __name__ == "__main__":
    main()
