"""What PyTorch reaches in the same minutes: ResNet-18 for CIFAR on the same images, one cycle of the rate that ends with the clock.

Usage: train_minutes.py FOLDER-OR-TAR.GZ [--minutes 15] [--precision bf16] [--threads 2] [--lr 0.15] [--batch 128] [--seed 0]

The data are class folders of JPEG, as Skipway takes them: train/<class>/*.jpg and test/<class>/*.jpg. Images are decoded before the clock
starts, so PyTorch's minutes are training and evaluation alone. Needs torch and pillow. Prints one JSON object.
"""

import argparse
import io
import json
import pathlib
import tarfile
import time

import torch
from PIL import Image
from torch.nn import functional as F

from train_step import resnet


def files(path):
    """Pairs of a file's path as parts and its bytes, sorted."""
    if path.is_dir():
        return [(p.parts, p.read_bytes()) for p in sorted(path.rglob("*.jpg"))]
    with tarfile.open(path) as archive:
        members = sorted((m for m in archive if m.isfile() and m.name.endswith(".jpg")), key=lambda m: m.name)
        return [(pathlib.Path(m.name).parts, archive.extractfile(m).read()) for m in members]


def load(path):
    """Part -> (uint8 [n,3,32,32], int64 [n])."""
    images, labels = {"train": [], "test": []}, {"train": [], "test": []}
    classes = {}
    for parts, content in files(path):
        part, name = parts[-3], parts[-2]
        pixels = torch.frombuffer(bytearray(Image.open(io.BytesIO(content)).convert("RGB").tobytes()), dtype=torch.uint8)
        images[part].append(pixels.view(32, 32, 3).permute(2, 0, 1))
        labels[part].append(classes.setdefault(name, len(classes)))
    return {part: (torch.stack(images[part]), torch.tensor(labels[part])) for part in images}


def load_normalised(path):
    """(fp32 [n,3,32,32], int64 [n]) of the training and of the test images, by the former's mean and standard deviation."""
    data = load(path)
    pixels = data["train"][0].float()
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    return [((x.float() - mean) / std, y) for x, y in (data["train"], data["test"])]


def augment(x):
    """Zero-padded crop by 4 and a random mirror image."""
    n = len(x)
    padded = F.pad(x, (4, 4, 4, 4))
    rows = torch.randint(0, 9, (n, 1)) + torch.arange(32)
    columns = torch.randint(0, 9, (n, 1)) + torch.arange(32)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns, columns.flip(1))
    index = torch.arange(n).view(n, 1, 1)
    return padded.permute(0, 2, 3, 1)[index, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def parse(doc, **numbers):
    """The arguments, those that all runs have and `numbers` with their defaults, and the types of the products; the threads and the seed are set."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    for name, default in {**numbers, "threads": 2, "seed": 0}.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return args, torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16")


def main():
    args, autocast = parse(__doc__, minutes=15.0, lr=0.15, batch=128)

    (images, labels), (test_images, test_labels) = load_normalised(args.data)
    model = resnet("resnet18").to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True)

    start = time.perf_counter()
    seconds = 60 * args.minutes
    reserve = seconds * len(test_images) * 2 / 3 / 60000  # refined by the first step below
    seen, order, step_s = 0, torch.randperm(len(images)), 0.0
    while (now := time.perf_counter() - start) + step_s < seconds - reserve:
        share = min(1.0, now / (seconds - reserve))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * max(0.01, share / 0.2 if share < 0.2 else (1 - share) / 0.8)
        at = seen % len(images)
        if at == 0 and seen > 0:
            order = torch.randperm(len(images))
        index = order[at : at + args.batch]
        with autocast:
            loss = F.cross_entropy(model(augment(images[index]).contiguous(memory_format=torch.channels_last)).float(), labels[index], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(index)
        step_s = time.perf_counter() - start - now
        # A forward pass is a third of a step.
        reserve = 2 * len(test_images) / len(index) * step_s / 3
    train_s = time.perf_counter() - start

    model.eval()
    correct, correct_tta = 0, 0
    with torch.no_grad(), autocast:
        for at in range(0, len(test_images), 500):
            x = test_images[at : at + 500].contiguous(memory_format=torch.channels_last)
            plain = model(x).float()
            both = plain + model(x.flip(3)).float()
            correct += (plain.argmax(1) == test_labels[at : at + 500]).sum().item()
            correct_tta += (both.argmax(1) == test_labels[at : at + 500]).sum().item()
    print(
        json.dumps(
            {
                "accuracy": correct / len(test_images),
                "accuracy_tta": correct_tta / len(test_images),
                "epochs": seen / len(images),
                "train_s": train_s,
                "wall_s": time.perf_counter() - start,
                "images_per_s": seen / train_s,
                "precision": args.precision,
            }
        )
    )


if __name__ == "__main__":
    main()
