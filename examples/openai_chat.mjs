// OpenAI's own client for Node: an answer and a stream.
//
//     npm install openai
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sg-… node openai_chat.mjs
import OpenAI from "openai";

const client = new OpenAI();

const { data, response } = await client.chat.completions
  .create({ model: "auto", messages: [{ role: "user", content: "Name three rivers." }], max_tokens: 60 })
  .withResponse();
console.log("answer:", data.choices[0].message.content);
console.log("by:", response.headers.get("x-sparkgate-target"), "as", response.headers.get("x-sparkgate-shape"));

const stream = await client.chat.completions.create({
  model: "auto",
  messages: [{ role: "user", content: "Name three lakes." }],
  max_tokens: 60,
  stream: true,
});
process.stdout.write("stream: ");
for await (const event of stream) process.stdout.write(event.choices[0]?.delta?.content ?? "");
console.log();
