"""Reads what Skipway wrote with the programs it was written for, and prints it as JSON. Judges nothing.

Usage: readers.py safetensors FILE | tensorboard FOLDER | html FILE
"""

import hashlib
import html.parser
import json
import sys


def read_safetensors(path):
    """Each tensor's type, shape and SHA-256 of its bytes, and the metadata."""
    from safetensors import deserialize, safe_open

    # numpy has no bfloat16, so the file is opened for metadata and deserialized for the bytes.
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    with open(path, "rb") as file:
        tensors = deserialize(file.read())
    return {
        "metadata": metadata,
        "tensors": {
            name: {
                "dtype": tensor["dtype"],
                "shape": tensor["shape"],
                "sha256": hashlib.sha256(tensor["data"]).hexdigest(),
            }
            for name, tensor in tensors
        },
    }


def read_tensorboard(folder):
    """Scalars as [step, value], by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder)
    events.Reload()
    return {
        "scalars": {
            tag: [[event.step, event.value] for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
    }


class Page(html.parser.HTMLParser):
    """A page's text and the addresses it refers to; raises ValueError where tags do not match."""

    VOID = {"meta", "br", "hr", "link", "img", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.addresses = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in ("href", "src", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            raise ValueError(f"</{tag}> at {self.getpos()} closes nothing")

    def handle_data(self, data):
        self.text.append(data)


def read_html(path):
    """Text, tags in order and addresses of a page whose tags match."""
    page = Page()
    with open(path, encoding="utf-8") as file:
        page.feed(file.read())
    page.close()
    if page.open:
        raise ValueError(f"not closed: {page.open}")
    return {"text": " ".join(" ".join(page.text).split()), "tags": page.tags, "addresses": page.addresses}


READERS = {"safetensors": read_safetensors, "tensorboard": read_tensorboard, "html": read_html}

if __name__ == "__main__":
    print(json.dumps(READERS[sys.argv[1]](sys.argv[2])))
