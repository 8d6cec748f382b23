"""Ends the processes of its parent when the parent has ended, by return, panic, Ctrl-C or kill -9.

    python3 reaper.py SECONDS          (orders on standard input, one JSON object per line)

    {"process": pid, "signal": n}      the leader of a process group, and the signal that ends it
    {"forget": pid}                    this process has ended
    {"directory": path}                remove this directory at the end
    {"keep": path}                     keep this directory

The end of standard input is the only trigger: the kernel closes the parent's end of the pipe, however the parent ends.
Every process gets its signal immediately, and SIGKILL if it still runs after SECONDS. Then the directories are removed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time


def main():
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)
    processes, directories = follow(sys.stdin.buffer)
    end(processes, float(sys.argv[1]))
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def follow(orders):
    processes, directories = {}, set()
    for line in orders:
        try:
            order = json.loads(line)
        except ValueError:  # the parent ended while it wrote this line
            continue
        if "process" in order:
            processes[order["process"]] = order["signal"]
        elif "forget" in order:
            processes.pop(order["forget"], None)
        elif "directory" in order:
            directories.add(order["directory"])
        elif "keep" in order:
            directories.discard(order["keep"])
    return processes, directories


def end(processes, seconds):
    if not processes:
        return
    deadline = time.monotonic() + seconds
    # Each PostgreSQL backend leads its own process group, so signals go to each process.
    members = family(processes)
    for leader, number in processes.items():
        send(leader, number)
    for member in members:
        send(member, signal.SIGCONT)  # a stopped process does not handle its signal
    while living := (members & alive()) | family(processes):
        if time.monotonic() > deadline:
            for member in living:
                send(member, signal.SIGKILL)
            return
        time.sleep(0.01)


def send(pid, number):
    with contextlib.suppress(OSError):  # it has ended already
        os.kill(pid, number)


def family(leaders):
    """The leaders, the members of their groups and all their descendants that are alive."""
    members, table = set(), process_table()
    while True:
        more = {
            pid
            for pid, parent, group, state in table
            if state != "Z" and pid not in members and (pid in leaders or group in leaders or parent in members)
        }
        if not more:
            return members
        members |= more


def alive():
    return {pid for pid, _, _, state in process_table() if state != "Z"}


def process_table():
    """(pid, parent, group, state) of every process. Some systems have no `ps`, and only Linux has /proc."""
    if not os.path.exists("/proc/self/stat"):
        rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True).stdout
        return [(int(a), int(b), int(c), d[0]) for a, b, c, d in (row.split()[:4] for row in rows.splitlines())]
    table = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as f:
                state, parent, group = f.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        table.append((int(pid), int(parent), int(group), state))
    return table


if __name__ == "__main__":
    main()
