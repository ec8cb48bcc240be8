"""PyTorch's run of the recipe `article`, for its accuracy beside Skipway's after as many epochs.

Usage: train_article.py FOLDER-OR-TAR.GZ [--epochs 10] [--precision bf16] [--threads 2] [--seed 0]

ResNet-18 for CIFAR; batches of 128, crop by 4 and flip; SGD at 0.1 with momentum 0.9 and weight decay 5e-4; the rate goes down a cosine of 200
epochs, of which only the first are made. Data as train_minutes.py takes them. Prints one JSON object an epoch: its test accuracy, plain view.
"""

import json
import time

import torch
from torch.nn import functional as F

from train_minutes import augment, load, parse
from train_step import resnet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def normalised(images):
    """uint8 [n,3,h,w] -> fp32 in channels_last, by the article's mean and standard deviation."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def main():
    args, autocast = parse(__doc__, epochs=10)

    data = load(args.data)
    (images, labels), (test_images, test_labels) = data["train"], data["test"]
    model = resnet("resnet18").to(memory_format=torch.channels_last)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):  # as torchvision and Skipway begin, not as Conv2d does by itself
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)

    start = time.perf_counter()
    for epoch in range(1, args.epochs + 1):
        model.train()
        for index in torch.randperm(len(images)).split(128):
            with autocast:
                loss = F.cross_entropy(model(normalised(augment(images[index]))).float(), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad(), autocast:
            batches = zip(test_images.split(100), test_labels.split(100))
            correct = sum((model(normalised(x)).argmax(1) == y).sum().item() for x, y in batches)
        print(json.dumps({"epoch": epoch, "accuracy": correct / len(test_labels), "wall_s": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
