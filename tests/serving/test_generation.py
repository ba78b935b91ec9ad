"""A generation that is over at once still gives all that it brought."""

import asyncio

from lmaas.generation_types import Delta, Ended, Usage
from lmaas.serving.generation import Answered, Generation, Receiver
from lmaas.serving.metrics import Metrics
from lmaas.types import Manifest, ModelVersion, ParityReport, Signature

VERSION = ModelVersion(
    tenant="t",
    name="m",
    version=1,
    manifest=Manifest(
        name="m",
        task="text-generation",
        framework="pytorch",
        signature=Signature(inputs=(), outputs=()),
        num_parameters=0,
        framework_version="",
    ),
    parity=ParityReport(tolerance={}, checks=()),
    files=(),
    created_at=0.0,
)
ENDED = Ended(Usage(3, 1), (Delta(0, "hi", 1, "stop"),))


def test_an_answer_that_comes_with_its_first_token_is_whole() -> None:
    async def once(pauses: int) -> None:
        settled: list[object] = []
        generation = Generation(
            VERSION, lambda *told: settled.append(told), Metrics(), lambda *_: None
        )
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

        async def run(receiver: Receiver) -> Answered:
            await asyncio.sleep(0)
            receiver.began(3)
            ended.set_result(ENDED)
            for _ in range(pauses):
                await asyncio.sleep(0)
            return Answered(VERSION, "", await ended)

        await generation.start(run)
        assert [delta async for delta in generation] == list(ENDED.deltas)
        assert generation.usage == ENDED.usage
        assert settled == [(ENDED.usage, "ok", None)]

    for pauses in range(5):
        asyncio.run(once(pauses))
