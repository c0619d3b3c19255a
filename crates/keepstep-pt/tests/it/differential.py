"""Makes files of every kind with torch.save, changes many of them, and says what torch.load makes of each.

Arguments: the file to write to, and how many. Each is written as two lengths of 32 bits, the file and the description.
The description is `!` and the error where torch.load refuses the file.
"""

import io
import random
import struct
import sys
import warnings
import zipfile
from collections import Counter, OrderedDict

import torch
import torch.utils.serialization as settings

warnings.simplefilter("ignore")
DTYPES = [
    getattr(torch, name)
    for name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 complex32 "
    "uint16 uint32 uint64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu".split()
]
MOST_ELEMENTS = 100_000


def describe(value):
    kind = type(value)
    if value is None:
        return "N"
    if kind is bool:
        return "T" if value else "F"
    if kind is int:
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        while len(data) > 1 and ((data[-1] == 0 and data[-2] < 128) or (data[-1] == 255 and data[-2] >= 128)):
            data = data[:-1]
        return "i" + data.hex()
    if kind is float:
        return "f" + struct.pack(">d", value).hex()
    if kind is complex:
        return "c" + struct.pack(">dd", value.real, value.imag).hex()
    if kind is str:
        return "s" + value.encode("utf-8", "surrogatepass").hex()
    if kind in (bytes, bytearray):
        return "b" + bytes(value).hex()
    if kind is list:
        return "[" + ",".join(map(describe, value)) + "]"
    if kind in (tuple, torch.Size):
        return "(" + ",".join(map(describe, value)) + ")"
    if kind in (dict, Counter, OrderedDict):
        pairs = ",".join(f"{describe(key)}:{describe(item)}" for key, item in value.items())
        return ("O" if kind is OrderedDict else "") + "{" + pairs + "}"
    if kind is set:
        return "<" + ",".join(sorted(map(describe, value))) + ">"
    if kind in (torch.dtype, torch.layout, torch.device):
        return f"g{value}"
    if isinstance(value, torch.Tensor):
        name, shape = str(value.dtype), "x".join(map(str, value.shape))
        if value.numel() > MOST_ELEMENTS:
            return f"t{name} {shape} many"
        value = value.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        data = bytes(value.clone().untyped_storage()) if value.numel() else b""
        return f"t{name} {shape} {data.hex()}"
    return f"?{kind}"


def tensor(choose):
    dtype = choose.choice(DTYPES)
    shape = [choose.choice([0, 1, 1, 2, 3, 5]) for _ in range(choose.randrange(4))]
    count = 1
    for size in shape:
        count *= size
    size = torch.empty(0, dtype=dtype).element_size()
    data = torch.tensor([choose.randrange(2 if dtype is torch.bool else 256) for _ in range(count * size)],
                        dtype=torch.uint8)
    made = data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    if dtype.is_floating_point and choose.random() < 0.1 and made.dtype in (torch.float32, torch.float64):
        made = torch.nn.Parameter(made)
    return made


def view(choose, made):
    made = made.detach()
    for _ in range(choose.randrange(1, 3)):
        if made.dim() == 0:
            return made.expand(choose.randrange(1, 4))
        way, axis = choose.randrange(5), choose.randrange(made.dim())
        if way == 0:
            made = made.transpose(axis, choose.randrange(made.dim()))
        elif way == 1 and made.shape[axis] > 1:
            made = made.narrow(axis, 1, made.shape[axis] - 1)
        elif way == 2 and made.shape[axis] > 1:
            made = made[(slice(None),) * axis + (slice(None, None, 2),)]
        elif way == 3 and made.shape[axis]:
            made = made.select(axis, made.shape[axis] - 1)
        else:
            made = made.unsqueeze(axis)
    return made


def value(choose, depth, tensors):
    way = choose.randrange(22 if depth < 4 else 14)
    if way < 2:
        return choose.choice([None, True, False])
    if way < 4:
        return choose.choice([0, 1, -1, 255, 256, 65536, -(2**31) - 1, 2**63 - 1, -(2**63), 2**63, 2**80, -(2**75),
                              choose.randrange(-(2**66), 2**66), 128, -128, 2**2039])
    if way == 4:
        return choose.choice([0.0, -0.0, float("nan"), float("inf"), 1e-320, choose.random(), 2.0**63])
    if way < 7:
        return choose.choice(["", "epoch", "é\u20ac\U0001f600", "a" * choose.randrange(300), "\x00\n"])
    if way == 7:
        return choose.choice([b"\x00\xff", bytearray(b"xy\xe9"), 1 + 2j, torch.float32, torch.device("cpu"),
                              torch.strided, {1, "a", (2, None)}, set(), Counter("abca"), torch.Size([2, 3]),
                              torch.device("meta"), b"\x80"])
    if way < 14:
        if tensors and choose.random() < 0.5:
            made = choose.choice(tensors)
            made = made if choose.random() < 0.3 else view(choose, made)
        else:
            made = tensor(choose)
        if made.dtype.is_complex and made.dtype is not torch.complex32 and choose.random() < 0.2:
            made = made.detach().conj()
        tensors.append(made)
        return made
    items = [value(choose, depth + 1, tensors) for _ in range(choose.randrange(5))]
    if way < 16:
        return items
    if way < 18:
        return tuple(items)
    keys = [choose.choice(["a", "b", f"k{at}", at, -at, 0.5, None, (at, "x"), torch.int64]) for at in range(len(items))]
    return (dict if way < 20 else OrderedDict)(zip(keys, items))


def saved(choose):
    root = {"value": value(choose, 0, []), "list": [value(choose, 1, [])]} if choose.random() < 0.7 else value(choose, 0, [])
    out = io.BytesIO()
    settings.config.save.storage_alignment = choose.choice([64, 64, 64, 1, 4096])
    torch.serialization.set_crc32_options(choose.random() < 0.8)
    torch.save(root, out, _use_new_zipfile_serialization=choose.random() < 0.97)
    torch.serialization.set_crc32_options(True)
    return out.getvalue()


SPLICES = [b"N", b"\x88", b"]", b"}", b")", b"K\x01", b"U\x02\xc3\xa9", b"X\x01\x00\x00\x00a", b"h\x00", b"h\x01", b"q\x00",
           b"\x85", b"\x86", b"a", b"s", b"(", b"e", b"u", b"\x8a\x01\x00", b"\x8a\x0a" + b"\x00" * 10, b"b", b"R",
           b"G\x3f\xf0" + bytes(6), b"J\xff\xff\xff\xff", b"ccollections\nOrderedDict\n)R", b"}X\x01\x00\x00\x00aK\x01s",
           b"](K\x01K\x02e", b"(K\x01K\x02t", b"}(K\x01N\x88]u", b"0", b"2"]


def changed_pickle(choose, data):
    data = bytearray(data)
    for _ in range(choose.randrange(1, 3)):
        at = choose.randrange(2, len(data))
        way = choose.randrange(5)
        if way == 0:
            data[at] ^= 1 << choose.randrange(8)
        elif way == 1:
            data[at] = choose.choice([0, 1, 2, 3, 4, 8, 255])
        elif way == 2:
            data[at:at] = choose.choice(SPLICES)
        elif way == 3:
            del data[at]
        else:
            # A value that nothing else refers to is replaced.
            spots = [spot for spot in range(2, len(data) - 1) if data[spot] in b"NK\x88\x89]})"]
            if spots:
                spot = choose.choice(spots)
                data[spot : spot + (2 if data[spot] == ord("K") else 1)] = choose.choice(SPLICES)
    return bytes(data)


def changed(choose, data):
    try:
        source = zipfile.ZipFile(io.BytesIO(data))
        entries = [(item.filename, source.read(item)) for item in source.infolist()]
    except zipfile.BadZipFile:  # The legacy format, or a file without checksums.
        return data
    way = choose.randrange(10)
    if way == 0:
        choose.shuffle(entries)
    elif way == 1:
        entries.pop(choose.randrange(len(entries)))
    elif way == 2:
        at = choose.randrange(len(entries))
        name, payload = entries[at]
        entries[at] = (name, payload + b"\x00" if choose.random() < 0.5 else payload[:-1])
    elif way == 3:
        root = choose.choice(["x", "a b", "archive/deeper"])
        entries = [(root + name[name.index("/"):], payload) for name, payload in entries]
    elif way == 4:
        entries.append((entries[0][0].split("/")[0] + "/extra", b"whatever"))
    else:
        entries = [(name, changed_pickle(choose, payload) if name.endswith("data.pkl") else payload)
                   for name, payload in entries]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for name, payload in entries:
            target.writestr(zipfile.ZipInfo(name), payload)
    return out.getvalue()


def main():
    path, count = sys.argv[1], int(sys.argv[2])
    with open(path, "wb") as out:
        for seed in range(count):
            choose = random.Random(seed)
            data = saved(choose)
            if seed % 5 >= 2:
                data = changed(choose, data)
            try:
                text = describe(torch.load(io.BytesIO(data), weights_only=True))
            except Exception as error:
                text = f"!{type(error).__name__}: {str(error)[:2000]}"
            text = text.encode("utf-8", "replace")
            out.write(struct.pack("<II", len(data), len(text)) + data + text)


main()
