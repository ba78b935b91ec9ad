// The `openai` package for JavaScript: chat whole and streamed, formats, tools, responses, models.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
const messages = [{ role: "user", content: "hello world" }];
const asked = { model: "tiny", messages, max_tokens: 8, temperature: 0 };

const whole = await client.chat.completions.create(asked);
let text = "";
for await (const piece of await client.chat.completions.create({ ...asked, stream: true })) {
  text += piece.choices[0]?.delta?.content ?? "";
}
assert.equal(text, whole.choices[0].message.content);

const schema = {
  type: "object",
  properties: { city: { enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const formed = await client.chat.completions.create({
  model: "tiny",
  messages,
  seed: 1,
  response_format: { type: "json_schema", json_schema: { name: "city", schema, strict: true } },
});
assert.ok(["Paris", "Rome"].includes(JSON.parse(formed.choices[0].message.content).city));

const called = await client.chat.completions.create({
  model: "tiny",
  messages,
  seed: 1,
  tool_choice: "required",
  tools: [{ type: "function", function: { name: "visit", parameters: schema } }],
});
assert.equal(called.choices[0].message.tool_calls[0].function.name, "visit");

const answer = await client.responses.create({ model: "tiny", input: "hello", max_output_tokens: 8 });
assert.equal(answer.object, "response");
const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert.ok(names.includes("tiny"));
await assert.rejects(client.chat.completions.create({ ...asked, model: "nobody" }), { status: 404 });
