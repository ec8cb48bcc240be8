"""One row of the inference benchmark in PyTorch or onnxruntime: ResNets for CIFAR, random weights. Not the driver; see bench/inference.

Prints one JSON object: seconds of each timed forward pass and the peak memory of the process.
"""

import argparse
import contextlib
import io
import time

import numpy as np
import torch

from rows import add_row_arguments, print_row
from train_step import resnet


def torch_forward(model, images, precision, compiled):
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = model.to(dtype, memory_format=torch.channels_last)
    images = torch.from_numpy(images).to(dtype, memory_format=torch.channels_last)
    if compiled:
        model = torch.compile(model, options={"freezing": True})

    def forward():
        with torch.no_grad():  # freezing wants it so
            return model(images)

    return forward


def onnxruntime_forward(model, images, threads):
    import onnxruntime

    file = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, torch.from_numpy(images), file, input_names=["images"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--by", choices=["torch", "onnxruntime"], default="torch")
    parser.add_argument("--compile", action="store_true", help="torch.compile with freezing")
    add_row_arguments(parser)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = resnet(args.model).eval()
    images = np.random.default_rng(0).standard_normal((args.batch, 3, 32, 32), dtype=np.float32)
    if args.by == "torch":
        forward = torch_forward(model, images, args.precision, args.compile)
    else:
        forward = onnxruntime_forward(model, images, args.threads)
    times_s = []
    for step in range(args.warmup + args.steps):
        start = time.perf_counter()
        forward()
        if step >= args.warmup:
            times_s.append(time.perf_counter() - start)
    print_row(times_s)


if __name__ == "__main__":
    main()
