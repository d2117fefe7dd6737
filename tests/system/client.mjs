// Calls the gateway at BASE_URL with KEY through the official Node clients; prints what they understood as one JSON line.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const { BASE_URL, KEY } = process.env;
const openai = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: KEY, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: BASE_URL, apiKey: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "Count to five." }];
const said = { chat: [], responses: [], messages: [], errors: [] };

async function refused(call) {
  try {
    await call;
  } catch (error) {
    return { status: error.status, kind: error.constructor.name };
  }
}

for (const model of ["auto", "auto/code_generation"]) {
  const asked = { model, messages, max_tokens: 12, temperature: 0 };
  const whole = await openai.chat.completions.create(asked);
  const stream = await openai.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  let text = "", streamUsage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    streamUsage = chunk.usage ?? streamUsage;
  }
  said.chat.push({ whole: whole.choices[0].message.content, usage: whole.usage, text, streamUsage });
}

const asked = { model: "engine", input: messages[0].content, max_output_tokens: 12, temperature: 0 };
const response = await openai.responses.create(asked);
let last = null, delta = "";
for await (const event of await openai.responses.create({ ...asked, stream: true })) {
  delta += event.type === "response.output_text.delta" ? event.delta : "";
  last = event;
}
said.responses.push(response.output_text, delta, last.type);

const wanted = { model: "engine", messages, max_tokens: 12, temperature: 0 };
const message = await anthropic.messages.create(wanted);
const streamed = await anthropic.messages.stream(wanted).finalMessage();
said.messages.push(message.stop_reason, streamed.stop_reason, streamed.usage.output_tokens);
said.counted = (await anthropic.messages.countTokens({ model: "engine", messages })).input_tokens;
said.models = [(await openai.models.list()).data.length, (await anthropic.models.list()).data.length];

said.errors.push(
  await refused(openai.chat.completions.create({ model: "auto", messages: [] })),
  await refused(anthropic.messages.create({ model: "auto", max_tokens: 5, messages: "hello" })),
);
console.log(JSON.stringify(said));
