// Calls the gateway at BASE_URL with KEY through the official Node clients; prints what they understood as one JSON line.
// In: the names of scenarios by model, as JSON. Out: their results, {model: {scenario: result}}.
import Anthropic from "@anthropic-ai/sdk";
import { jsonSchemaOutputFormat } from "@anthropic-ai/sdk/helpers/json-schema";
import OpenAI from "openai";

const { BASE_URL, KEY } = process.env;
const wanted = JSON.parse(process.argv[2]);
const openaiWith = (options) => new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: KEY, maxRetries: 0, ...options });
const anthropicWith = (options) => new Anthropic({ baseURL: BASE_URL, apiKey: KEY, maxRetries: 0, ...options });
const openai = openaiWith(), anthropic = anthropicWith();
const ask = (content) => [{ role: "user", content }];
const messages = ask("Count to five.");
const few = { max_tokens: 12, temperature: 0 }, more = { max_tokens: 60, temperature: 0 };
const city = { enum: ["Paris", "Rome"] };
const place = { type: "object", properties: { city }, required: ["city"], additionalProperties: false };
const weather = { ...place, properties: { city, degrees: { enum: [21, 30] } }, required: ["city", "degrees"] };
const strict = { name: "weather", strict: true };

async function gathered(stream, take) {
  const taken = [];
  for await (const event of await stream) taken.push(take(event));
  return taken;
}

// What became of a call that is to fail, by the client's own class of error.
async function refused(call) {
  try {
    return { answer: await call };
  } catch (error) {
    const { status, code, type, message } = error;
    return { kind: error.constructor.name, status, code, type, message };
  }
}

const scenarios = {
  async chat(model) {
    const asked = { model, messages, ...few };
    const whole = await openai.chat.completions.create(asked);
    const stream = openai.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
    const chunks = await gathered(stream, (chunk) => [chunk.choices[0]?.delta?.content ?? "", chunk.usage]);
    const text = chunks.map(([piece]) => piece).join("");
    return { whole: whole.choices[0].message.content, usage: whole.usage, text, streamUsage: chunks.at(-1)[1] };
  },

  async responses(model) {
    const asked = { model, input: messages[0].content, max_output_tokens: 12, temperature: 0 };
    const whole = await openai.responses.create(asked);
    const events = await gathered(openai.responses.create({ ...asked, stream: true }), (event) => event);
    const deltas = events.filter(({ type }) => type === "response.output_text.delta").map(({ delta }) => delta);
    return { whole: whole.output_text, usage: whole.usage, text: deltas.join(""), end: events.at(-1).type };
  },

  async messages(model) {
    const asked = { model, messages, ...few };
    const whole = await anthropic.messages.create(asked);
    const streamed = await anthropic.messages.stream(asked).finalMessage();
    const counted = await anthropic.messages.countTokens({ model, messages });
    const [text, streamedText] = [whole, streamed].map(({ content }) => content[0].text);
    return { whole: text, usage: whole.usage, text: streamedText, end: streamed.stop_reason, counted };
  },

  async embeddings(model) {
    const input = ["one", "two"];
    const [packed, plain] = await Promise.all([
      refused(openai.embeddings.create({ model, input })), // by default the client asks for base64
      refused(openai.embeddings.create({ model, input, encoding_format: "float" })),
    ]);
    return [packed, plain].map(({ answer, ...error }) => answer?.data.map(({ embedding }) => embedding) ?? error);
  },

  // Each API: the call, whole and streamed; then the answer to its result, whole and streamed.
  async tools(model) {
    const tool = { type: "function", function: { name: "weather", parameters: place } };
    const asked = { model, messages, tools: [tool], tool_choice: "required", parallel_tool_calls: false, ...more };
    const called = [
      await openai.chat.completions.create(asked),
      await openai.chat.completions.stream(asked).finalChatCompletion(),
    ].map(({ choices }) => choices[0]);
    const [call] = called[1].message.tool_calls;
    const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
    const then = { ...asked, tool_choice: "none", messages: [...messages, called[1].message, result], ...few };
    const answered = [
      await openai.chat.completions.create(then),
      await openai.chat.completions.stream(then).finalChatCompletion(),
    ];
    const chat = {
      calls: called.map(({ message }) => message.tool_calls.map((c) => [c.function.name, JSON.parse(c.function.arguments)])),
      ends: called.map(({ finish_reason }) => finish_reason),
      answers: answered.map(({ choices }) => choices[0].message.content),
    };
    return { chat, messages: await messagesTools(model), responses: await responsesTools(model) };
  },

  async parsed(model) {
    const response_format = { type: "json_schema", json_schema: { ...strict, schema: weather } };
    const format = { type: "json_schema", ...strict, schema: weather };
    const asked = { model, messages, response_format, ...more };
    const streamed = await openai.chat.completions.stream(asked).finalChatCompletion();
    const limits = { max_output_tokens: 60, temperature: 0 };
    const output_config = { format: jsonSchemaOutputFormat(weather) };
    return [
      (await openai.chat.completions.parse(asked)).choices[0].message.parsed,
      streamed.choices[0].message.parsed,
      (await openai.responses.parse({ model, input: "hi", text: { format }, ...limits })).output_parsed,
      (await anthropic.messages.parse({ model, messages, output_config, ...more })).parsed_output,
    ];
  },

  // The upstream does as it is told.
  async errors(model) {
    const failures = {};
    for (const status of [400, 401, 404, 429, 500]) {
      const told = ask(`fail ${status}`);
      failures[status] = await Promise.all([
        refused(openai.chat.completions.create({ model, messages: told })),
        refused(openai.responses.create({ model, input: told, stream: true })),
        refused(anthropic.messages.create({ model, messages: told, max_tokens: 5 })),
      ]);
    }
    const apiKey = "sg-wrong";
    const ours = await Promise.all([
      refused(openai.chat.completions.create({ model, messages: [] })),
      refused(openaiWith({ apiKey }).responses.create({ model, input: "hi" })),
      refused(openai.chat.completions.create({ model: "nobody", messages })),
      refused(anthropic.messages.create({ model, max_tokens: 5, messages: "hello" })),
      refused(anthropicWith({ apiKey }).messages.create({ model, max_tokens: 5, messages })),
      refused(anthropic.messages.create({ model: "nobody", max_tokens: 5, messages })),
    ]);
    const asked = { model, messages: ask("break off"), stream: true };
    const broken = await refused(gathered(openai.chat.completions.create(asked), (chunk) => chunk));
    return { failures, ours, broken };
  },

  // Refused once with a Retry-After, then answered.
  async retries(model) {
    const o = openaiWith({ maxRetries: 1 }), a = anthropicWith({ maxRetries: 1 });
    const told = (name) => ask(`first ${name} ${model}`);
    const stream = () => o.chat.completions.create({ model, messages: told("503 streamed"), stream: true });
    return Promise.all([
      o.chat.completions.create({ model, messages: told("429 chat") }).then(({ choices }) => choices[0].message.content),
      gathered(stream(), ({ choices }) => choices[0]?.delta?.content ?? "").then((texts) => texts.join("")),
      o.responses.create({ model, input: told("429 response") }).then(({ output_text }) => output_text),
      a.messages.create({ model, messages: told("529 message"), max_tokens: 5 }).then(({ content }) => content[0].text),
    ]);
  },

  // Calls that the client gives up before the answer, and a stream that it leaves after its first text.
  async timeouts(model) {
    const late = { timeout: 300 }, told = ask("hang");
    const given = await Promise.all([
      refused(openaiWith(late).chat.completions.create({ model, messages: told })),
      refused(openaiWith(late).responses.create({ model, input: told, stream: true })),
      refused(anthropicWith(late).messages.create({ model, messages: told, max_tokens: 5 })),
    ]);
    const stream = await openai.chat.completions.create({ model, messages: ask("pause"), stream: true });
    for await (const { choices } of stream) if (choices[0]?.delta?.content) break; // which aborts the request
    return given.map(({ kind }) => kind);
  },
};

async function messagesTools(model) {
  const tool = { name: "weather", input_schema: place };
  const asked = { model, messages, tools: [tool], tool_choice: { type: "any", disable_parallel_tool_use: true }, ...more };
  const called = [await anthropic.messages.create(asked), await anthropic.messages.stream(asked).finalMessage()];
  const uses = called.map(({ content }) => content.filter(({ type }) => type === "tool_use"));
  const result = { type: "tool_result", tool_use_id: uses[1][0].id, content: "sunny" };
  const history = [...messages, { role: "assistant", content: called[1].content }, { role: "user", content: [result] }];
  const then = { ...asked, tool_choice: { type: "none" }, messages: history, ...few };
  const answered = [await anthropic.messages.create(then), await anthropic.messages.stream(then).finalMessage()];
  return {
    calls: uses.map((blocks) => blocks.map(({ name, input }) => [name, input])),
    ends: called.map(({ stop_reason }) => stop_reason),
    answers: answered.map(({ content }) => content.find(({ type }) => type === "text")?.text),
  };
}

async function responsesTools(model) {
  const tool = { type: "function", parameters: place, ...strict };
  const limits = { max_output_tokens: 60, temperature: 0 };
  const asked = { model, input: messages, tools: [tool], tool_choice: "required", parallel_tool_calls: false, ...limits };
  const called = [await openai.responses.create(asked), await openai.responses.stream(asked).finalResponse()];
  const calls = called.map(({ output }) => output.filter(({ type }) => type === "function_call"));
  const [call] = calls[1];
  const result = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
  const then = { ...asked, tool_choice: "none", input: [...messages, ...called[1].output, result], max_output_tokens: 12 };
  const answered = [await openai.responses.create(then), await openai.responses.stream(then).finalResponse()];
  return {
    calls: calls.map((items) => items.map((item) => [item.name, JSON.parse(item.arguments)])),
    ends: called.map(({ status }) => status),
    answers: answered.map(({ output_text }) => output_text),
  };
}

const said = {};
for (const [model, names] of Object.entries(wanted)) {
  said[model] = {};
  for (const name of names) said[model][name] = await scenarios[name](model);
}
console.log(JSON.stringify(said));
