// Hugging Face's client for JavaScript: chat, text generation, and the classes of an image.
import assert from "node:assert/strict";
import { deflateSync } from "node:zlib";
import { InferenceClient } from "@huggingface/inference";

const [url, key] = process.argv.slice(2);
const client = new InferenceClient(key);

const generated = await client.textGeneration({
  endpointUrl: url,
  model: "tiny",
  inputs: "hello",
  parameters: { max_new_tokens: 8 },
});
assert.equal(typeof generated.generated_text, "string");
const chat = await client.chatCompletion({
  endpointUrl: url,
  model: "tiny",
  messages: [{ role: "user", content: "hello world" }],
  max_tokens: 8,
});
assert.equal(chat.choices[0].message.role, "assistant");

// An image of 28 x 28 gray pixels, as a PNG.
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
function chunk(kind, data) {
  const body = Buffer.concat([Buffer.from(kind), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc32(body), body.length + 4);
  return out;
}
const head = Buffer.from([0, 0, 0, 28, 0, 0, 0, 28, 8, 0, 0, 0, 0]);
const png = Buffer.concat([
  Buffer.from("89504e470d0a1a0a", "hex"),
  chunk("IHDR", head),
  chunk("IDAT", deflateSync(Buffer.alloc(28 * 29, 0))),
  chunk("IEND", Buffer.alloc(0)),
]);
const classes = await client.imageClassification({
  endpointUrl: `${url}/models/digits`,
  data: new Blob([png]),
});
assert.ok(classes.length > 0 && typeof classes[0].label === "string");
