"""Peak memory of a fit or a prediction, each in a process of its own.

`peak_of` starts this file as a script with a job in a file; the script answers with one line of JSON. On the
CPU the peak is that of the resident set (Linux: reset before the work, where the kernel allows it), on a GPU
that of torch's allocator.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import joblib
import torch


def peak_of(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job in a fresh process.

    Parameters
    ----------
    job : dict
        "system" (one of speed_systems.FITS, with "work" and "warm-up"; or "predict", with "classifier" and
        "texts") and "device".

    Returns
    -------
    dict
        "peak" and "before", bytes of the process (on a GPU of the allocator); "growth", their difference;
        "output", bytes of a prediction.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.joblib"
        joblib.dump({**job, "threads": torch.get_num_threads()}, path)
        done = subprocess.run(
            [sys.executable, __file__, str(path)], stdout=subprocess.PIPE, text=True, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(path: str) -> None:
    """Run the job in this process and print its figures."""
    job = joblib.load(path)
    torch.set_num_threads(job["threads"])
    work = prepare(job)
    before = _reset_peak(job["device"])
    output = work()
    peak = _peak(job["device"])
    print(json.dumps({"peak": peak, "before": before, "growth": peak - before, "output": output}))


def prepare(job: dict[str, Any]) -> Any:
    """Make a function that does the work and returns the bytes of its output."""
    if job["system"] == "predict":
        classifier, texts = job["classifier"], job["texts"]
        classifier.predict_proba(texts[:64])
        return lambda: classifier.predict_proba(texts).nbytes
    from speed_systems import FITS

    fit, device = FITS[job["system"]], job["device"]
    fit(job["warm-up"], 0, device)

    def work() -> int:
        fit(job["work"], 0, device)
        return 0

    return work


def _reset_peak(device: str) -> int:
    """Start counting the peak afresh; returns what is in use now."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak(device)
    return _status("VmRSS")


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if os.path.exists("/proc/self/status"):
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


if __name__ == "__main__":
    main(sys.argv[1])
