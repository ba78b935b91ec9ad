"""faster-whisper behind FastAPI, as thin as it goes. Arguments: model folder, type, port."""

import io
import os
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, Form
from faster_whisper import BatchedInferencePipeline, WhisperModel


def create_app(folder: str, compute_type: str) -> FastAPI:
    """One model for all callers; CTranslate2 runs as many at once as it has workers."""
    cores = os.cpu_count() or 1
    model = WhisperModel(folder, device="cpu", compute_type=compute_type, cpu_threads=cores)
    batched = BatchedInferencePipeline(model)
    app = FastAPI()

    @app.post("/v1/audio/transcriptions")
    def transcribe(
        file: Annotated[bytes, File()], batch: Annotated[int, Form()] = 0
    ) -> dict[str, Any]:
        if batch:
            segments, _ = batched.transcribe(io.BytesIO(file), beam_size=1, batch_size=batch)
        else:
            segments, _ = model.transcribe(io.BytesIO(file), beam_size=1)
        return {"text": "".join(segment.text for segment in segments).strip()}

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1], sys.argv[2]), port=int(sys.argv[3]), log_level="warning")
