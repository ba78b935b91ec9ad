"""CompreFace's own client: people added, recognised, verified, renamed and deleted."""

import struct
import sys
import zlib
from typing import Any

from compreface import CompreFace

SIDE, CELL = 256, 16
ADA, BOB = 0b1100_1010_0101_0011, 0b0110_0001_1011_0101


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(*people: tuple[int, int]) -> bytes:
    """A PNG with a face for each person, by its pattern of 16 bits, in a column of four."""
    rows = []
    for y in range(SIDE):
        row = bytearray(3 * SIDE)
        for person, column in people if y < 4 * CELL else ():
            for x in range(4 * CELL):
                bright = person >> (4 * (y // CELL) + x // CELL) & 1
                row[3 * (column * 4 * CELL + x)] = 250 if bright else 140
        rows.append(b"\0" + row)
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    domain, port = url.rsplit(":", 1)
    options = {"limit": 0, "det_prob_threshold": 0.2, "status": "true"}
    client: Any = CompreFace(domain, port, options)
    recognition = client.init_face_recognition(key)
    faces, subjects = recognition.get_face_collection(), recognition.get_subjects()
    assert subjects.add("Ada") == {"subject": "Ada"}
    added = faces.add(image_path=picture((ADA, 0)), subject="Ada")
    assert added["subject"] == "Ada", added
    assert faces.add(image_path=picture((BOB, 3)), subject="Bob")["image_id"]
    assert {each["subject"] for each in faces.list()["faces"]} == {"Ada", "Bob"}
    both = picture((BOB, 1), (ADA, 3))
    found = recognition.recognize(both, {"prediction_count": 2, "face_plugins": "calculator"})
    best = {each["box"]["x_min"]: each["subjects"][0] for each in found["result"]}
    assert {place: each["subject"] for place, each in best.items()} == {64: "Bob", 192: "Ada"}
    assert all(each["same"] and each["similarity"] > 0.9 for each in best.values())
    assert found["result"][0]["embedding"]
    checked = faces.verify(image_path=both, image_id=added["image_id"])
    assert sorted(each["same"] for each in checked["result"]) == [False, True]
    pair = client.init_face_verification(key).verify(picture((ADA, 0)), both)
    assert sorted(each["same"] for each in pair["result"][0]["face_matches"]) == [False, True]
    detected = client.init_face_detection(key).detect(both)
    assert len(detected["result"]) == 2
    assert faces.add(image_path=picture(), subject="Nobody")["code"] == 28
    renamed = subjects.update(subject="Ada", new_name="Ada Lovelace")
    assert renamed == {"updated": True}, renamed
    assert faces.delete(added["image_id"])["subject"] == "Ada Lovelace"
    assert faces.delete_all("Bob") == {"deleted": 1}
    assert subjects.delete("Ada Lovelace") == {"subject": "Ada Lovelace"}
    assert subjects.list() == {"subjects": []}


if __name__ == "__main__":
    main(*sys.argv[1:3])
