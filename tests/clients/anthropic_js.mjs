// Anthropic's SDK for JavaScript: messages whole and streamed, tools, counting, models, errors.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const [url, key] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url, apiKey: key });
const messages = [{ role: "user", content: "hello world" }];
const asked = { model: "tiny", messages, max_tokens: 8, temperature: 0 };

const whole = await client.messages.create(asked);
assert.equal(whole.usage.output_tokens, 8);
const streamed = await client.messages.stream(asked).finalMessage();
assert.deepEqual(streamed.content, whole.content);

const schema = {
  type: "object",
  properties: { city: { enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const called = await client.messages.create({
  model: "tiny",
  messages,
  max_tokens: 64,
  tools: [{ name: "visit", input_schema: schema }],
  tool_choice: { type: "tool", name: "visit" },
});
assert.equal(called.content.at(-1).name, "visit");
assert.ok(["Paris", "Rome"].includes(called.content.at(-1).input.city));

assert.ok((await client.messages.countTokens({ model: "tiny", messages })).input_tokens > 0);
const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert.ok(names.includes("tiny"));
await assert.rejects(client.messages.create({ ...asked, model: "nobody" }), { status: 404 });
