"""Writes weights with PyTorch for Skipway, and reads what Skipway wrote. Judges nothing.

Usage: weights.py files FOLDER          state_dicts in every form, and files that mean harm
       weights.py read FILE             each tensor's type, shape and SHA-256, as JSON
Needs Debian's python3-torch and python3-torchvision.
"""

import collections
import hashlib
import io
import json
import os
import sys
import zipfile

import torch


class Command:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class OldParameter:
    """Pickled as PyTorch 0.3 did with a parameter."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return torch.nn.parameter.Parameter, (), (self.tensor, None, collections.OrderedDict(), True, False)


def some_tensors():
    base = torch.arange(24, dtype=torch.float32)
    state = collections.OrderedDict()
    state["plain"] = base.view(2, 3, 4)
    state["view"] = base.view(4, 6)[1:, 2:5]
    state["transposed"] = base.view(4, 6).t()
    state["scalar"] = torch.tensor(7)
    state["empty"] = torch.empty(0, 3)
    for name in ("double", "half", "bfloat16", "int32", "int16", "int8", "uint8"):
        state[name] = torch.arange(5).to(getattr(torch, name))
    state["parameter"] = torch.nn.Parameter(torch.ones(3))
    return state


def rezipped(source, target, change):
    """Copies a zip archive; change(name, bytes) gives the bytes of each entry, or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def write_files(folder):
    def path(name):
        return os.path.join(folder, name)

    state = some_tensors()
    torch.save(state, path("new.pth"))
    torch.save(state, path("old.pth"), _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "lr": 0.1, "state_dict": state}, path("wrapped.pth"))
    torch.save(torch.nn.BatchNorm2d(4).state_dict(), path("metadata.pth"))
    torch.save({"a": OldParameter(torch.arange(3.0))}, path("parameter.pth"), _use_new_zipfile_serialization=False)

    harm = {"a": torch.ones(2), "b": Command(f"touch {path('harmed')}")}
    torch.save(harm, path("system_new.pth"))
    torch.save(harm, path("system_old.pth"), _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), path("module.pth"))
    torch.save({"a": torch.ones(2, dtype=torch.complex64)}, path("complex.pth"))
    torch.save({"a": torch.zeros(1).expand(1000)}, path("expanded.pth"))
    for name in ("new", "old"):
        with open(path(name + ".pth"), "rb") as file:
            content = file.read()
        with open(path(f"half_{name}.pth"), "wb") as file:
            file.write(content[: len(content) // 2])

    torch.save({"a": torch.ones(4)}, path("four.pth"))
    rezipped(path("four.pth"), path("short.pth"), lambda name, b: b[:8] if name.endswith("data/0") else b)
    rezipped(path("four.pth"), path("missing.pth"), lambda name, b: None if name.endswith("data/0") else b)
    rezipped(path("four.pth"), path("nothing.pth"), lambda name, b: None if name.endswith("pkl") else b)
    # The storage says 4 elements, the tensor 1024 (K 4 -> M 0x400 in the shape).
    rezipped(
        path("four.pth"),
        path("larger.pth"),
        lambda name, b: b.replace(b"K\x04\x85", b"M\x00\x04\x85") if name.endswith("pkl") else b,
    )
    rezipped(path("four.pth"), path("big.pth"), lambda name, b: b)
    with zipfile.ZipFile(path("big.pth"), "a") as archive:
        archive.writestr("four/byteorder", "big")
    with zipfile.ZipFile(path("bomb.pth"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02}.")
        archive.writestr("bomb/data/0", bytes(50_000_000))


def describe(tensor):
    content = io.BytesIO()
    value = tensor.detach().contiguous()
    content.write(value.view(torch.uint8).numpy().tobytes() if value.dim() else value.numpy().tobytes())
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
    }


def read_file(path):
    return {name: describe(value) for name, value in torch.load(path, weights_only=True).items()}


if __name__ == "__main__":
    task, target = sys.argv[1:3]
    if task == "files":
        write_files(target)
    else:
        print(json.dumps(read_file(target)))
