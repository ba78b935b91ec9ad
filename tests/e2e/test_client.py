"""The Python client and the local server, in one process as in a notebook."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

import lmaas
from lmaas.client import AsyncClient, connect
from lmaas.errors import InvalidInput, ModelNotFound, Unauthorized, Unavailable


def test_publish_and_predict_sync_and_async(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3), torch.nn.Softmax(1))
    x = torch.rand(5, 4, 4)
    with lmaas.local(tmp_path) as client:
        published = lmaas.publish(
            model,
            name="tiny",
            task="image-classification",
            labels=["a", "b", "c"],
            sample=x,
            home=tmp_path,
        )
        assert published.manifest.signature.outputs_are == "probabilities"
        assert client.models() == ["tiny"]
        pixels = (x[0].numpy() * 255).astype(np.uint8)
        with torch.no_grad():
            want = model(torch.tensor(pixels / 255, dtype=torch.float32)[None]).numpy()
        labels = client.predict("tiny", pixels)
        assert labels[0].label == "abc"[want.argmax()]
        assert labels[0].score == pytest.approx(want.max(), abs=1e-4)
        assert client.predict("tiny", pixels / 255, top_k=1)[0].label == labels[0].label
        got = client.predict("tiny", {"input": (pixels[None] / 255).astype(np.float32)})
        np.testing.assert_allclose(got["output_0"], want, atol=1e-4)
        assert [worker.model for worker in client.ps()] == ["tiny:1"]

        async def ask() -> list[str]:
            async with AsyncClient(client.url, client.key) as other:
                answers = await asyncio.gather(*(other.predict("tiny", pixels) for _ in range(5)))
            return [answer[0].label for answer in answers]

        assert asyncio.run(ask()) == [labels[0].label] * 5
        with pytest.raises(ModelNotFound, match="tiny"):
            client.predict("tinny", pixels)
        with pytest.raises(InvalidInput, match="top_k"):
            client.predict("tiny", pixels / 255, top_k=0)
        with connect(client.url, "wrong") as stranger, pytest.raises(Unauthorized):
            stranger.models()
    with connect(client.url, client.key) as late, pytest.raises(Unavailable, match="lmaas serve"):
        late.models()
