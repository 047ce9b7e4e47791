"""Plain mutations of bytes: flips, cuts, insertions, chunks that come twice, and the extremes of header fields."""

import numpy as np

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_HEADER_BYTES = 128
_MAX_MUTATIONS = 6


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return some bytes with one to six mutations, half of which change what is near the start."""
    for _ in range(rng.integers(1, _MAX_MUTATIONS, endpoint=True)):
        data = _MUTATIONS[rng.integers(len(_MUTATIONS))](data, rng)
    return data


def place(data: bytes, rng: np.random.Generator) -> int:
    """Draw a place in some bytes: every other time in their header."""
    end = min(len(data), _HEADER_BYTES) if rng.random() < 0.5 else len(data)
    return int(rng.integers(end + 1))


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    at = place(data, rng)
    return data[:at] + bytes(byte ^ 1 << rng.integers(8) for byte in data[at : at + 1]) + data[at + 1 :]


def _write_over(data: bytes, rng: np.random.Generator) -> bytes:
    at, noise = place(data, rng), rng.bytes(int(rng.integers(1, 16)))
    return data[:at] + noise + data[at + len(noise) :]


def _set_field(data: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.choice([1, 2, 3, 4, 8]))
    value = EXTREMES[rng.integers(len(EXTREMES))] % (1 << 8 * size)
    at = place(data, rng)
    return data[:at] + value.to_bytes(size, "little" if rng.random() < 0.5 else "big") + data[at + size :]


def _cut_end(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: place(data, rng)]


def _cut_out(data: bytes, rng: np.random.Generator) -> bytes:
    at = place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    at = place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    first, second, at = sorted(place(data, rng) for _ in range(3))
    return data[:at] + data[first:second] + data[at:]


def _append_itself(data: bytes, rng: np.random.Generator) -> bytes:
    return data + data[place(data, rng) :] if len(data) < 1 << 16 else data


_MUTATIONS = (_flip, _flip, _write_over, _set_field, _set_field, _cut_end, _cut_out, _insert, _repeat, _append_itself)
