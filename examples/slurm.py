"""Audit, segment, encode and train datasets with GPU workers that Slurm starts.

    pip install 'medfocusclip[dask]' dask-jobqueue
    python examples/slurm.py brain lung

Run it in the project folder, which the nodes share, on a machine that may submit jobs.
"""

import subprocess
import sys

from dask_jobqueue import SLURMCluster

if __name__ == "__main__":
    with SLURMCluster(
        queue="gpu",
        cores=1,  # one thread: a worker does one part at a time
        processes=1,
        memory="16GB",
        walltime="04:00:00",
        job_extra_directives=["--gres=gpu:1", "--cpus-per-task=8"],
        # A worker ends before Slurm ends its job, and not all at once.
        worker_extra_args=["--lifetime", "220m", "--lifetime-stagger", "10m"],
    ) as cluster:
        cluster.adapt(minimum_jobs=1, maximum_jobs=32)
        for dataset in sys.argv[1:]:
            for stage in ("audit", "segment", "encode", "train"):
                engine = ["--engine", "dask", "--scheduler", cluster.scheduler_address]
                subprocess.run(["pipeline", stage, "--dataset", dataset, *engine], check=True)
