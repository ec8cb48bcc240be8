"""What the scripts that train many times share."""
import fcntl
import json
import math
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = os.environ.get("SKIPWAY", str(ROOT / "skipway"))
# What ./skipway sets; SKIPWAY may name a program without it.
ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | os.environ


def output_of(command):
    """What the program prints. Ctrl-C reaches it as well, and it is given the time to save its state."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as program:
        try:
            output, _ = program.communicate()
        except KeyboardInterrupt:
            program.wait()
            raise
    if program.returncode != 0:
        raise subprocess.CalledProcessError(program.returncode, command)
    return output


def remove_unless_in_use(run):
    """A run that has no state to go on from. The program holds a lock on a run's log.txt while it trains."""
    if not run.exists():
        return
    if not (run / "log.txt").exists():
        sys.exit(f"{run} is no run; move it away")
    with open(run / "log.txt", "a") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{run} is in use by another process")
        shutil.rmtree(run)


def train(result, seed, arguments):
    """The JSON object of `skipway train ARGUMENTS --seed SEED`, which stays in `result`, beside the run's folder. What is there is not run
    again; a run that was stopped goes on; neither with other arguments than it was made with."""
    made_with, in_words = result.with_suffix(".arguments"), shlex.join(arguments)
    if made_with.exists() and made_with.read_text() != in_words:
        sys.exit(f"{result} was made with other arguments ({made_with}: {made_with.read_text()}); take another folder")
    if not result.exists():
        run = result.with_suffix("")
        run.parent.mkdir(parents=True, exist_ok=True)
        made_with.write_text(in_words)
        if any((run / f"{name}.safetensors").exists() for name in ("model", "last", "previous", "next")):
            command = ["resume", str(run)]
        else:
            remove_unless_in_use(run)  # stopped before there was a state to go on from
            command = ["train", *arguments, "--seed", str(seed), "--run-dir", str(run)]
        part = result.with_suffix(".part")
        part.write_text(output_of([PROGRAM, *command, "--json", "--quiet"]))
        part.rename(result)
    return json.loads(result.read_text())


def percent(accuracy):
    """Not a number where none was measured, as with TTA in a run without it."""
    return math.nan if accuracy is None else 100 * accuracy


def mean_and_error(values):
    """The mean, and its standard error; that of a single value, and both where a value is not known, are not a number."""
    if any(map(math.isnan, values)):
        return math.nan, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.mean(values), error
