"""PyTorch's answer to the questions of parity.h: a torchvision ResNet on the same numbers, with the
attention of the metadata's "attention" in its blocks: written out below, or timm's model where
"judge" is timm.

    python3 parity.py QUESTION.safetensors ANSWER.safetensors [QUESTION ANSWER]...

A question holds a model's state_dict under "state.", "images" [n,3,h,w] and "labels" [n], and as
metadata "model", "stem" and "task":

step   One forward and backward pass in training mode, then a forward pass in evaluation mode with
       the statistics that the first one left. Answer: "train_logits", "loss", "grad.<parameter>",
       "buffer.<buffer>", "eval_logits".
curve  torch.optim.SGD with the metadata's "lr", "momentum", "weight_decay" and "nesterov", a batch
       of "batch" images a step, taken in turn; gradients go through clip_grad_norm_ with
       "clip_grad_norm" unless that is 0. Answer: "losses" and "norms" [steps].
shapes The question has "model" alone. Answer: the shape of everything in the state_dict of
       torchvision's model, under its name.

The loss is cross entropy with the metadata's "label_smoothing". Needs Debian's python3-torch and
python3-torchvision; safetensors files are read and written here, with json and numpy.
"""

import json
import os
import sys

import numpy as np
import torch
import torchvision

DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}


def read_safetensors(path):
    """Returns ({name: tensor}, metadata)."""
    with open(path, "rb") as file:
        data = file.read()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values = np.frombuffer(data[begin + first : begin + last], DTYPES[entry["dtype"]])
        tensors[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return tensors, metadata


def write_safetensors(path, tensors):
    """Writes {name: tensor}."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, pieces, offset = {}, [], 0
    for name, tensor in tensors.items():
        values = tensor.detach().contiguous().numpy()
        header[name] = {
            "dtype": names[values.dtype.type],
            "shape": list(values.shape),
            "data_offsets": [offset, offset + values.nbytes],
        }
        pieces.append(values.tobytes())
        offset += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(pieces))


class Se(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        hidden = {64: 8, 128: 8, 256: 16, 512: 32, 1024: 64, 2048: 128}[channels]
        self.fc1 = torch.nn.Conv2d(channels, hidden, 1)
        self.fc2 = torch.nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Eca(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        size = {64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7}[channels]
        self.conv = torch.nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x):
        return x * self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().squeeze(1)[:, :, None, None]


class Cbam(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channel, self.spatial = torch.nn.Module(), torch.nn.Module()
        self.channel.fc1 = torch.nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.channel.fc2 = torch.nn.Conv2d(channels // 16, channels, 1, bias=False)
        self.spatial.conv = torch.nn.Module()
        self.spatial.conv.conv = torch.nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.spatial.conv.bn = torch.nn.BatchNorm2d(1)

    def forward(self, x):
        pooled = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * sum(self.channel.fc2(self.channel.fc1(y).relu()) for y in pooled).sigmoid()
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.spatial.conv.bn(self.spatial.conv.conv(maps)).sigmoid()


ATTENTION = {"se": Se, "eca": Eca, "cbam": Cbam}


class Attended(torch.nn.Module):
    """torchvision's block with attention before the addition; names and order are timm's."""

    def __init__(self, block, attention):
        super().__init__()
        self.count = 3 if hasattr(block, "conv3") else 2
        for i in range(1, self.count + 1):
            for name in (f"conv{i}", f"bn{i}"):
                self.add_module(name, getattr(block, name))
        self.se = attention(getattr(block, f"bn{self.count}").num_features)
        self.downsample = block.downsample

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.count else self.se(y)
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


def torchvision_model(name, classes, attention):
    model = getattr(torchvision.models, name)(num_classes=classes)
    if attention != "none":
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            for i, block in enumerate(stage):
                stage[i] = Attended(block, ATTENTION[attention])
    return model


def timm_model(name, classes, attention):
    import timm

    layer = None if attention == "none" else attention
    return timm.create_model(name, num_classes=classes, block_args={"attn_layer": layer})


def build_model(tensors, metadata):
    """Returns the model with the question's attention, stem, weights and number type."""
    state = {name[6:]: value for name, value in tensors.items() if name.startswith("state.")}
    classes = state["fc.weight"].shape[0]
    make = timm_model if metadata.get("judge") == "timm" else torchvision_model
    model = make(metadata["model"], classes, metadata["attention"])
    if metadata["stem"] == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    if list(state) != list(model.state_dict()):
        sys.exit("expected the names of torchvision and timm in their order, got " + ", ".join(state))
    model.to(state["fc.weight"].dtype).load_state_dict(state, strict=True)
    return model


def answer_step(model, loss_of, images, labels):
    model.train()
    logits = model(images)
    loss = loss_of(logits, labels)
    loss.backward()
    answer = {"train_logits": logits, "loss": loss}
    answer.update(("grad." + name, value.grad) for name, value in model.named_parameters())
    answer.update(("buffer." + name, value.clone()) for name, value in model.named_buffers())
    model.eval()
    answer["eval_logits"] = model(images)
    return answer


def answer_curve(model, loss_of, images, labels, metadata):
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=float(metadata["lr"]),
        momentum=float(metadata["momentum"]),
        weight_decay=float(metadata["weight_decay"]),
        nesterov=metadata["nesterov"] == "true",
    )
    batch = int(metadata["batch"])
    model.train()
    losses, norms = [], []
    clip = float(metadata["clip_grad_norm"]) or float("inf")
    for step in range(int(metadata["steps"])):
        rows = slice(step * batch % len(labels), step * batch % len(labels) + batch)
        loss = loss_of(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item())
        optimizer.step()
        losses.append(loss.item())
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "norms": torch.tensor(norms, dtype=torch.float64),
    }


def main(paths):
    torch.set_num_threads(os.cpu_count())
    for question, answer in zip(paths[::2], paths[1::2]):
        tensors, metadata = read_safetensors(question)
        if metadata["task"] == "shapes":
            state = getattr(torchvision.models, metadata["model"])().state_dict()
            shapes = {name: torch.tensor(value.shape).long() for name, value in state.items()}
            write_safetensors(answer, shapes)
            continue
        model = build_model(tensors, metadata)
        smoothing = float(metadata["label_smoothing"])
        loss_of = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
        images, labels = tensors["images"], tensors["labels"]
        if metadata["task"] == "step":
            write_safetensors(answer, answer_step(model, loss_of, images, labels))
        else:
            write_safetensors(answer, answer_curve(model, loss_of, images, labels, metadata))


if __name__ == "__main__":
    main(sys.argv[1:])
