"""torchvision's answer to the question of augment_parity_test.cc: the same operations on images.

    python3 augment_parity.py QUESTION.safetensors ANSWER.safetensors

The question holds "images" int64 [n,3,h,w], and as metadata "cases", names such as
"brightness 0.5" that a ';' separates. Answer: int64 [n,3,h,w] under each name. For
"rotate_bilinear" also "inside <name>", where it read nothing but the image or nothing but fill.
"""

import pathlib
import sys

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import autoaugment, functional

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # python runs isolated
from parity import read_safetensors, write_safetensors

GREY = [127.0] * 3
BILINEAR = InterpolationMode.BILINEAR


def operation(name, values):
    """Returns a function of uint8 images."""
    first = values[0] if values else None
    if name in ("brightness", "contrast", "saturation", "hue", "sharpness"):
        return lambda x: getattr(functional, "adjust_" + name)(x, first)
    if name == "posterize":
        return lambda x: functional.posterize(x, int(first))
    if name == "solarize":
        return lambda x: functional.solarize(x, first)
    if name in ("autocontrast", "equalize"):
        return getattr(functional, name)
    if name == "rotate_nearest":
        return lambda x: functional.rotate(x, first, fill=values[1:] or GREY)
    if name == "rotate_bilinear":
        return lambda x: functional.rotate(x, first, BILINEAR, fill=values[1:] or GREY)
    if name == "resized_crop":
        top, left, h, w = (int(value) for value in values)
        return lambda x: functional.resized_crop(x, top, left, h, w, list(x.shape[-2:]), BILINEAR)
    if name == "erase":
        top, left, h, w = (int(value) for value in values)
        return lambda x: functional.erase(x, top, left, h, w, torch.tensor(127))
    if name == "randaugment":
        return lambda x: rand_augment(x, int(values[0]), int(values[1]), int(values[2]))
    sys.exit(f"expected an operation, got {name}")


def rand_augment(images, index, magnitude, opposite):
    """One operation of torchvision's RandAugment, chosen instead of drawn."""
    space = autoaugment.RandAugment()._augmentation_space(31, images.shape[-2:])
    name, (strengths, signed) = list(space.items())[index]
    strength = float(strengths[magnitude]) if strengths.ndim > 0 else 0.0
    if signed and opposite:
        strength = -strength
    return autoaugment._apply_op(images, name, strength, InterpolationMode.NEAREST, GREY)


def main(question, answer):
    tensors, metadata = read_safetensors(question)
    images = tensors["images"].to(torch.uint8)
    answers = {}
    for case in metadata["cases"].split(";"):
        name, *values = case.split()
        values = [float(value) for value in values]
        answers[case] = operation(name, values)(images).to(torch.int64)
        if name == "rotate_bilinear":
            ones = torch.ones_like(images, dtype=torch.float32)
            share = functional.rotate(ones, values[0], BILINEAR, fill=[0.0] * 3)
            answers["inside " + case] = ((share < 1e-5) | (share > 1 - 1e-5)).to(torch.int64)
    write_safetensors(answer, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
