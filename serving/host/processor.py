"""The processor time of processes."""

import contextlib

import psutil


def seconds(pid: int) -> float:
    """Return the seconds of processor time of a process and its children, 0 if it has ended."""
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except (psutil.Error, ValueError):  # TorchServe says -1 for a worker without a process
        return 0.0
    total = 0.0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # its own, and that of the children that it has reaped
    return total
