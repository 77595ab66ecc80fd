"""Coverage-guided fuzzing of what strangers' bytes reach first: `python -m tests.fuzzing.targets TARGET CORPUS [options]`.

A target takes bytes and lets only the typed errors of its module pass in silence; anything else is a finding.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["blackbox_ti", "server_stub", "PIL"]):
    import numpy as np
    from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401
    from pydantic import ValidationError

    from blackbox_ti.concept import decode_image
    from blackbox_ti.errors import BlackboxTIError, ImageError, ProtocolError, WireError
    from blackbox_ti.problems import error_from, is_retryable, parse_problem
    from blackbox_ti.replies import decode_png, parse_record
    from blackbox_ti.wire import (
        Limits,
        LossReply,
        LossRequest,
        ModelCard,
        ProblemCode,
        ReceiptsReply,
        Tensor,
        decode_tensor,
        encode_tensor,
    )
    from server_stub.bodies import parse
    from server_stub.concepts import decode_picture
    from server_stub.problems import ProblemError

__all__ = ["TARGETS", "main", "seeds"]

_MAX_BYTES: Final = 1 << 16
_PIXELS: Final = 4096
_LIMITS: Final = Limits(max_image_bytes=_MAX_BYTES, max_image_pixels=_PIXELS)


def tensor(data: bytes) -> None:
    """Fields as JSON has them, then as a sender that knows the schema would fill them."""
    with contextlib.suppress(ValidationError, WireError):
        decode_tensor(Tensor.model_validate_json(data), max_bytes=_MAX_BYTES)
    provider = atheris.FuzzedDataProvider(data)
    shape = [provider.ConsumeIntInRange(0, 5) for _ in range(provider.ConsumeIntInRange(0, 4))]
    dtype = provider.PickValueInList(["float32", "float16"])
    coded = provider.ConsumeBool()
    raw = provider.ConsumeBytes(_MAX_BYTES)
    text = base64.b64encode(raw).decode() if coded else raw.decode("latin-1")
    try:
        array = decode_tensor(Tensor(dtype=dtype, shape=shape, data=text), max_bytes=_MAX_BYTES)
    except WireError:
        return
    assert array.shape == tuple(shape)
    assert array.dtype == np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        again = decode_tensor(encode_tensor(array, dtype), max_bytes=_MAX_BYTES)
    assert np.array_equal(array, again, equal_nan=True)


def picture(data: bytes) -> None:
    """The server's intake, the client's reading of the user's files, and its reading of a host's pictures."""
    decoders: list[Callable[[], Image.Image]] = [
        lambda: decode_picture(data, resolution=16, max_bytes=_MAX_BYTES, max_pixels=_PIXELS),
        lambda: decode_image(data, "it", max_pixels=_PIXELS),
        lambda: decode_png(base64.b64encode(data).decode(), (8, 8), _LIMITS),
    ]
    for decode in decoders:
        try:
            found = decode()
        except (ImageError, ProtocolError):
            continue
        assert found.mode == "RGB"
        assert not found.info
        assert not found.getexif()


def problem(data: bytes) -> None:
    """A host's refusal, whatever it is, is one of our errors in one printable line."""
    provider = atheris.FuzzedDataProvider(data)
    status = provider.ConsumeIntInRange(300, 599)
    fields: dict[str, object] = {"status": status}
    for name in ("type", "title", "detail", "code", "retryable", "request_id", "status"):
        pick = provider.ConsumeIntInRange(0, 5)
        if pick == 0:
            fields[name] = provider.ConsumeUnicode(600)
        elif pick == 1:
            fields[name] = provider.PickValueInList([*ProblemCode, None, True, [], {}])
        elif pick == 2:
            fields[name] = provider.ConsumeInt(8)
    body = provider.ConsumeBytes(_MAX_BYTES) if provider.ConsumeBool() else json.dumps(fields).encode()
    found = parse_problem(status, body)
    error = error_from(status, found)
    assert isinstance(error, BlackboxTIError)
    assert str(error).isprintable()
    assert isinstance(is_retryable(status, found), bool)


def record(data: bytes) -> None:
    """Bodies of requests as the server parses them, and of replies as the client does."""
    with contextlib.suppress(ProblemError):
        parse(LossRequest, data, max_depth=16)
    for kind in (LossReply, ModelCard, ReceiptsReply):
        with contextlib.suppress(ProtocolError):
            parse_record(kind, data)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {t.__name__: t for t in (tensor, picture, problem, record)}


def seeds(target: str) -> list[bytes]:
    """Return valid inputs to start from."""
    if target == "picture":
        return [_file(kind, mode) for kind in ("PNG", "JPEG", "WEBP") for mode in ("RGB", "L")] + [_file("PNG", "RGBA")]
    values = encode_tensor(np.ones((1, 1, 2), dtype=np.float32)).model_dump_json()
    sample = '{"image":0,"prompt":0,"t":0.5,"seed":1}'
    loss = f'{{"concept":"c","placeholder_token":"<s>","embeddings":{{"e":{values}}},"prompts":["p"],"samples":[{sample}]}}'
    return {
        "tensor": [values.encode()],
        "problem": [b"", bytes(range(64)), b"\x01" * 64],
        "record": [loss.encode()],
    }[target]


def _file(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new(mode, (8, 8)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def main() -> None:
    """Put seeds into the folder CORPUS and fuzz the target; options are libFuzzer's."""
    target = sys.argv.pop(1)
    corpus = Path(sys.argv[1])
    corpus.mkdir(exist_ok=True)
    for i, seed in enumerate(seeds(target)):
        (corpus / f"seed{i}").write_bytes(seed)
    atheris.Setup(sys.argv, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
