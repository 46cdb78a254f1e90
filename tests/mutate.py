"""Changes a saved file in every way that it may be changed, loads each, and prints what came of it, as JSON.

For test_persistence.py, in a process of its own, where a crash is seen: `python tests/mutate.py FILE COUNT`.
What a file might want to run is forbidden by an audit hook.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from skbert import BertClassifier, PersistenceError
from skbert.persistence import tensorfile
from skbert.persistence.replacing import replace_file

FORBIDDEN = ("socket.", "pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "urllib.", "exec")
watching = []


def watch(event, arguments):
    if watching and event.startswith(FORBIDDEN):
        watching.append(event)
        raise RuntimeError(f"forbidden: {event}")


def bit(content, rng):
    """A bit turned, in what leads the file or anywhere."""
    header = 8 + int.from_bytes(content[:8], "little")
    place = int(rng.integers(0, 8 * (header if rng.random() < 0.5 else len(content))))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def truncation(content, rng):
    """The end is missing."""
    return content[: int(rng.integers(0, len(content)))]


def replacement(content, rng):
    """Some bytes replaced by others, or removed, or more of them put in."""
    start, n, m = int(rng.integers(0, len(content))), int(rng.integers(0, 64)), int(rng.integers(0, 64))
    return content[:start] + rng.bytes(n) + content[start + m :]


def header(content, rng):
    """A header that says to be longer than it is, by a little or by exabytes."""
    length = int.from_bytes(content[:8], "little")
    return (length + 2 ** int(rng.integers(0, 63))).to_bytes(8, "little") + content[8:]


def written(arrays, metadata):
    path = Path(sys.argv[1]).with_name("written")
    replace_file(path, lambda file: tensorfile.write(file, arrays, metadata))
    return path.read_bytes()


def parts(content):
    path = Path(sys.argv[1]).with_name("parts")
    path.write_bytes(content)
    return tensorfile.read(path)[:2]


def swap(content, rng):
    """Two tensors of one shape exchanged."""
    arrays, metadata = parts(content)
    shapes = {}
    for name, array in arrays.items():
        shapes.setdefault(array.shape, []).append(name)
    groups = [names for names in shapes.values() if len(names) > 1]
    while True:
        a, b = rng.choice(groups[int(rng.integers(len(groups)))], size=2, replace=False)
        if not np.array_equal(arrays[a], arrays[b]):
            arrays[a], arrays[b] = arrays[b], arrays[a]
            return written(arrays, metadata)


def tensor(content, rng):
    """A tensor with other numbers, of another shape, of another dtype, missing, or another's."""
    arrays, metadata = parts(content)
    name = str(rng.choice(list(arrays)))
    kind = int(rng.integers(5))
    if kind == 0:
        arrays[name] = arrays[name] + rng.normal(size=arrays[name].shape).astype(arrays[name].dtype)
    elif kind == 1:
        arrays[name] = arrays[name][None]
    elif kind == 2:
        arrays[name] = arrays[name].astype(np.float64)
    elif kind == 3:
        del arrays[name]
    else:
        arrays["another"] = arrays[name]
    return written(arrays, metadata)


def metadata(content, rng):
    """Metadata of other programs, more of them, fewer, or those of another model with its own checksum."""
    arrays, stated = parts(content)
    foreign = [
        {},
        {"format": "pt"},
        stated | {"format": "pt"},
        {"skbert": stated["skbert"]},
        stated | {"sha256": "0" * 64},
        stated | {"skbert": rng.bytes(30).hex()},
        stated | {"x" * int(rng.integers(1, 9)): "y"},
    ]
    return written(arrays, foreign[int(rng.integers(len(foreign)))])


def forgery(content, rng):
    """An entry of the JSON that is another value, with the checksum of the new text."""
    arrays, stated = parts(content)
    text = json.loads(stated["skbert"])
    others = [
        None,
        1,
        -1,
        2**70,
        "os.system",
        [],
        {},
        {"$object": "os.system"},
        {"$tuple": 1},
        [[[]]],
        1.5,
        True,
    ]
    place = text
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        # What nothing reads may be anything: who wrote it.
        key = keys[int(rng.integers(len(keys)))]
        if place is text and key == "versions":
            continue
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            break
        place = inner
    other = others[int(rng.integers(len(others)))]
    if json.dumps(other) == json.dumps(place[key]):
        other = "another value"
    place[key] = other
    changed = json.dumps(text, separators=(",", ":"))
    return written(arrays, {"skbert": changed, "sha256": sha256(changed.encode()).hexdigest()})


KINDS = (bit, truncation, replacement, header, swap, tensor, metadata, forgery)
QUESTIONS = ["good nice film", "sad poor story of war"]


def main():
    file, count = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    sys.addaudithook(watch)
    original = file.read_bytes()
    model = BertClassifier.load(file)
    expected = (model.decision_function(QUESTIONS), model.get_params())
    rng = np.random.default_rng(0)
    outcomes = Counter()
    path = file.with_name("mutated")
    for number in range(count):
        mutate = KINDS[number % len(KINDS)]
        content = mutate(original, rng)
        while content == original:
            content = mutate(original, rng)
        path.write_bytes(content)
        watching.append("")
        try:
            loaded = BertClassifier.load(path)
            outcomes[mutate.__name__, judged(loaded, expected)] += 1
        except PersistenceError:
            outcomes[mutate.__name__, "refused"] += 1
        finally:
            events = watching[1:]
            watching.clear()
        if events:
            outcomes[mutate.__name__, f"tried {events[0]}"] += 1
    print(json.dumps([[*key, n] for key, n in sorted(outcomes.items())]))


def judged(loaded, expected):
    """Whether a file that was taken holds the same model, or says openly that it holds another."""
    same = np.array_equal(loaded.decision_function(QUESTIONS), expected[0])
    return "the same model" if same else "another model"


if __name__ == "__main__":
    main()
