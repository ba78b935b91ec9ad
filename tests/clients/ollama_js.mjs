// The `ollama` package for JavaScript: chat whole and streamed, generate, formats, models.
import assert from "node:assert/strict";
import { Ollama } from "ollama";

const [url, key] = process.argv.slice(2);
const client = new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
const messages = [{ role: "user", content: "hello world" }];
const options = { temperature: 0, num_predict: 8 };

const whole = await client.chat({ model: "tiny", messages, options });
let text = "";
let last;
for await (const piece of await client.chat({ model: "tiny", messages, options, stream: true })) {
  text += piece.message.content;
  last = piece;
}
assert.equal(text, whole.message.content);
assert.equal(last.eval_count, 8);
assert.ok((await client.generate({ model: "tiny", prompt: "hello", options })).response);

const format = {
  type: "object",
  properties: { city: { enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const formed = await client.chat({ model: "tiny", messages, format, options: { seed: 1 } });
assert.ok(["Paris", "Rome"].includes(JSON.parse(formed.message.content).city));
const names = (await client.list()).models.map((model) => model.name);
assert.ok(names.includes("tiny:latest"));
assert.ok((await client.show({ model: "tiny" })).capabilities.includes("completion"));
assert.ok((await client.ps()).models.length > 0);
await assert.rejects(client.chat({ model: "nobody", messages }), { status_code: 404 });
