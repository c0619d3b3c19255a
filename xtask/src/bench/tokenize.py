"""A corpus from files to tokens on the disk with Hugging Face's tokenizers. Prints MB/s and MB of memory.

Batches of 64 texts of about 64 KB each, whole lines, are read, encoded on all cores by encode_batch_fast, and
written as they are done.
"""

import os
import pathlib
import resource
import sys
import time

import numpy
from tokenizers import Tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "true"
path, corpus, out, megabytes = *sys.argv[1:4], int(sys.argv[4])
tokenizer = Tokenizer.from_file(path)
width = numpy.uint8 if tokenizer.get_vocab_size() <= 256 else numpy.uint16
files = sorted(pathlib.Path(corpus).rglob("*.txt"), key=lambda file: str(file.relative_to(corpus)))


def texts():
    """Texts of about 64 KB, until there are as many as were asked for."""
    left = megabytes * 1_000_000
    for file in files:
        with open(file, encoding="utf-8", newline="") as lines:
            while left > 0 and (text := "".join(lines.readlines(1 << 16))):
                left -= len(text.encode())
                yield text


tokenizer.encode_batch_fast(["warm up"] * 8, add_special_tokens=False)
count = 0
start = time.perf_counter()
with open(out, "wb") as file:
    source = texts()
    # A batch small enough that memory stays in bounds: each encoding takes many times its text.
    while batch := [text for text, _ in zip(source, range(64))]:
        for text, encoding in zip(batch, tokenizer.encode_batch_fast(batch, add_special_tokens=False)):
            file.write(numpy.array(encoding.ids, dtype=width).tobytes())
            count += len(text.encode())
print(f"rate {count / (time.perf_counter() - start) / 1e6:.2f}")
print(f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:.0f}")
os.remove(out)
