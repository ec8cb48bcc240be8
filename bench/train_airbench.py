"""PyTorch's run of the recipe `airbench94`: the same network, images, schedule and number of epochs, for its accuracy beside Skipway's.

Usage: train_airbench.py FOLDER-OR-TAR.GZ [--epochs 8] [--batch 1024] [--small-share 0.55] [--precision bf16] [--threads 2] [--seed 0]

Network and optimizers are those of airbench94_muon.py in github.com/KellerJordan/cifar10-airbench, eager, the weights in fp32; of the steps, the
first share sees images of 18 pixels, as in Skipway. Data as train_minutes.py takes them. Prints one JSON object.
"""

import json
import math
import time

import torch
from torch import nn
from torch.nn import functional as F

from train_minutes import load_normalised, parse

SMALL_SIDE = 18
MUON = (3.4445, -4.775, 2.0315)


def group(c_in, c_out):
    layers = []
    for i in range(2):
        conv = nn.Conv2d(c_in if i == 0 else c_out, c_out, 3, padding=1, bias=False)
        nn.init.dirac_(conv.weight.data[: conv.in_channels])
        norm = nn.BatchNorm2d(c_out, eps=1e-12, momentum=0.4)
        norm.weight.requires_grad_(False)
        layers += [conv, *([nn.MaxPool2d(2)] if i == 0 else []), norm, nn.GELU()]
    return nn.Sequential(*layers)


class Airbench94(nn.Module):
    def __init__(self, images):
        """`images`: normalised fp32 [n,3,h,w], whose 2x2 patches the first layer whitens."""
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / torch.sqrt(values + 5e-4)).T.reshape(12, 3, 2, 2)
        self.whiten.weight = nn.Parameter(torch.cat([filters, -filters]), requires_grad=False)
        nn.init.zeros_(self.whiten.bias)
        self.groups = nn.Sequential(group(24, 64), group(64, 256), group(256, 256))
        self.head = nn.Linear(256, 10, bias=False)
        self.head.weight.data /= self.head.weight.data.std()

    def forward(self, x):
        x = self.groups(F.gelu(self.whiten(x)))
        return self.head(F.max_pool2d(x, min(3, x.shape[2])).flatten(1)) / 256


@torch.no_grad()
def muon_step(filters, momenta, lr):
    """Nesterov momentum of 0.6, made orthogonal by three Newton-Schulz iterations."""
    a, b, c = MUON
    for weight, momentum in zip(filters, momenta):
        momentum.mul_(0.6).add_(weight.grad)
        x = weight.grad.add(momentum, alpha=0.6).reshape(len(weight), -1)
        x = x / (x.norm() + 1e-7)
        for _ in range(3):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        weight.mul_(len(weight) ** 0.5 / weight.norm()).add_(x.view_as(weight), alpha=-lr)


def crops(padded):
    """A random crop of each image padded by 2."""
    n = len(padded)
    rows = torch.randint(0, 5, (n, 1)) + torch.arange(32)
    columns = torch.randint(0, 5, (n, 1)) + torch.arange(32)
    return padded.permute(0, 2, 3, 1)[torch.arange(n).view(n, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def views(x):
    """Half of the weight on the image, a quarter on each of two shifts; each with its mirror image."""
    padded = F.pad(x, (1, 1, 1, 1), "reflect")
    return [(x, 0.5), (padded[:, :, :32, :32], 0.25), (padded[:, :, 2:, 2:], 0.25)]


def main():
    args, autocast = parse(__doc__, epochs=8.0, batch=1024, small_share=0.55)

    (images, labels), (test_images, test_labels) = load_normalised(args.data)
    model = Airbench94(images[:5000]).to(memory_format=torch.channels_last)
    mirrored = torch.rand(len(images)) < 0.5  # in even epochs; the others in odd ones
    padded = F.pad(images, (2, 2, 2, 2), "reflect")

    filters = [p for p in model.parameters() if p.requires_grad and p.dim() == 4]
    momenta = [torch.zeros_like(p) for p in filters]
    biases = [p for p in model.parameters() if p.requires_grad and p.dim() == 1]
    decay, rates = 2e-6 * args.batch, (0.053, 0.67)
    optimizer = torch.optim.SGD(
        [{"params": p, "lr": lr, "weight_decay": decay / lr} for p, lr in ((biases, rates[0]), ([model.head.weight], rates[1]))],
        momentum=0.85, nesterov=True, fused=True,
    )
    steps_per_epoch = math.ceil(len(images) / args.batch)
    total = round(args.epochs * steps_per_epoch)

    start = time.perf_counter()
    for step in range(total):
        epoch, within = divmod(step, steps_per_epoch)
        if within == 0:
            order = torch.randperm(len(images))
        index = order[within * args.batch : (within + 1) * args.batch]
        x = crops(padded[index])
        x = torch.where((mirrored[index] ^ (epoch % 2 == 1)).view(-1, 1, 1, 1), x.flip(3), x)
        if step < args.small_share * total:
            x = F.adaptive_avg_pool2d(x, SMALL_SIDE)
        model.whiten.bias.requires_grad_(step < 3 * steps_per_epoch)
        with autocast:
            logits = model(x.contiguous(memory_format=torch.channels_last)).float()
        loss = F.cross_entropy(logits, labels[index], label_smoothing=0.2, reduction="sum")
        model.zero_grad(set_to_none=True)
        loss.backward()
        share = 1 - step / total
        for param_group, lr in zip(optimizer.param_groups, rates):
            param_group["lr"] = lr * share
        optimizer.step()
        muon_step(filters, momenta, 0.24 * share)
    train_s = time.perf_counter() - start

    model.eval()
    correct, correct_tta = 0, 0
    with torch.no_grad(), autocast:
        for x, y in zip(test_images.split(500), test_labels.split(500)):
            plain = model(x.contiguous(memory_format=torch.channels_last)).float()
            tta = sum(weight * (model(v).float() + model(v.flip(3)).float()) for v, weight in views(x))
            correct += (plain.argmax(1) == y).sum().item()
            correct_tta += (tta.argmax(1) == y).sum().item()
    result = {"accuracy": correct / len(test_images), "accuracy_tta": correct_tta / len(test_images), "epochs": total / steps_per_epoch}
    print(json.dumps({**result, "train_s": train_s, "images_per_s": len(images) * args.epochs / train_s}))


if __name__ == "__main__":
    main()
