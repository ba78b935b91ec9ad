"""Several generations as one: the prompts of one request, run side by side."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from lmaas.generation_types import Delta, GenerateRequest, Usage
from lmaas.http import sse
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.serving.generation import Generation


class Merged:
    """Generations of `choices` answers each; choice `i` of generation `k` is `k * choices + i`."""

    def __init__(self, generations: Sequence[Generation], choices: int) -> None:
        self.generations = generations
        self._choices = choices

    @property
    def version(self) -> str:
        """The exact version that answers."""
        return self.generations[0].version.ref

    @property
    def usage(self) -> Usage:
        """What all used together."""
        used = [generation.usage for generation in self.generations]
        return Usage(
            sum(usage.prompt for usage in used),
            sum(usage.completion for usage in used),
            sum(usage.reasoning for usage in used),
            sum(usage.cached for usage in used),
        )

    def close(self) -> None:
        """Stop whatever still runs."""
        for generation in self.generations:
            generation.close()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The deltas of all, as they come; the first error of any ends all."""
        if len(self.generations) == 1:
            async for delta in self.generations[0]:
                yield delta
            return
        queue: asyncio.Queue[Delta | None] = asyncio.Queue()

        async def pump(first: int, generation: Generation) -> None:
            try:
                async for delta in generation:
                    queue.put_nowait(msgspec.structs.replace(delta, index=first + delta.index))
            finally:
                queue.put_nowait(None)

        tasks = [
            asyncio.ensure_future(pump(number * self._choices, generation))
            for number, generation in enumerate(self.generations)
        ]
        try:
            running = len(tasks)
            while running:
                item = await queue.get()
                if item is not None:
                    yield item
                    continue
                running -= 1
                for task in tasks:
                    if task.done():
                        task.result()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.close()


async def begin(
    service: Service,
    exchange: Exchange,
    ref: str,
    requests: Sequence[GenerateRequest],
    endpoint: str,
    cache: bool | None,
) -> Merged:
    """Start several requests alike but for their prompts; if one is refused, all are stopped."""
    assert exchange.key is not None
    tasks = [
        asyncio.ensure_future(
            service.calls.generate(
                exchange.key,
                ref,
                request,
                endpoint=endpoint,
                request_id=f"{exchange.id}-{number}" if number else exchange.id,
                cache=cache,
            )
        )
        for number, request in enumerate(requests)
    ]
    try:
        generations = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for begun in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(begun, Generation):
                begun.close()
        raise
    sse.name(exchange, generations[-1])
    return Merged(generations, requests[0].choices)
