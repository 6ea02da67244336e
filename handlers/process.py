"""A process by its id and its start: after it has ended, the system gives its id to another one."""

from pathlib import Path


def created(pid: int) -> int:
    """Return when a process was started, in clock ticks since the boot (proc(5), starttime).

    No change of the clock moves that, as it does what `psutil.Process.create_time` returns.

    Raises:
        OSError: there is no such process.
    """
    return int(_stat(pid)[19])


def runs(pid: int, started: int) -> bool:
    """Return whether the process of that id and start has not ended; a zombie has."""
    try:
        fields = _stat(pid)
    except OSError:
        return False
    return int(fields[19]) == started and fields[0] not in ("Z", "X")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat behind the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
