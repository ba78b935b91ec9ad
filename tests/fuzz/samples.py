"""Good inputs of each target, from which the fuzzers start, and words that they may put in."""

import gzip
import io
import json
import struct
import zlib
from typing import Any, Final

import msgspec
from PIL import Image

import sounds
from checkpoints import CHATML
from lmaas.accounts.journal import Begun, line_of
from lmaas.runtime.language.template import Rendering
from lmaas.runtime.messages import Cancel, Stop, encode
from speech_checkpoint import spm_char


def images() -> list[bytes]:
    """Small files of every format that is read, and modes that need care."""
    found = []
    for format_, mode in (
        ("PNG", "RGBA"), ("PNG", "I;16"), ("PNG", "P"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
        ("WEBP", "RGB"), ("BMP", "L"), ("GIF", "P"), ("TIFF", "F"), ("TIFF", "1"),
    ):  # fmt: skip
        file = io.BytesIO()
        Image.new(mode, (13, 11)).save(file, format_)
        found.append(file.getvalue())
    return found


def tensors() -> list[bytes]:
    """Bodies of the Open Inference Protocol, with and without a binary part."""
    told: dict[str, Any] = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
            {"name": "n", "datatype": "INT8", "shape": [1, 2], "data": [[1, 9]]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    plain = json.dumps(told).encode()
    told["inputs"][0] |= {"data": None, "parameters": {"binary_data_size": 16}}
    told["inputs"][2] |= {"data": None, "parameters": {"binary_data_size": 5}}
    head = json.dumps(told).encode()
    parts = struct.pack("<4fI", 1, 2, 3, 4, 1) + b"a"
    return [
        len(plain).to_bytes(2, "little") + plain,
        len(head).to_bytes(2, "little") + head + parts,
    ]


def schemas() -> list[bytes]:
    """Schemas that use what is kept."""
    return [
        json.dumps(schema).encode()
        for schema in (
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": -3},
             "ü": {"enum": ["x", 1, None]}}, "required": ["a"], "additionalProperties": False},
            {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 3,
             "$defs": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}},
            {"type": "string", "pattern": "^[a-f]{2,4}$", "minLength": 1, "maxLength": 9},
            {"type": "string", "format": "date-time"},
            {"oneOf": [{"const": 1.5}, {"type": ["string", "boolean"]}]},
            {"type": "object", "additionalProperties": {"type": "number", "multipleOf": 1}},
            {"prefixItems": [{"type": "number"}], "items": False},
        )
    ]  # fmt: skip


def bodies() -> list[bytes]:
    """Requests of several protocols."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    user = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    return [
        json.dumps(body).encode()
        for body in (
            {"model": "m", "messages": [user, {"role": "assistant", "tool_calls": [call]}],
             "tools": [tool], "max_tokens": 3, "stream": True, "stop": ["a"], "seed": 1,
             "response_format": {"type": "json_object"}, "logit_bias": {"1": 2}},
            {"model": "m", "max_tokens": 3, "messages": [user], "system": [{"type": "text",
             "text": "a"}], "thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"model": "m", "input": [{"role": "user", "content": "a"}], "text": {"format":
             {"type": "json_schema", "name": "a", "schema": {}}}},
            {"model": "m", "prompt": [[1, 2], [3]], "echo": True, "logprobs": 1},
            {"inputs": {"data": {"a": [1, "b", None]}}, "parameters": {"top_k": 1}},
            {"recipe": {"task": "tabular", "epochs": "auto", "data": {"train": "file-1"}}},
            {"model": "m", "messages": [], "options": {"num_predict": 1}, "format": "json"},
        )
    ]  # fmt: skip


def conversations() -> list[bytes]:
    """Templates, NUL, and what is rendered with them."""
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "call_1", "name": "f", "arguments": '{"a": [1]}'}]},
        {"role": "tool", "content": "2", "tool_call_id": "call_1"},
    ]  # fmt: skip
    asked = msgspec.msgpack.encode(Rendering(turns, [{"type": "function"}], {"x": 1}, True))
    sources = (
        "", "{{ messages|tojson(indent=2) }}", "{{ messages[0]['content'].split('a')[-1] }}",
        "{%- for m in messages %}{{ m.role ~ '\n' ~ m.content|trim }}{%- endfor %}", CHATML,
        "{% if tools is none %}{{ raise_exception('no') }}{% endif %}{{ strftime_now('%Y') }}",
        "{% set ns = namespace(a=1) %}{% generation %}{{ ns.a + 1 }}{% endgeneration %}",
        "{% macro f(x, y=2) %}{{ x * y }}{% endmacro %}{{ f('a') }}{{ '%s' % x }}",
    )  # fmt: skip
    return [source.encode() + b"\0" + asked for source in sources]


def accounts() -> list[bytes]:
    """A spool, and slots of what was delivered."""
    begun = line_of(Begun("req-1", "t", "k", "m:1", "chat", 1.5))
    row = b'["req-1","t","k","m",1,"chat",1,1.5,2.0,3,4,0,0,5,"ok",null]\n'
    slot = struct.pack("<5q", 3, 4, 1, 2, 3) + b"req-2".ljust(88, b"\0")
    place = b'["t","k","m:1","chat",1.5]\n'
    return [
        begun + row,
        begun,
        slot * 3,
        struct.pack("<5q", 3, 1, 1, 1, 9) + place.ljust(472, b"\0"),
    ]


SAMPLES: Final[dict[str, list[bytes]]] = {
    "image": images(),
    "sound": list(sounds.files(0.1).values()),
    "json": [b'{"inputs": [[1, 2.5], [3, 4]], "parameters": {"a": 1}}', b'{"inputs": [true, 255]}'],
    "pixels": [b'{"inputs": [[0, 255], [3, 4]]}', b'{"inputs": [[[1, 2, 3]]]}'],
    "tensors": tensors(),
    "texts": [struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0)],
    "bodies": bodies(),
    "frames": [encode(Cancel(id=3)) + encode(Stop(deadline_s=1.0))],
    "schema": schemas(),
    "pattern": [b"^(?:[a-z\\d]{2,3}|\\u00e9+?)*$", b"[^\"\\\\]\\x41\\p{L}", b"(?<n>a)\\cA.$"],
    "numbers": [b"1 20", b"(-1.5 1e3)", b"0 ", b" (7"],
    "template": conversations(),
    "answer": [
        b"\x07<think>a</think>b",
        b'\x04x<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>END',
        b'\x0c<tool_call>{"name": "f", "arguments": {}}</tool_call>{"a": 1}',
    ],
    "connection": [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        b"POST / HTTP/1.0\r\nContent-Encoding: gzip\r\nContent-Length: 30\r\n\r\n"
        + gzip.compress(b"a", mtime=0),
        b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
    "websocket": [
        b"\x81\x85\x00\x00\x00\x00hello\x89\x80abcd\x88\x82\x00\x00\x00\x00\x03\xe8",
        b"\x01\x83\x01\x02\x03\x04`ca\x00\x80\x00\x00\x00\x00\x80\x82\x00\x00\x00\x00\xc3\xa9",
        b"\x82\xfe\x00\x80\x00\x00\x00\x00" + bytes(128),
    ],
    "realtime": [
        b'{"type": "session.update", "session": {"type": "transcription", "audio": {"input": '
        b'{"transcription": {"model": "a"}, "turn_detection": null, "format": '
        b'{"type": "audio/pcmu"}}}, "include": []}}\n{"type": "input_audio_buffer.commit"}',
        b'{"type": "input_audio_buffer.append", "audio": "AAA=", "event_id": "e"}',
    ],
    "pieces": [spm_char()],
    "compressed": [gzip.compress(b"a" * 500, mtime=0), zlib.compress(b"b" * 200_000)],
    "events": ["a\u2028b\u2029\x85\r\n".encode()],
    "accounts": accounts(),
}  # fmt: skip
WORDS: Final = [
    b"\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"-1", b"1e999", b"NaN", b"9" * 30, b"null",
    b"[[[[", b'{"a":', b"\\ud800", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"$ref", b"#/", b"{0,99999}",
    b"(?=a)", b"</tool_call>", b"<tool_call>", b"</think>", b"END", b"\r\n", b"\r\n\r\n", b"0\r\n",
    b"Content-Length: 18446744073709551616\r\n", b"{{", b"}}", b"{%", b"%}",
    b"|tojson", b".__class__", b"moov", b"dref", b"url ", b"fLaC", b"OggS", b"data",
]  # fmt: skip
