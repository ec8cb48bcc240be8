"""Writes weights with PyTorch for Skipway, and reads what Skipway wrote. Judges nothing.

Usage: weights.py files FOLDER          state_dicts in every form, and files that mean harm
       weights.py read FILE             each tensor's type, shape and SHA-256, as JSON
       weights.py model NAME FOLDER     NAME.pth with random weights and statistics, NNN.png of real images, and the
                                        model's logits for them, as JSON
       weights.py compare NAME FILE...  NAME takes each file, strictly, and has then the first one's values
NAME is torchvision's, or timm's after "timm:". Needs Debian's python3-torch, python3-torchvision and
dataset-fashion-mnist.
"""

import collections
import gzip
import hashlib
import io
import json
import os
import sys
import zipfile

import numpy as np
import torch
from PIL import Image


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
    state["bool"] = torch.tensor([True, False])
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
    others = {"epoch": 3, "lr": 0.1, "size": torch.Size([2, 3]), "type": torch.float16, "device": torch.device("cpu")}
    optimizer = torch.optim.SGD([state["parameter"]], lr=0.1)
    others["scheduler"] = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]).state_dict()  # has a Counter
    torch.save({**others, "state_dict": state}, path("wrapped.pth"))
    torch.save(torch.nn.BatchNorm2d(4).state_dict(), path("metadata.pth"))
    torch.save(state, path("müll.pth"))
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
    torch.save({"a": torch.ones(2, dtype=torch.bool)}, path("bool.pth"))
    rezipped(path("bool.pth"), path("two.pth"), lambda name, b: b"\2\2" if name.endswith("data/0") else b)
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


def pictures(count, size):
    """Photos of clothes from Debian's dataset-fashion-mnist in false colours; enlarged to size x size."""
    with gzip.open("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz") as file:
        grey = np.frombuffer(file.read(16 + 784 * count), np.uint8, offset=16).reshape(count, 28, 28)
    colours = np.stack([grey, 255 - grey, grey // 2 + 60], axis=3)
    return [Image.fromarray(colour).resize((size, size), Image.BICUBIC) for colour in colours]


def make_model(name, classes=1000):
    if name.startswith("timm:"):
        import timm

        return timm.create_model(name.removeprefix("timm:"), num_classes=classes)
    import torchvision

    return getattr(torchvision.models, name)(num_classes=classes)


def write_model(name, folder):
    torch.manual_seed(3)
    model = make_model(name).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.num_batches_tracked.fill_(7)
        images = pictures(4, 224)
        for number, image in enumerate(images):
            image.save(os.path.join(folder, f"{number:03}.png"))
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        values = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
        batch = (values.float() / 255 - mean) / std
        model.fc.weight.div_(model(batch).std())  # logits of the size of one
        logits = model(batch)
    torch.save(model.state_dict(), os.path.join(folder, name.removeprefix("timm:") + ".pth"))
    bare = {"module." + key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    torch.save({"epoch": 9, "state_dict": bare}, os.path.join(folder, "parallel.pth"))
    compiled = {"_orig_mod." + key: value for key, value in bare.items()}
    torch.save({"state_dict": {"model." + key: value for key, value in compiled.items()}}, os.path.join(folder, "compiled.pth"))
    return logits.double().tolist()


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    types = {"F32": torch.float32, "I64": torch.int64}
    state = collections.OrderedDict()
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        content = torch.frombuffer(bytearray(data[begin + first : begin + last]), dtype=types[entry["dtype"]])
        state[name] = content.view(entry["shape"])
    return state


def load_strictly(name, path):
    state = read_safetensors(path) if path.endswith(".safetensors") else torch.load(path, weights_only=True)
    model = make_model(name, state["fc.weight"].shape[0])
    model.load_state_dict(state, strict=True)
    return model.state_dict()


def compare(name, paths):
    """Names of tensors that differ from the first file's, by file."""
    first, *others = [load_strictly(name, path) for path in paths]
    return [[key for key in first if not torch.equal(first[key], other[key])] for other in others]


if __name__ == "__main__":
    task, target, *more = sys.argv[1:]
    if task == "files":
        write_files(target)
    elif task == "model":
        print(json.dumps(write_model(target, *more)))
    elif task == "compare":
        print(json.dumps(compare(target, more)))
    else:
        print(json.dumps(read_file(target)))
