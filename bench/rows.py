"""What the benchmark drivers share: set-up, one row in a process of its own, and the processor's name; and what a row in Python takes and prints."""

import json
import os
import pathlib
import resource
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/release"
VENV = ROOT / ".venv-bench"
# What ./skipway sets for the program.
ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
MODELS = ["resnet18", "resnet34", "resnet50"]


def build(*targets):
    """Skipway's rows."""
    subprocess.run([ROOT / "skipway", "setup"], check=True, stdout=sys.stderr)
    subprocess.run(["cmake", "--build", BUILD, "--target", *targets], check=True, stdout=sys.stderr)


def python_with(*packages):
    """An interpreter with PyTorch and what else is needed, installed once."""
    if not (VENV / "done").exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", VENV], check=True)
        pip_install("torch==2.11.0", "numpy")
        (VENV / "done").touch()
    if packages:
        pip_install(*packages)
    return VENV / "bin/python"


def pip_install(*packages):
    """Downloads lie on the disk of this folder: /tmp may be too small."""
    (ROOT / "build").mkdir(exist_ok=True)
    subprocess.run([VENV / "bin/pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr, env=os.environ | {"TMPDIR": str(ROOT / "build")})


def without_compiled(rows, python):
    """`rows` (name, …) that this machine can run: torch.compile builds against Python's headers."""
    script = "import os, sysconfig; print(os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h')))"
    if subprocess.run([python, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout.strip() == "True":
        return rows
    print("no rows of torch.compile: Python.h is missing; install python3-dev", file=sys.stderr)
    return [row for row in rows if "compiled" not in row[0]]


def output_of(command, no_tiles=False):
    """The JSON object that a row prints. no_tiles: as on a processor without AMX."""
    own = pathlib.Path(command[0]).is_relative_to(BUILD)
    if no_tiles and own:
        command = command + ["--instruction-set", "avx512_bf16"]
    environment = os.environ | (ENVIRONMENT if own else {}) | ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"} if no_tiles else {})
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def add_no_tiles(parser):
    parser.add_argument("--no-tiles", action="store_true", help="leave the tile registers of a processor with AMX alone, in Skipway and in oneDNN")


def processor():
    for line in open("/proc/cpuinfo", encoding="utf-8"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def add_row_arguments(parser):
    """What every row takes, as build/release/skipway_bench does."""
    parser.add_argument("--model", choices=MODELS, default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)


def print_row(times_s):
    print(json.dumps({"step_s": times_s, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
