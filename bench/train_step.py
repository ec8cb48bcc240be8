"""One row of the training-step benchmark in PyTorch: ResNets for CIFAR, SGD. Not the driver; see bench/train_step.

Prints one JSON object: seconds of each timed step and the peak memory of the process.
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F

from rows import add_row_arguments, print_row


def conv_bn(c_in, c_out, size, stride):
    return nn.Sequential(nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(c_out))


class Block(nn.Module):
    """Convolutions and a skip connection: two of 3x3, or 1x1, 3x3 and 1x1 to four times the width."""

    def __init__(self, c_in, width, stride, bottleneck):
        super().__init__()
        if bottleneck:
            c_out = 4 * width
            self.units = nn.ModuleList([conv_bn(c_in, width, 1, 1), conv_bn(width, width, 3, stride), conv_bn(width, c_out, 1, 1)])
        else:
            c_out = width
            self.units = nn.ModuleList([conv_bn(c_in, width, 3, stride), conv_bn(width, width, 3, 1)])
        self.downsample = conv_bn(c_in, c_out, 1, stride) if stride != 1 or c_in != c_out else None

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)
        for unit in self.units[:-1]:
            x = F.relu(unit(x), inplace=True)
        return F.relu(self.units[-1](x).add_(skip), inplace=True)


def resnet(name):
    """The CIFAR form: 3x3 stem of stride 1, no max-pool, ten classes."""
    counts = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}[name]
    bottleneck = name == "resnet50"
    layers = [conv_bn(3, 64, 3, 1), nn.ReLU(inplace=True)]
    c_in = 64
    for width, stride, count in zip((64, 128, 256, 512), (1, 2, 2, 2), counts):
        for i in range(count):
            layers.append(Block(c_in, width, stride if i == 0 else 1, bottleneck))
            c_in = 4 * width if bottleneck else width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, 10))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_row_arguments(parser)
    parser.add_argument("--layout", choices=["channels_last", "contiguous"], default="channels_last")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layout = torch.channels_last if args.layout == "channels_last" else torch.contiguous_format
    model = resnet(args.model).to(memory_format=layout).train()
    forward = torch.compile(model) if args.compile else model
    # The fused optimizer is the fastest of PyTorch's on CPUs.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True)
    images = torch.randn(args.batch, 3, 32, 32).to(memory_format=layout)
    labels = torch.randint(0, 10, (args.batch,))

    times_s = []
    for step in range(args.warmup + args.steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            loss = F.cross_entropy(forward(images), labels, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
        if step >= args.warmup:
            times_s.append(time.perf_counter() - start)
    print_row(times_s)


if __name__ == "__main__":
    main()
